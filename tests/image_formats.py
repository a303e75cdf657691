"""Small images in many formats, and lists of those that OpenCV and Pillow decode differently or a server refuses."""

import io
import struct
import zlib

import cv2
import numpy as np
from conftest import encode
from conftest import make_face
from PIL import Image
from PIL import ImageOps

SIZE = 24
FACE = make_face(0, 0, (SIZE, SIZE))
DEEP = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE, 3)).astype(np.uint16)
ALPHA = np.dstack([FACE, make_face(1, 0, (SIZE, SIZE))[..., :1]])
COLOR = Image.fromarray(FACE)
PALETTE = COLOR.quantize(64)


def pillow(encoded: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return file.getvalue()


def by_opencv(pixels, suffix, *options) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def tiff(orientation: int, order="II", kind=3, start=8) -> bytes:
    """Returns EXIF data with one directory that holds only the orientation."""
    endian = "<" if order == "II" else ">"
    head = order.encode() + struct.pack(f"{endian}HI", 42, start) + bytes(start - 8)
    value = struct.pack(f"{endian}HH", orientation, 0) if kind == 3 else struct.pack(f"{endian}I", orientation)
    return head + struct.pack(f"{endian}HHHI", 1, 0x0112, kind, 1) + value + bytes(4)


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def with_exif(*contents: bytes, after: bytes = b"\xff\xd8") -> bytes:
    """Returns a JPEG with EXIF data after its start, or after the segment of another marker."""
    jpeg = encode(FACE, ".jpg")
    at = jpeg.index(after) + 2
    at += 0 if after == b"\xff\xd8" else struct.unpack_from(">H", jpeg, at)[0]
    return jpeg[:at] + b"".join(app1(b"Exif\0\0" + content) for content in contents) + jpeg[at:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bmp(bits, rows: bytes, colors=b"", compression=0, size=(SIZE, SIZE)) -> bytes:
    start, (height, width) = 54 + len(colors), size
    head = struct.pack("<IHHI", start + len(rows), 0, 0, start)
    counts = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, len(colors) // 4, 0)
    return b"BM" + head + counts + colors + rows


PNG = encode(FACE)
CASES = {
    "JPEG": encode(FACE, ".jpg"),
    "JPEG, gray": encode(FACE[..., :1], ".jpg"),
    "JPEG, progressive": saved(COLOR, "JPEG", progressive=True),
    "JPEG, CMYK": saved(COLOR.convert("CMYK"), "JPEG"),
    "PNG": PNG,
    "PNG, gray": saved(COLOR.convert("L"), "PNG"),
    "PNG, 1 bit": saved(COLOR.convert("1"), "PNG"),
    "PNG, palette": saved(PALETTE, "PNG"),
    "PNG, palette, transparent": saved(PALETTE, "PNG", transparency=3),
    "PNG, alpha": saved(Image.fromarray(ALPHA), "PNG"),
    "PNG, gray, alpha": saved(Image.fromarray(ALPHA).convert("LA"), "PNG"),
    "PNG, 16 bits": by_opencv(DEEP, ".png"),
    "PNG, gray, 16 bits": by_opencv(DEEP[..., 0], ".png"),
    "BMP": encode(FACE, ".bmp"),
    "BMP, gray": saved(COLOR.convert("L"), "BMP"),
    "BMP, palette": saved(PALETTE, "BMP"),
    "BMP, palette, 4 bits": bmp(4, bytes(range(SIZE // 2)) * SIZE, bytes(range(64))),
    "BMP, palette, compressed": bmp(8, bytes([SIZE, 2, 0, 0] * SIZE + [0, 1]), bytes(range(64)), compression=1),
    "BMP, 1 bit": saved(COLOR.convert("1"), "BMP"),
    "BMP, 16 bits": bmp(16, DEEP[..., 0].astype("<u2").tobytes()),
    "BMP, 32 bits": saved(Image.fromarray(ALPHA), "BMP"),
    "BMP, alpha": by_opencv(ALPHA, ".bmp"),
    **{
        f"{kind}{name}": saved(image, kind)
        for kind in ("WEBP", "TIFF")
        for name, image in {
            "": COLOR,
            ", gray": COLOR.convert("L"),
            ", palette": PALETTE,
            ", alpha": Image.fromarray(ALPHA),
        }.items()
    },
    "TIFF, 16 bits": by_opencv(DEEP, ".tiff"),
    "TIFF, gray, 16 bits": by_opencv(DEEP[..., 0], ".tiff"),
    "PGM": by_opencv(FACE[..., 0], ".pgm"),
    **{
        f"{kind}, EXIF {orientation}": saved(COLOR, kind, exif=exif(orientation))
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for orientation in range(1, 9)
    },
    "JPEG, gray, EXIF 6": saved(COLOR.convert("L"), "JPEG", exif=exif(6)),
    "JPEG, EXIF 6, little-endian": with_exif(tiff(6)),
    "JPEG, EXIF 8, behind JFIF": with_exif(tiff(8, "MM"), after=b"\xff\xe0"),
    "JPEG, EXIF 3, behind the tables": with_exif(tiff(3, "MM"), after=b"\xff\xdb"),
    "JPEG, EXIF 5, directory elsewhere": with_exif(tiff(5, start=30)),
    "JPEG, EXIF 6 of 32 bits": with_exif(tiff(6, kind=4)),
    "JPEG, EXIF 9": with_exif(tiff(9)),
    "JPEG, EXIF 6, then 1": with_exif(tiff(6), tiff(1)),
    "JPEG, EXIF 1, then 6": with_exif(tiff(1), tiff(6)),
    "PNG, EXIF 7, behind the pixels": PNG[:-12] + chunk(b"eXIf", tiff(7, "MM")) + PNG[-12:],
    "GIF": saved(PALETTE, "GIF"),
    "GIF, animated": saved(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)], loop=0, duration=90),
    "WEBP, animated": saved(COLOR, "WEBP", save_all=True, append_images=[COLOR.rotate(90)]),
    "TIFF, JPEG": saved(COLOR, "TIFF", compression="jpeg"),
    "JPEG 2000": by_opencv(np.tile(FACE, (4, 4, 1)), ".jp2"),
    "Sun raster": by_opencv(FACE, ".ras"),
    "PAM": by_opencv(FACE, ".pam"),
    "PFM": by_opencv(FACE.astype(np.float32), ".pfm"),
    "HDR": by_opencv(FACE.astype(np.float32), ".hdr"),
    "AVIF": by_opencv(FACE, ".avif"),
}
# OpenCV and Pillow decode these differently. Pillow clips 16-bit gray values at 255, rounds 5-bit values differently
# and does not multiply by the alpha channel of TIFF. OpenCV rounds CMYK and 16-bit TIFF differently.
LIKE_OPENCV = {"PNG, gray, 16 bits", "TIFF, gray, 16 bits", "BMP, 16 bits", "TIFF, alpha"}
LIKE_PILLOW = {"JPEG, CMYK", "TIFF, 16 bits"}
# The size of these cannot be checked before they are decoded.
NOT_READ = [name for name in CASES if name.startswith(("GIF", "WEBP, anim", "TIFF, JPEG", "JPEG 2000", "Sun", "HDR"))]
NOT_READ += ["PAM", "PFM", "AVIF"]
NOT_SERVED = {
    *NOT_READ,
    *("BMP, palette, 4 bits", "BMP, palette, compressed", "BMP, 1 bit", "BMP, 16 bits"),
    *(name for name in CASES if name.startswith(("WEBP", "TIFF", "PGM"))),
}
