"""Sizes of encoded images, read from their headers before any decoder allocates memory.

A few hundred bytes can declare an image of gigabytes. Therefore every format that the package decodes has a parser here
that returns the size for which its decoder allocates memory, and checks everything else that multiplies the size of a
file: the scans of a progressive JPEG file, the compressed texts and pixels of a PNG file, the tiles and tags of a TIFF
file. A header that the parser does not understand is an error, even if a decoder would accept it.
"""

import re
import struct
import zlib
from collections.abc import Callable
from collections.abc import Iterator

# Limits on one image. Served models have the same limits, except that a PNG file is limited by its bytes per pixel
# instead of its size and the data behind its rows, and JPEG and BMP files have any size.
MAX_PIXELS = 4096 * 4096
MAX_SIDE = 16384  # resizing stores `served height * width` float values per channel
MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE = 2**28, 65535  # of a photo whose faces are detected. It takes 768 MiB
MAX_FILE_BYTES = 8 * MAX_PIXELS  # every pixel in 16 bits per channel, not compressed
MAX_SCANS = (
    64  # of a JPEG file. Encoders write up to about 20; each costs 12 ms at 16 million pixels, and up to 50 ms per MB
)
MAX_COMPRESSED_TEXTS = 16  # of a PNG file. libpng expands each to up to 8 MB in 40 ms

FORMATS = "JPEG, PNG, BMP, WebP, TIFF, PBM, PGM or PPM"
JPEG, PNG, BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
# Arithmetic frames, as they start, and how a frame of 8 bits with 1, 3 or 4 components goes on. No common program
# writes them, and a decoder computes all coefficients of every scan even if the file has no data for it.
ARITHMETIC_FRAMES = (b"\xff\xc9\0", b"\xff\xca\0")
FRAME_LENGTHS_AND_BITS = (b"\x0b\x08", b"\x11\x08", b"\x14\x08")
SCAN = b"\xff\xda\0"  # start of a scan. Compressed pixels do not contain it, because 0 follows every 0xff there
MAX_CHUNKS = 65536  # of a PNG or JPEG file. Encoders of PNG write one for 8 KiB or more, or for one row
MAX_EXTRA_BYTES = 65536  # of a PNG file, apart from 8 bytes per pixel. Compressed, they expand to up to 64 MiB in 0.3 s
IMAGE_HEADER = b"\0\0\0\rIHDR"  # length and name of the chunk that must be the first of a PNG file
COMPRESSED_TEXTS = (b"zTXt", b"iTXt", b"iCCP")


