"""Reads the stored embeddings of a teacher: their facts, the array, or an array with its checksum in the facts."""

import functools
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface import data as data_package

COVERS = ("keras_arcface/data/teacher_embeddings.py",)
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_NAME = "a teacher"
_FOLDER = Path(tempfile.mkdtemp())


@functools.cache
def _written():
    """Returns the values, and path and content of the array and of the facts.

    Not at import: this starts threads of TensorFlow, and the process is forked after the import.
    """
    for person in range(2):
        (_FOLDER / "faces" / str(person)).mkdir(parents=True)
        (_FOLDER / "faces" / str(person) / "0.png").write_bytes(encode(make_face(person, 0, size=(4, 4))))
    data_package.write_dataset(data_package.ImageFolder(_FOLDER / "faces"), _FOLDER / "records")
    teacher = data_package.write_teacher_embeddings(
        _FOLDER / "records", lambda images: np.asarray(images, np.float32).mean(axis=(1, 2)) + 1, _NAME
    )
    array, facts = (next((_FOLDER / "records").glob(f"teacher-*.{suffix}")) for suffix in ("npy", "json"))
    return np.array(teacher.values), array, array.read_bytes(), facts, facts.read_bytes()


def seeds():
    """The first byte selects the kind of the rest: the facts, the array, or the array with its checksum."""
    _, _, array, _, facts = _written()
    return [b"\0" + facts, b"\1" + array, b"\2" + array]


def run(data):
    kind, content = data[0] % 3 if data else 0, data[1:]
    expected, array_path, array, facts_path, facts = _written()
    if kind == 0:
        facts = content
    else:
        array = content
    if kind == 2:
        facts = json.dumps({**json.loads(facts), "sha256": hashlib.sha256(content).hexdigest()}).encode()
    array_path.write_bytes(array)
    facts_path.write_bytes(facts)
    with named_errors(facts_path if kind == 0 else array_path, 2000):
        values = data_package.load_teacher_embeddings(_FOLDER / "records", _NAME).values
    assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
    if kind < 2:
        np.testing.assert_array_equal(values, expected)
    del values  # the file of the next input is written to the same path
