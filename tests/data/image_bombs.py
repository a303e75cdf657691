"""Builds small files that declare large images or much work, and measures what decoding each of them costs.

    python tests/data/image_bombs.py
    PYTHONPATH=/path/to/another/checkout python tests/data/image_bombs.py

Prints for every file its size, and for conversion (`to_jpeg_or_png`, then `decoded_size`) and the served graph
(`decode_rows`) the time, the growth of the peak memory and the result. Each measurement is a separate process, which is
stopped after two minutes. `BOMBS` must be refused; `LARGEST` are the most expensive files that are accepted.
`REFUSED_IN_CONVERSION` are accepted by the served graph only.
"""

import argparse
import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
import peak_memory

from keras_arcface.data import encoded_images
from keras_arcface.serving.saved_model.decoding import decode_rows

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(height, width, *, first=b"", before=b"", depth=8, color=2, extra=0) -> bytes:
    """Returns a black PNG with chunks before IHDR and before the pixels, and `extra` MiB behind the last row."""
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[color] * depth // 8)
    compressor = zlib.compressobj(9)
    packed = [compressor.compress(part) for part in [row] * height + [bytes(2**20)] * extra]
    pixels = b"".join([*packed, compressor.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return SIGNATURE + first + header + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def texts(count: int, kind=b"zTXt") -> bytes:
    """Returns chunks of compressed text of 7 MB each."""
    return chunk(kind, b"k\0\0" + zlib.compress(bytes(7_000_000), 9)) * count


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(height, width, scans=0, components=1, before=b"", frame=0xC2) -> bytes:
    """Returns a gray progressive JPEG with scans that change nothing, apart from the first."""
    blocks = -(-height // 8) * -(-width // 8)
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    size = struct.pack(">BHHB", 8, height, width, components)
    header = segment(frame, size + b"".join(bytes([i + 1, 0x11, 0]) for i in range(components)))
    codes = bytes([1] + [0] * 15)  # one code, "0"
    tables += segment(0xC4, b"\x00" + codes + b"\0") + segment(0xC4, b"\x10" + codes + b"\xe0")
    names = b"".join(bytes([i + 1, 0]) for i in range(components))
    first = segment(0xDA, bytes([components]) + names + b"\0\0\0") + bytes(-(-blocks * components // 8))
    bits = ""
    while blocks >= 16384:  # a run of blocks without a coefficient is "0" and 14 bits
        run = min(blocks, 32767)
        bits += f"0{run - 16384:014b}"
        blocks -= run
    empty = int(bits or "0", 2).to_bytes(-(-len(bits) // 8) or 1, "big").replace(b"\xff", b"\xff\0")
    more = (segment(0xDA, bytes([1, 1 + i % components, 0, 1, 63, 16])) + empty for i in range(scans))
    return b"\xff\xd8" + before + b"".join([header, tables, first, *more]) + b"\xff\xd9"


def arithmetic_jpeg(height, width, scans, frame=0xCA, before=b"") -> bytes:
    """Returns a JPEG of three components with arithmetic codes and scans without data, which are decoded as zeros."""
    components = b"".join(bytes([i + 1, 0x11, 0]) for i in range(3))
    header = segment(0xDB, b"\0" + b"\1" * 64) + segment(frame, struct.pack(">BHHB", 8, height, width, 3) + components)
    all_scans = b"".join(segment(0xDA, b"\3\1\0\2\0\3\0\0\0" + bytes([16 * (i > 0)])) for i in range(scans))
    return b"\xff\xd8" + before + header + all_scans + b"\xff\xd9"


def refined_jpeg(side, scans) -> bytes:
    """Returns a gray progressive JPEG with scans that refine every coefficient by a random bit."""
    blocks, random = (side // 8) ** 2, np.random.default_rng(0)
    codes = segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0")  # "0"
    codes += segment(
        0xC4, b"\x10" + bytes([1, 1] + [0] * 14) + b"\x01\xe0"
    )  # "0" one coefficient, "10" a run of blocks
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8)
    signs = random.integers(0, 256, blocks * 126 // 8, np.uint8) & 0x55
    first += segment(0xDA, b"\1\1\0\1\x3f\1") + signs.tobytes()
    bits = []
    for start in range(0, blocks, 32767):
        run = min(blocks - start, 32767)
        if run >= 16384:
            head = np.frombuffer(f"10{run - 16384:014b}".encode(), np.uint8) - ord("0")
            bits += [head, random.integers(0, 2, run * 63, np.uint8)]
    more = segment(0xDA, b"\1\1\0\1\x3f\x10") + np.packbits(np.concatenate(bits)).tobytes().replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + codes + frame + first + more * (scans - 2) + b"\xff\xd9"


EXIF_6 = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6))


def hidden_frame(side: int) -> bytes:
    """Returns a JPEG in which a marker without a length precedes the frame, and a small frame follows it."""
    real = jpeg(side, side)[2:-2]
    return b"\xff\xd8\xff\xd0" + real[:2] + real[2:19] + segment(0xC2, struct.pack(">BHHB", 8, 8, 8, 1)) + real[19:]


def gif(screen, frame, data=b"", frames=1) -> bytes:
    """Returns a GIF with one size of the screen, and frames of another size."""
    blocks = b"".join(bytes([len(part)]) + part for part in (data[i : i + 255] for i in range(0, len(data), 255)))
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame[::-1], 0) + b"\x02" + blocks + b"\0"
    head = b"GIF89a" + struct.pack("<HHBBB", *screen[::-1], 0x91, 0, 0) + bytes(12)
    return head + image * frames + b";"


def lzw(pixels: int) -> bytes:
    """Returns the compressed data of black pixels. Every code repeats one pixel more than the code before it."""
    bits = []
    while pixels > 0:
        bits.append("001")  # clear code 4, lowest bit first
        size, length = 3, 1
        for code in [0, *range(6, 4095)]:
            bits.append(f"{code:0{size}b}"[::-1])
            pixels -= length
            if pixels <= 0:
                break
            size += code == (1 << size) - 1 and size < 12
            length += 1
            if length > pixels:  # the last run ends the frame
                last = 0 if pixels == 1 else 4 + pixels
                bits.append(f"{last:0{size}b}"[::-1])
                pixels = 0
                break
    text = "".join(bits) + f"{5:0{size}b}"[::-1]
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0"), bitorder="little").tobytes()


def bmp(height, width, *, header=40, bits=24, compression=0, rows=b"") -> bytes:
    size = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    start = 14 + header + 1024 * (bits == 8)
    return (b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + size).ljust(start, b"\0") + rows


def tiff(height, width, *tags, content=b"", tile=None) -> bytes:
    """Returns a gray TIFF file of one strip or one tile. `tags` are other tags `(number, type, count, value)`."""
    pixels = zlib.compress(bytes(1000)) + content
    strip = [(273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, len(pixels))]
    if tile is not None:
        strip = [(322, 4, 1, tile[1]), (323, 4, 1, tile[0]), (324, 4, 1, 8), (325, 4, 1, len(pixels))]
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), *strip, *tags]
    entries = list({tag[0]: tag for tag in entries}.values())
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def webp_canvas(height, width) -> bytes:
    """Returns a WebP file whose canvas is smaller than its image."""
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "WEBP", lossless=True)
    frame = file.getvalue()[12:]
    canvas = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 15, 0, 15, 0)
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(frame)) + b"WEBP" + canvas + frame