def read_size(encoded: bytes, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> tuple[int, int]:
    """Returns the `(height, width)` for which a decoder of the image allocates memory.

    Args:
        encoded: content of the file.
        max_pixels: limit of height * width.
        max_side: limit of the height and of the width.

    Raises:
        ValueError: if the format is not one of `FORMATS`, the header is damaged or unusual, or a limit is exceeded. The
            message is the reason, without the name of the image.
    """
    if len(encoded) > MAX_FILE_BYTES:
        raise ValueError(f"a file of more than {MAX_FILE_BYTES} bytes")
    parser = next((parser for magic, parser in _PARSERS.items() if encoded.startswith(magic)), None)
    if parser is None:
        raise ValueError(f"unknown format, which starts with {encoded[:8]!r}")
    try:
        height, width = parser(encoded)
    except struct.error:
        raise ValueError("the file ends in the header") from None
    if height < 1 or width < 1:
        raise ValueError(f"{height} x {width} pixels in the header")
    if height * width > max_pixels or max(height, width) > max_side:
        raise ValueError(f"{height} x {width} pixels; the limit is {max_pixels}, and {max_side} for each side")
    return height, width


def _read_jpeg(encoded: bytes) -> tuple[int, int]:
    """Follows the segments to the end of the first image as libjpeg does, which skips all bytes before a marker."""
    size, scans, position = None, 0, 2
    for _ in range(MAX_CHUNKS):
        found = _JPEG_MARKER.search(encoded, position)
        if found is None or found[0] == _END_OF_IMAGE:
            break
        marker, position = found[0], found.end()
        if marker in _JPEG_FRAMES and size is None:
            size = struct.unpack_from(">HH", encoded, position + 3)
        elif marker in _JPEG_FRAMES or marker in _REFUSED_FRAMES:
            raise ValueError(
                f"marker {marker.hex()}: a second frame, or one that is arithmetic, lossless or hierarchical"
            )
        scans += marker == SCAN[:2]
        position += max(int.from_bytes(encoded[position : position + 2], "big"), 2)
    else:
        raise ValueError(f"more than {MAX_CHUNKS} segments")
    if size is None:
        raise ValueError("a JPEG file without a frame")
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans; the limit is {MAX_SCANS}")
    return size


# Markers that a length follows. libjpeg skips all others, or stops at them.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_END_OF_IMAGE = b"\xff\xd9"
_JPEG_FRAMES = {b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"}  # sequential and progressive, with Huffman codes
_REFUSED_FRAMES = {bytes([0xFF, 0xC0 + kind]) for kind in (3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15)}


def _read_png(encoded: bytes) -> tuple[int, int]:
    if encoded[8:16] != IMAGE_HEADER:
        raise ValueError(f"{encoded[12:16]!r} as the first chunk instead of b'IHDR' of 13 bytes")
    chunks = list(_png_chunks(encoded))
    texts = sum(kind in COMPRESSED_TEXTS and not _is_plain_text(encoded, kind, start) for kind, start, _ in chunks)
    if texts > MAX_COMPRESSED_TEXTS:
        raise ValueError(f"{texts} compressed texts; the limit is {MAX_COMPRESSED_TEXTS}")
    width, height, depth, color = struct.unpack_from(">IIBB", encoded, 16)
    if len(encoded) > MAX_EXTRA_BYTES and height * width <= MAX_PHOTO_PIXELS:
        row_bytes = 1 + -(-width * _PNG_CHANNELS.get(color, 4) * depth // 8)
        _check_compressed_rows(
            encoded, chunks, 2 * height * row_bytes + MAX_EXTRA_BYTES
        )  # twice, for interlaced images
    return height, width


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name of each chunk, and the start and end of its content."""
    position = len(PNG)
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(encoded):
            return
        length, kind = struct.unpack_from(">I4s", encoded, position)
        if position + length + 12 > len(encoded):  # libpng allocates the length before it reads the chunk
            raise ValueError(f"the chunk {kind!r} of {length} bytes does not fit into the file")
        yield kind, position + 8, position + 8 + length
        position += length + 12
        if kind == b"IEND":
            return
    raise ValueError(f"more than {MAX_CHUNKS} chunks")


def _is_plain_text(encoded: bytes, kind: bytes, start: int) -> bool:
    return kind == b"iTXt" and re.compile(rb"[^\0]{1,79}\0\0").match(encoded, start) is not None


def _check_compressed_rows(encoded: bytes, chunks: list[tuple[bytes, int, int]], limit: int) -> None:
    """Expands the rows of a PNG file, because libpng also expands all data behind the last row."""
    inflate = zlib.decompressobj()
    for kind, first, end in chunks:
        for start in range(first, end if kind == b"IDAT" else 0, _PART_BYTES):
            part = encoded[start : min(start + _PART_BYTES, end)]
            while part and not inflate.eof:
                try:
                    limit -= len(inflate.decompress(part, _MAX_EXPANDED_BYTES))
                except zlib.error:
                    return  # libpng stops here too
                if limit < 0:
                    raise ValueError("more compressed data than the rows need")
                part = inflate.unconsumed_tail


_PART_BYTES, _MAX_EXPANDED_BYTES = 65536, 1 << 20  # small, so that little memory is needed and copied


def _read_bmp(encoded: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", encoded, 14)
    if header_bytes != 12 and header_bytes < 40:
        raise ValueError(f"a header of {header_bytes} bytes")
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", encoded, 18)
    return abs(height), width  # the height is negative if the first row is the top one


def _read_webp(encoded: bytes) -> tuple[int, int]:
    kind = encoded[8:16]
    if kind == b"WEBPVP8 " and encoded[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"WEBPVP8L" and encoded[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8X":
        flags, width, width_high, height, height_high = struct.unpack_from("<B3xHBHB", encoded, 20)
        if flags & 2:
            raise ValueError("an animation")
        return (height | height_high << 16) + 1, (width | width_high << 16) + 1
    raise ValueError("a RIFF file that is not a WebP image")


# Number of bytes of a value, for the types of TIFF 6.0.
_TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_WIDTH, _HEIGHT, _COMPRESSION, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 278, 322, 323
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 258, 277
_TIFF_SIZES = (_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES_PER_PIXEL, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT)
_MAX_SAMPLES, _MAX_BITS = 4, 16
_TIFF_DEPTHS = (32997, 32998)  # of images and tiles of more than two dimensions
# None, CCITT, LZW, Deflate and PackBits. Other codecs, such as JPEG, contain files with a header and limits.
_TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32773, 32946)
_NO_STRIPS = 2**32 - 1


def _read_tiff(encoded: bytes) -> tuple[int, int]:
    """Returns the size of the first image, including the part of its strips and tiles outside of the image."""
    order = "<" if encoded.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", encoded, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", encoded, directory)
    values: dict[int, int] = {}
    bits: tuple[int, ...] = ()
    entry_bytes = 0
    for position in range(directory + 2, directory + 2 + 12 * num_entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", encoded, position)
        entry_bytes += _TIFF_TYPES.get(kind, 8) * count  # libtiff stores the values of every entry
        if entry_bytes > len(encoded):
            raise ValueError("tags with more values than the file contains")
        if tag in _TIFF_DEPTHS:
            raise ValueError(f"tag {tag}, the depth of an image of three dimensions")
        if tag in _TIFF_SIZES:
            if kind not in (3, 4) or count != 1 or tag in values:
                raise ValueError(f"tag {tag} of type {kind} with {count} values, or twice")
            (values[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), encoded, position + 8)
        if tag == _BITS_PER_SAMPLE:
            if kind != 3 or not 1 <= count <= _MAX_SAMPLES or bits:
                raise ValueError(f"tag {tag} of type {kind} with {count} values, or twice")
            (offset,) = struct.unpack_from(f"{order}I", encoded, position + 8)
            bits = struct.unpack_from(f"{order}{count}H", encoded, position + 8 if count <= 2 else offset)
    if max(bits, default=1) > _MAX_BITS or values.get(_SAMPLES_PER_PIXEL, 1) > _MAX_SAMPLES:
        raise ValueError(
            f"{values.get(_SAMPLES_PER_PIXEL, 1)} samples per pixel, of {max(bits, default=1)} bits; "
            f"the limits are {_MAX_SAMPLES} and {_MAX_BITS}"
        )
    if _WIDTH not in values or _HEIGHT not in values:
        raise ValueError("no width and height in the first directory")
    if values.get(_COMPRESSION, 1) not in _TIFF_COMPRESSIONS:
        raise ValueError(f"compression {values[_COMPRESSION]}, which is not one of {_TIFF_COMPRESSIONS}")
    height, width = values[_HEIGHT], values[_WIDTH]
    rows = values.get(_ROWS_PER_STRIP, _NO_STRIPS)
    if rows != _NO_STRIPS:
        height = max(height, rows)
    tile_height, tile_width = values.get(_TILE_HEIGHT) or 1, values.get(_TILE_WIDTH) or 1
    return -(-height // tile_height) * tile_height, -(-width // tile_width) * tile_width


# A space must precede a comment, because OpenCV skips the character after a number.
_PNM_HEADER = re.compile(rb"P([1-6])" + rb"\s(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})" * 2 + rb"\s")


def _read_pnm(encoded: bytes) -> tuple[int, int]:
    header = _PNM_HEADER.match(encoded)
    if header is None:
        raise ValueError("a PBM, PGM or PPM file without a width and height")
    kind, width, height = map(int, header.groups())
    # A value of text takes a byte or more, and a binary value a bit or a byte.
    values_per_pixel = {1: 1, 2: 1, 3: 3, 4: 1 / 8, 5: 1, 6: 3}[kind]
    if height * width * values_per_pixel > len(encoded):
        raise ValueError(f"{len(encoded)} bytes for {height} x {width} pixels")
    return height, width


_PARSERS: dict[bytes, Callable[[bytes], tuple[int, int]]] = {
    JPEG: _read_jpeg,
    PNG: _read_png,
    BMP: _read_bmp,
    b"RIFF": _read_webp,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
    **{b"P%d" % kind: _read_pnm for kind in range(1, 7)},
}
