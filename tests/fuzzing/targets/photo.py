"""Reads a photo as the detectors do."""

import io
import tempfile
from pathlib import Path

import numpy as np
from conftest import make_face
from fuzzing.named_errors import named_errors
from image_formats import CASES
from image_formats import exif
from image_formats import saved
from PIL import Image

from keras_arcface.faces import read_photo

COVERS = ("keras_arcface/_image_headers.py", "keras_arcface/faces/photos.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 5
MAX_MIB = 1024  # a photo of 2**28 pixels takes 768

_FOLDER = Path(tempfile.mkdtemp())


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
    path = _FOLDER / "photo"
    path.write_bytes(data)
    with named_errors(path):
        pixels = read_photo(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
