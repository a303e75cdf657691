"""Decoding of photos."""

import os

import cv2
import numpy as np

from keras_arcface import _image_headers
from keras_arcface._image_files import read_image_file
from keras_arcface._messages import cut
from keras_arcface._optional import optional_import

_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"
# The first bytes of a HEIF container, behind its length: the phones of Apple and others write these brands.
_HEIF_BRANDS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))


def read_photo(photo: str | os.PathLike | bytes | np.ndarray) -> np.ndarray:
    """Reads a photo as RGB pixels, upright.

    The EXIF orientation is applied. Gray photos, palettes, CMYK and 16 bits become 8-bit RGB, an alpha channel is
    dropped, and of an animated PNG the first image is read. Other animations are refused.

    Args:
        photo: path of a JPEG, PNG, BMP, WebP, TIFF, PBM, PGM, PPM or (with the extra `heic`) HEIC file, or its content,
            or pixels: uint8 `(height, width, 3)` in RGB, or `(height, width)`.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ModuleNotFoundError: if the photo is a HEIC file and pillow-heif is not installed.
        ValueError: if the file is damaged, is cut off, has another format, or has more than 2**28 pixels. The message
            names the file.

    Examples:
        >>> read_photo("photos/ann/0.jpg").shape
        (32, 32, 3)
        >>> read_photo(b"not a photo")
        Traceback (most recent call last):
        ValueError: photo is not a readable photo. Expected: an undamaged JPEG, PNG, BMP, WebP, TIFF, PBM, PGM, PPM or HEIC file. Received: 11 bytes (unknown format, which starts with b'not a ph')
    """  # noqa: E501
    if isinstance(photo, np.ndarray):
        return _check_pixels(photo)
    name, encoded = "photo", photo
    if not isinstance(encoded, bytes):
        name, encoded = os.fspath(photo), read_image_file(os.fspath(photo))
    try:
        if encoded[4:12].startswith(_HEIF_BRANDS):
            return _decode_heic(encoded)
        return _decode(encoded)
    except ValueError as error:
        raise ValueError(
            f"{name} is not a readable photo. Expected: an undamaged {_image_headers.FORMATS.replace(' or ', ', ')} "
            f"or HEIC file. Received: {len(encoded)} bytes ({error})"
        ) from None


def _decode(encoded: bytes) -> np.ndarray:
    _image_headers.read_size(encoded, _image_headers.MAX_PHOTO_PIXELS, _image_headers.MAX_PHOTO_SIDE)
    # OpenCV decodes the first part of a file that is cut off, without an error.
    if (encoded.startswith(_image_headers.JPEG) and _JPEG_END not in encoded[-_image_headers.MAX_EXTRA_BYTES :]) or (
        encoded.startswith(_image_headers.PNG) and _PNG_END not in encoded[-_image_headers.MAX_EXTRA_BYTES :]
    ):
        raise ValueError("the file is cut off")
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # OpenCV raises for some damaged files
        pixels = None
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    return pixels


def _decode_heic(encoded: bytes) -> np.ndarray:
    with optional_import("heic", "Reading a HEIC photo"):
        import pillow_heif
    try:
        image = pillow_heif.open_heif(encoded, convert_hdr_to_8bit=True)[0]
        width, height = image.size
        if width * height > _image_headers.MAX_PHOTO_PIXELS:
            raise ValueError(f"{height} x {width} pixels; the limit is {_image_headers.MAX_PHOTO_PIXELS}")
        pixels = np.asarray(image)
    except Exception as error:  # pillow-heif raises errors of many types
        raise ValueError(f"libheif cannot decode it: {cut(str(error), 200)}") from None
    return _check_pixels(np.ascontiguousarray(pixels[..., :3]) if pixels.ndim == 3 else pixels)


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8 and pixels.size:
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            return pixels
    raise ValueError(
        "photo must be RGB pixels, uint8 (height, width, 3) or (height, width). "
        f"Received: photo.dtype={pixels.dtype}, photo.shape={pixels.shape}"
    )
