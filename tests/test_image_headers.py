"""The size that decides is the size that the decoder allocates; small files that cost much are refused."""

import io
import struct
import zlib

import cv2
import image_bombs
import numpy as np
import pytest
import tensorflow as tf
from image_bombs import BOMBS
from image_bombs import chunk
from image_bombs import jpeg
from image_bombs import png
from image_bombs import segment
from image_bombs import tiff
from image_formats import CASES
from image_formats import NOT_READ
from PIL import Image

from keras_arcface import _image_headers
from keras_arcface.data import encoded_images
from keras_arcface.serving.saved_model.decoding import MAX_SERVED_BYTES
from keras_arcface.serving.saved_model.decoding import decode_rows

REASONS = {
    "GIF, second frame larger than screen": r"unknown format, which starts with b'GIF89a",
    "GIF, 20 frames": r"unknown format",
    "GIF, clear codes": r"unknown format",
    "PNG": r"20000 x 20000 pixels; the limit is 16777216, and 16384 for each side",
    "PNG, other chunk first": r"b'prVt' as the first chunk instead of b'IHDR'",
    "PNG, 1,000,000 x 16": r"16 x 1000000 pixels; the limit is 16777216, and 16384 for each side",
    "PNG, 100 compressed texts": r"100 compressed texts; the limit is 16",
    "PNG, 500 MiB behind the pixels": r"more compressed data than the rows need",
    "JPEG": r"20000 x 20000 pixels",
    "JPEG, frame behind a marker": r"20000 x 20000 pixels",
    "JPEG, 65,500 x 16": r"16 x 65500 pixels",
    "JPEG, 2,000 scans": r"2001 scans; the limit is 64",
    "JPEG, arithmetic": r"marker ffca: .*arithmetic",
    "JPEG, arithmetic, EXIF": r"marker ffca: .*arithmetic",
    "JPEG, arithmetic, sequential": r"marker ffc9: .*arithmetic",
    "BMP, 300 bytes": r"OpenCV cannot decode it",
    "BMP, run-length encoded": r"20000 x 20000 pixels",
    "BMP, header of 268 bytes": r"20000 x 20000 pixels",
    "TIFF": r"20000 x 20000 pixels",
    "TIFF, tile larger than its image": r"16384 x 16000 pixels",
    "TIFF, tags that share their values": r"tags with more values than the file contains",
    "TIFF, 64 bits": r"3 samples per pixel, of 64 bits; the limits are 4 and 16",
    "WebP, image larger than its canvas": r"OpenCV cannot decode it",
    "PPM, header only": r"17 bytes for 4000 x 4000 pixels",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_costs_much_is_refused(name):
    encoded = BOMBS[name]()
    with pytest.raises(ValueError, match=rf"^a.img is not a readable image.*{REASONS[name]}"):
        encoded_images.to_jpeg_or_png(encoded, "a.img")
    assert not decode_rows(tf.constant([encoded]), (8, 8))[1].numpy().any()
    assert not encoded_images.can_all_be_decoded([encoded], (8, 8))


READ = [name for name in CASES if name not in NOT_READ]


@pytest.mark.parametrize("name", READ)
def test_the_size_is_that_of_the_decoded_image(name):
    encoded = CASES[name]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    assert _image_headers.read_size(encoded) == decoded.shape[:2]


@pytest.mark.parametrize("name", READ)
def test_a_truncated_header_is_refused_or_read_alike(name):
    for length in range(64):
        try:
            size = _image_headers.read_size(CASES[name][:length])
        except ValueError:
            continue
        assert size == _image_headers.read_size(CASES[name])


def size_of(encoded: bytes):
    return _image_headers.read_size(encoded)


def test_jpeg_segments_before_the_frame_are_skipped_like_in_the_decoder():
    frame = segment(0xC0, struct.pack(">BHHB", 8, 9999, 9999, 1) + b"\1\x11\0")
    assert size_of(jpeg(24, 16, before=segment(0xE5, frame))) == (24, 16)
    assert size_of(jpeg(24, 16, before=segment(0xFE, frame) + b"\xff")) == (24, 16)
    assert size_of(b"\xff\xd8\xff\xe0\0\0" + jpeg(24, 16)[2:]) == (24, 16)  # a length of 0, which the decoder accepts
    with pytest.raises(ValueError, match="a JPEG file without a frame"):
        size_of(b"\xff\xd8" + b"\xff\xd9" + jpeg(24, 16)[2:])
    with pytest.raises(ValueError, match="marker ffc2: a second frame"):
        size_of(jpeg(24, 16)[:-2] + jpeg(24, 16)[2:])
    with pytest.raises(ValueError, match="more than 65536 segments"):
        size_of(jpeg(24, 16, before=b"\xff\xfe\0\2" * 70_000))


def test_the_scans_of_the_first_image_of_a_jpeg_file_are_counted():
    image = jpeg(24, 16, 20)
    assert size_of(image * 4) == (24, 16)
    assert size_of(jpeg(24, 16, before=segment(0xE2, b"\xff\xda\0" * 100))) == (24, 16)
    hidden = segment(0xFE, b"\xff\xd9")  # an end of the image in a comment is none
    many = jpeg(24, 16, 70)
    for at in (2, many.index(b"\xff\xda")):
        with pytest.raises(ValueError, match="71 scans; the limit is 64"):
            size_of(many[:at] + hidden + many[at:])
    with pytest.raises(ValueError, match="71 scans"):  # behind a marker that a decoder skips alone
        size_of(many[:-2].replace(b"\xff\xda", b"\xff\x02\xff\xff\xda") + b"\xff\xd9")


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
def test_arithmetic_lossless_and_hierarchical_jpeg_files_are_refused(frame):
    for components in (1, 3, 4):
        encoded = jpeg(24, 16, components=components, frame=frame)
        with pytest.raises(ValueError, match=rf"marker ff{frame:x}: .*arithmetic, lossless or hierarchical"):
            size_of(encoded)
        assert not decode_rows(tf.constant([encoded]), (8, 8))[1].numpy().any()


def test_the_batch_decoder_checks_headers_before_it_decodes():
    images = [png(8, 8), jpeg(8, 8), png(8, 8)]
    sizes = encoded_images.declared_sizes(tf.constant([*images, png(20, 30), jpeg(40, 50)]))
    assert sizes.numpy().tolist() == [[8, 8]] * 3 + [[20, 30], [40, 50]]
    bomb = (
        image_bombs.SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )
    for wrong in (bomb, png(8, 9), jpeg(9, 8)):
        encoded = tf.constant([*images, wrong])
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must have the size \(8, 8\).*d"):
            encoded_images.decode_batch(encoded, tf.constant(list("abcd")), (8, 8))


def test_long_files_are_checked_before_a_batch_is_decoded():
    many = png(8, 8, before=chunk(b"zTXt", b"k\0\0" + bytes(5000)) * 20)
    with pytest.raises(ValueError, match=r"b is not a readable image.*20 compressed texts; the limit is 16"):
        encoded_images.decode_batch(tf.constant([png(8, 8), many]), tf.constant(["a", "b"]), (8, 8))


def test_compressed_data_behind_the_rows_of_a_png_file_is_limited():
    assert size_of(png(512, 512, extra=1)) == (512, 512)  # less than 64 KiB, which are not expanded
    behind = png(512, 512, extra=100)
    assert len(behind) < encoded_images.max_png_bytes(512 * 512)
    with pytest.raises(ValueError, match="more compressed data than the rows need"):
        size_of(behind)
    noise = np.random.default_rng(0).integers(0, 65536, (150, 130, 4)).astype(np.uint16)
    for interlaced in (0, 1):
        encoded = bytearray(cv2.imencode(".png", noise)[1])
        encoded[28] = interlaced
        assert size_of(bytes(encoded)) == (150, 130)


def test_the_compressed_rows_of_a_png_file_are_read_from_all_chunks():
    rows = zlib.compress(bytes(10_000_000), 0)
    header = png(8, 8)[:33]
    for part_bytes in (1000, 100_000, len(rows)):
        parts = (chunk(b"IDAT", rows[i : i + part_bytes]) for i in range(0, len(rows), part_bytes))
        with pytest.raises(ValueError, match="more compressed data than the rows need"):
            size_of(header + b"".join(parts))
    with pytest.raises(ValueError, match="more than 65536 chunks"):
        size_of(header + chunk(b"tEXt", b"") * 70_000 + png(8, 8)[33:])
    assert size_of(header + chunk(b"tEXt", b"") * 7000 + png(8, 8)[33:]) == (8, 8)
    assert size_of(header + chunk(b"IDAT", bytes(100_000))) == (8, 8)  # damaged, which the decoder finds


def test_ordinary_progressive_images_and_texts_are_accepted():
    assert size_of(jpeg(64, 64, _image_headers.MAX_SCANS - 1)) == (64, 64)
    assert size_of(png(8, 8, before=image_bombs.texts(_image_headers.MAX_COMPRESSED_TEXTS))) == (8, 8)
    encoded = tf.constant([jpeg(64, 64, _image_headers.MAX_SCANS - 1), jpeg(64, 64, _image_headers.MAX_SCANS)])
    assert decode_rows(encoded, (8, 8))[1].numpy().tolist() == [True, False]


@pytest.mark.parametrize("kind", [b"zTXt", b"tEXt", b"eXIf", b"IDAT"])
def test_a_png_chunk_that_is_longer_than_the_file_is_refused(kind):
    # libpng would allocate and clear a GiB for some of them
    bomb = png(8, 8)[:33] + struct.pack(">I4s", 2**30, kind) + b"a\0\0"
    with pytest.raises(ValueError, match=rf"chunk {kind!r} of {2**30} bytes does not fit"):
        size_of(bomb)
    encoded = tf.constant([png(8, 8), bomb, jpeg(8, 8, 1), b""])
    assert encoded_images.has_complete_chunks(encoded).numpy().tolist() == [True, False, True, True]
    assert decode_rows(encoded[:2], (8, 8))[1].numpy().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"name is not a readable image.*does not fit"):
        encoded_images.decode_batch(encoded[1:2], tf.constant(["name"]), (8, 8))


