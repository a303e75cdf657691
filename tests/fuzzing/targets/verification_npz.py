"""Reads an `.npz` file of pairs."""

import io
import tempfile
from pathlib import Path

import numpy as np
from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import PairSet

COVERS = ("keras_arcface/data/pairs.py",)
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_PATH = Path(tempfile.mkdtemp(), "pairs.npz")
_IMAGES = [encode(make_face(person, 0, size=(4, 4)), ".png") for person in range(2)]


def seeds():
    PairSet(_IMAGES, [True]).save(_PATH)
    content = b"".join(_IMAGES)
    arrays = {"bytes": np.frombuffer(content, np.uint8), "ends": np.cumsum([len(i) for i in _IMAGES]), "same": [True]}
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **arrays)
    return [_PATH.read_bytes(), compressed.getvalue()]


def run(data):
    _PATH.write_bytes(data)
    with named_errors(_PATH):
        pairs = PairSet.load(_PATH)
    assert len(pairs.images) == 2 * len(pairs.same)
    assert sum(map(len, pairs.images)) <= len(data)
