"""Reads a `.bin` verification set."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import PairSet

COVERS = ("keras_arcface/data/verification_pickle.py",)
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_PATH = Path(tempfile.mkdtemp(), "pairs.bin")
_IMAGES = [encode(make_face(person, 0, size=(4, 4)), ".png") for person in range(4)]


def seeds():
    objects = np.empty(4, object)
    objects[:] = _IMAGES
    arrays = [np.frombuffer(image, np.uint8) for image in _IMAGES]
    varieties = [
        (_IMAGES, [True, False]),
        (arrays, np.array([True, False])),
        ([array[:, None] for array in arrays], np.array([1, 0])),
        ([bytearray(image) for image in _IMAGES], (np.bool_(True), 0.0)),
        (objects, [np.float32(1), np.array([0])]),
    ]
    return [pickle.dumps(variety, protocol) for variety in varieties for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def run(data):
    _PATH.write_bytes(data)
    with named_errors(_PATH):
        pairs = PairSet.load(_PATH)
    assert len(pairs.images) == 2 * len(pairs.same)
    assert all(type(image) is bytes for image in pairs.images)
    assert sum(map(len, set(pairs.images))) <= len(data)
