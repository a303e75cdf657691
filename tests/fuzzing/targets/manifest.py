"""Reads the manifest of aligned photos."""

import tempfile
from pathlib import Path

from faces.detectors import SquareDetector
from faces.detectors import photo_with_squares
from fuzzing.named_errors import named_errors

from keras_arcface.faces import manifest
from keras_arcface.faces.pipeline import find_faces
from keras_arcface.faces.quality import QualityLimits

COVERS = ("keras_arcface/faces/manifest.py",)
ALLOWED = (ValueError,)
MAX_MIB = 64

_FOLDER = Path(tempfile.mkdtemp())


def seeds() -> list[bytes]:
    path = _FOLDER / "seed.csv"
    manifest.start(path)
    found = find_faces(photo_with_squares((20, 20, 60), (200, 90, 80)), SquareDetector(), QualityLimits(), 16, "a.jpg")
    faces = [(face, f"faces/a.jpg.{number}.jpg", "") for number, face in enumerate(found.faces)]
    manifest.add(path, manifest.rows_of_photo("a.jpg", faces))
    manifest.add(path, manifest.rows_of_photo('b, "c".jpg', [], "cannot be read: it is damaged"))
    return [path.read_bytes()]


def run(data: bytes) -> None:
    path = _FOLDER / "manifest.csv"
    path.write_bytes(data)
    with named_errors(path):
        entries, complete = manifest.read(path)
    assert complete <= len(data)
    path.write_bytes(data[:complete])
    again = manifest.read(path)
    assert again == (entries, complete), "the complete part must be read in the same way"