def webp_groups(side: int, bits: int) -> bytes:
    """Returns a lossless WebP file in which every block of `2**bits` pixels has its own group of Huffman codes."""
    blocks = (side >> bits) ** 2
    one = "1000"  # a code with one symbol, 0, which needs no bits
    # 256 codes of 8 bits: lengths of the code lengths, 1 for 8 and 2 for a run of zeros, and the code lengths.
    lengths = {8: 1, 18: 2, 0: 2}
    order = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)
    literals = "0" + f"{len(order) - 4:04b}"[::-1]
    literals += "".join(f"{lengths.get(length, 0):03b}"[::-1] for length in order) + "0" + "0" * 256
    green = literals + "11" + f"{24 - 11:07b}"[::-1]
    head = f"{side - 1:014b}"[::-1] * 2 + "0000" + "0" + "0" + "1" + f"{bits - 2:03b}"[::-1] + "0"
    numbers = np.arange(blocks, dtype=">u2").view(np.uint8).reshape(-1, 2)[:, ::-1]
    groups = np.concatenate([np.unpackbits(numbers.ravel()), np.tile(np.uint8([1, 0, 0, 0]), 5 * blocks)])
    text = (head + green + literals + one * 3).encode()
    stream = np.concatenate([np.frombuffer(text, np.uint8) - ord("0"), groups])
    data = b"\x2f" + np.packbits(stream, bitorder="little").tobytes() + bytes(64)
    data += bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def tiff_of_floats(side: int) -> bytes:
    """Returns a compressed TIFF file of three channels of 64 bits."""
    pixels = zlib.compress(bytes(side * side * 24), 9)
    end = struct.pack("<6H", 64, 64, 64, 3, 3, 3)
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, 8), (259, 3, 1, 8), (262, 3, 1, 2), (273, 4, 1, 20)]
    tags += [(277, 3, 1, 3), (278, 4, 1, side), (279, 4, 1, len(pixels)), (339, 3, 3, 14)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 20 + len(pixels)) + end + pixels + directory


