"""Encoded images in the formats that a served model decodes, in formats that it refuses, and damaged ones."""

import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

_GIF = bytes.fromhex("474946383961 0100 0100 80 00 00 000000 ffffff 2c 0000 0000 0100 0100 00 02 02 44 01 00 3b")


class SampleFile(NamedTuple):
    """Encoded image.

    Attributes:
        name: format, or damage.
        content: content of the file.
        pixels: RGB pixels that OpenCV reads, uint8 `(height, width, 3)`.
    """

    name: str
    content: bytes
    pixels: np.ndarray


def served_files(image: np.ndarray) -> list[SampleFile]:
    """Returns an image in the formats that docs/serving.md lists as served.

    Args:
        image: uint8 RGB pixels `(height, width, 3)`.

    Returns:
        Files with the height and width of the image. Formats with less color have other pixels.
    """
    bgr = image[..., ::-1]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    alpha = np.dstack([bgr, gray])
    turned = _encode(np.rot90(bgr), ".jpg")
    contents = {
        "JPEG": _encode(bgr, ".jpg"),
        "progressive JPEG": _encode(bgr, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "gray JPEG": _encode(gray, ".jpg"),
        "JPEG rotated by EXIF": turned[:2] + _exif_segment(orientation=6) + turned[2:],
        "PNG": _encode(bgr, ".png"),
        "gray PNG": _encode(gray, ".png"),
        "PNG with alpha": _encode(alpha, ".png"),
        "PNG of 16 bits": _encode(bgr.astype(np.uint16) * 257, ".png"),
        "PNG with palette": _palette_png(gray),
        "BMP": _encode(bgr, ".bmp"),
        "BMP of 32 bits": _bmp(32, np.dstack([bgr, np.zeros_like(gray)])[::-1].tobytes(), image.shape),
        "BMP with palette": _encode(gray, ".bmp"),
    }
    return [SampleFile(name, content, _read(content)) for name, content in contents.items()]


def resized_file(image: np.ndarray) -> bytes:
    """Returns a PNG file of twice the height and three times the width, which the served model resizes."""
    return _encode(np.repeat(np.repeat(image[..., ::-1], 2, axis=0), 3, axis=1), ".png")


def refused_files(image: np.ndarray) -> dict[str, bytes]:
    """Returns damaged images and images in formats that are not served, by their names."""
    bgr = image[..., ::-1]
    jpeg, png = _encode(bgr, ".jpg"), _encode(bgr, ".png")
    height, width = image.shape[:2]
    return {
        "an empty file": b"",
        "a text": b"this is no image",
        "half of a JPEG": jpeg[: len(jpeg) // 2],
        "half of a PNG": png[: len(png) // 2],
        "a PNG with a header for 20,000 x 20,000 pixels": _png(20_000, 20_000, 2, b""),
        "GIF": _GIF,
        "WebP": _encode(bgr, ".webp"),
        "TIFF": _encode(bgr, ".tiff"),
        "BMP of 16 bits": _bmp(16, bytes(height * (2 * width + 2 * width % 4)), image.shape),
    }


def _encode(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(pixels), options)[1].tobytes()


def _read(content: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None  # the files of this module are complete
    return pixels[..., ::-1]


def _exif_segment(orientation: int) -> bytes:
    directory = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    content = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + directory
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def _palette_png(indices: np.ndarray) -> bytes:
    """Returns a PNG file whose palette has other colors than gray."""
    levels = np.arange(256)
    palette = np.stack([levels, 255 - levels, levels * 7 % 256], axis=1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    height, width = indices.shape
    return _png(height, width, 3, rows, _chunk(b"PLTE", palette.tobytes()))


def _png(height: int, width: int, color_type: int, rows: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + before + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _bmp(bits: int, rows: bytes, shape: tuple[int, ...]) -> bytes:
    """Returns a BMP file with rows from bottom to top, each padded to a multiple of 4 bytes."""
    height, width = shape[:2]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows
