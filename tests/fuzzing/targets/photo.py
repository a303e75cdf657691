"""Reads a photo as the detectors do."""

import io

import numpy as np
from conftest import make_face
from image_formats import CASES
from image_formats import exif
from image_formats import saved
from PIL import Image

from keras_arcface.faces import read_photo

COVERS = ("keras_arcface/_image_headers.py", "keras_arcface/faces/photos.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 5
MAX_MIB = 1024  # a photo of 2**28 pixels takes 768


def _heic():
    try:
        import pillow_heif
    except ImportError:
        return []
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(make_face(0, 0))).save(file)
    return [file.getvalue()]


def seeds() -> list[bytes]:
    rotated = [saved(Image.fromarray(make_face(0, 0, (8, 12))), kind, exif=exif(6)) for kind in ("JPEG", "PNG", "WEBP")]
    return [*CASES.values(), *rotated, *_heic()]


def run(data: bytes) -> None:
    try:
        pixels = read_photo(data)
    except ValueError as error:
        assert str(error).startswith("photo is not a readable photo"), str(error)
        assert len(str(error)) < 600, str(error)
        raise
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
