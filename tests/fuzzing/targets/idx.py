"""Reads a RecordIO file with a damaged `.idx`."""

import tempfile
from pathlib import Path

import recordio_files
from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import RecordIO

COVERS = ("keras_arcface/data/recordio.py", "keras_arcface/data/recordio_index.py")
ALLOWED = (ValueError,)

_RECORDS = Path(tempfile.mkdtemp(), "train.rec")
_LAYOUT = recordio_files.ms1m_layout([[encode(make_face(person, 0), ".jpg")] for person in range(3)])
recordio_files.write(_RECORDS, _LAYOUT, "8,32,32\n")
_INDEX = _RECORDS.with_suffix(".idx").read_bytes()


def seeds():
    return [_INDEX]


def run(data):
    _RECORDS.with_suffix(".idx").write_bytes(data)
    with named_errors(_RECORDS.parent):
        assert len(list(RecordIO(_RECORDS))) <= len(_LAYOUT)