SIDE = 20_000
BOMBS = {
    "GIF, second frame larger than screen": lambda: (
        gif((1, 1), (1, 1), lzw(1))[:-1] + gif((1, 1), (30_000, 30_000), lzw(30_000**2))[25:]
    ),
    "GIF, 20 frames": lambda: gif((4096, 4096), (4096, 4096), lzw(4096**2), frames=20),
    "GIF, clear codes": lambda: gif(
        (64, 64), (64, 64), np.packbits(np.tile([0, 0, 1], 2**18), bitorder="little").tobytes()
    ),
    "PNG": lambda: png(SIDE, SIDE),
    "PNG, other chunk first": lambda: png(
        SIDE, SIDE, first=chunk(b"prVt", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    ),
    "PNG, 1,000,000 x 16": lambda: png(16, 1_000_000),
    "PNG, 100 compressed texts": lambda: png(64, 64, before=texts(100)),
    "PNG, 500 MiB behind the pixels": lambda: png(64, 64, extra=500),
    "JPEG": lambda: jpeg(SIDE, SIDE),
    "JPEG, frame behind a marker": lambda: hidden_frame(SIDE),
    "JPEG, 65,500 x 16": lambda: jpeg(16, 65_500),
    "JPEG, 2,000 scans": lambda: jpeg(4096, 4096, 2000),
    "JPEG, arithmetic": lambda: arithmetic_jpeg(4096, 4096, 64),
    "JPEG, arithmetic, EXIF": lambda: arithmetic_jpeg(4096, 4096, 64, before=EXIF_6),
    "JPEG, arithmetic, sequential": lambda: arithmetic_jpeg(4096, 4096, 1, frame=0xC9),
    "BMP, 300 bytes": lambda: bmp(4096, 4096, rows=bytes(246)),
    "BMP, run-length encoded": lambda: bmp(SIDE, SIDE, bits=8, compression=1, rows=b"\0\1"),
    "BMP, header of 268 bytes": lambda: bmp(SIDE, SIDE, header=0x10C),
    "TIFF": lambda: tiff(SIDE, SIDE),
    "TIFF, tile larger than its image": lambda: tiff(64, 64, tile=(16_384, 16_000)),
    "TIFF, tags that share their values": lambda: tiff(
        8, 8, *((40_000 + tag, 1, 4_000_000, 8) for tag in range(400)), content=bytes(4_000_000)
    ),
    "TIFF, 64 bits": lambda: tiff_of_floats(4096),
    "WebP, image larger than its canvas": lambda: webp_canvas(8000, 8000),
    "PPM, header only": lambda: b"P6 4000 4000 255\n",
}
REFUSED_IN_CONVERSION = {
    "PNG, 2 GiB behind 512 x 512 pixels": lambda: png(512, 512, extra=2048),
}
LARGEST = {
    "PNG, 16 bits, alpha": lambda: png(4096, 4096, depth=16, color=6),
    "PNG, 16 compressed texts": lambda: png(4096, 4096, before=texts(16)),
    "PNG, 60 MiB behind the pixels": lambda: png(64, 64, extra=60),
    "PNG, 16,384 x 1,024": lambda: png(1024, 16_384),
    "PNG, 1,024 x 16,384": lambda: png(16_384, 1024),
    "JPEG, progressive": lambda: jpeg(4096, 4096, 0, 4),
    "JPEG, 60 scans": lambda: jpeg(4096, 4096, 60),
    "JPEG, 60 scans, CMYK": lambda: jpeg(4096, 4096, 60, 4),
    "JPEG, 60 scans, EXIF": lambda: jpeg(4096, 4096, 60, 3, before=EXIF_6),
    "JPEG, 64 scans of all coefficients": lambda: refined_jpeg(4096, 64),
    "BMP": lambda: bmp(4096, 4096, rows=bytes(3 * 4096 * 4096)),
    "BMP, 4096 x 4096, run-length encoded": lambda: bmp(4096, 4096, bits=8, compression=1, rows=b"\0\1"),
    "WebP": lambda: cv2.imencode(".webp", np.zeros((4096, 4096, 3), np.uint8))[1].tobytes(),
    "WebP, alpha, noise": lambda: cv2.imencode(
        ".webp", np.random.default_rng(0).integers(0, 256, (4096, 4096, 4)).astype(np.uint8)
    )[1].tobytes(),
    "WebP, 65,536 groups of codes": lambda: webp_groups(4096, 4),
    "TIFF, 16 bits": lambda: cv2.imencode(".tiff", np.zeros((4096, 4096, 3), np.uint16))[1].tobytes(),
    "PPM, text": lambda: b"P3 4096 4096 9\n" + b"1 " * (3 * 4096 * 4096),
}


def measure(path: str, name: str) -> str:
    """Returns the time, memory and result of one path for one file, in this process."""
    encoded = (BOMBS | REFUSED_IN_CONVERSION | LARGEST)[name]()
    batch = tf.constant([encoded])
    serve = tf.function(
        lambda images: decode_rows(images, (112, 112)), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    serve(tf.constant([bmp(300, 300, rows=bytes(3 * 300 * 300))]))
    before, start = peak_memory.reset_peak(), time.perf_counter()
    if path == "served":
        result = "decoded" if serve(batch)[1].numpy().all() else "marked"
    else:
        try:
            result = str(encoded_images.decoded_size(encoded_images.to_jpeg_or_png(encoded, "x"), "x"))
        except ValueError as error:
            result = str(error).rpartition("decoded (")[2].rstrip(")")[:90]
    seconds = time.perf_counter() - start
    return f"{len(encoded):11,} bytes {seconds:7.2f} s {peak_memory.peak() - before:7.0f} MiB  {result}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("PATH", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="part of the names of the files to measure")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(*arguments.one))
        return
    for title, files in (
        ("must be refused", BOMBS),
        ("must be refused in conversion", REFUSED_IN_CONVERSION),
        ("largest accepted", LARGEST),
    ):
        print(title)
        for name in (name for name in files if arguments.only in name):
            for path in ("converted", "served"):
                command = [sys.executable, str(Path(__file__)), "--one", path, name]
                try:
                    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
                    result = process.stdout.strip() or f"exit status {process.returncode}"
                except subprocess.TimeoutExpired:
                    result = "stopped after two minutes"
                print(f"  {name:36} {path:10} {result}", flush=True)


if __name__ == "__main__":
    main()