def test_served_files_have_a_limit():
    face = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    padded = [face.ljust(MAX_SERVED_BYTES + more, b"\0") for more in (0, 1)]
    assert decode_rows(tf.constant(padded), (8, 8))[1].numpy().tolist() == [True, False]


def test_international_texts_of_a_png_file_are_counted_if_they_are_compressed():
    plain, compressed = chunk(b"iTXt", b"key\0\0\0en\0\0zTXt") * 100, chunk(b"iTXt", b"key\0\1\0\0\0" + bytes(9))
    assert size_of(png(8, 8, before=plain + compressed * 16)) == (8, 8)
    for wrong in (compressed * 17, chunk(b"iTXt", b"k" * 80 + bytes(9)) * 17):
        with pytest.raises(ValueError, match="17 compressed texts; the limit is 16"):
            size_of(png(8, 8, before=plain + wrong))


def test_tiff_files_of_all_modes_are_accepted():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"):
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            file = io.BytesIO()
            Image.new(mode, (9, 7)).save(file, "TIFF", compression=compression)
            assert size_of(file.getvalue()) == (7, 9), mode


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ([(256, 4, 2, 8)], "tag 256 of type 4 with 2 values"),
        ([(257, 1, 1, 8)], "tag 257 of type 1 with 1 values"),
        ([(259, 3, 1, 7)], "compression 7, which is not one of"),
        ([(258, 3, 1, 32)], "1 samples per pixel, of 32 bits"),
        ([(258, 3, 2, 8 | 32 << 16)], "1 samples per pixel, of 32 bits"),
        ([(258, 4, 1, 64)], "tag 258 of type 4 with 1 values"),
        ([(258, 3, 5, 8)], "tag 258 of type 3 with 5 values"),
        ([(277, 3, 1, 1000)], "1000 samples per pixel, of 8 bits"),
        ([(278, 4, 1, 30_000)], "30000 x 8 pixels"),
        ([(32998, 4, 1, 1000)], "tag 32998, the depth"),
    ],
)
def test_unusual_tags_of_a_tiff_file_are_refused(tags, reason):
    with pytest.raises(ValueError, match=reason):
        size_of(tiff(8, 8, *tags))


@pytest.mark.parametrize(
    "header", [b"P5 16#9999\n 16 255\n", b"P5 16 ", b"P51 16 255\n", b"P5 1234567890 1 255\n", b"P5 -5 16 255\n"]
)
def test_unusual_headers_of_a_pnm_file_are_refused(header):
    with pytest.raises(ValueError, match="a PBM, PGM or PPM file without"):
        size_of(header + bytes(300))


def test_comments_of_a_pnm_file():
    encoded = b"P5 # 99\n#8\r16\t2 255\n" + bytes(range(32))
    assert size_of(encoded) == cv2.imdecode(np.frombuffer(encoded, np.uint8), -1).shape == (2, 16)


def test_a_file_of_more_than_128_mib_is_refused(monkeypatch):
    monkeypatch.setattr(_image_headers, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="a file of more than 100 bytes"):
        size_of(jpeg(8, 8))
