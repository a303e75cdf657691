"""Reads a damaged RecordIO file with its `.idx`, or with a damaged `property`."""

import contextlib
import tempfile
from pathlib import Path

import recordio_files
from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import RecordIO

COVERS = ("keras_arcface/data/recordio.py", "keras_arcface/data/recordio_format.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_PATH = Path(tempfile.mkdtemp(), "train.rec")
_LAYOUT = recordio_files.ms1m_layout([[encode(make_face(person, 0, size=(4, 4)), ".jpg")] for person in range(2)])
recordio_files.write(_PATH, _LAYOUT)
_RECORDS = _PATH.read_bytes()


def seeds():
    return [_RECORDS, b"property2,4,4\n", b"property2,4,4\r\nmore"]


def run(data):
    is_property = data.startswith(b"property")
    _PATH.with_name("property").write_bytes(data[8:] if is_property else b"2,4,4\n")
    _PATH.write_bytes(_RECORDS if is_property else data)
    with named_errors(_PATH.parent):
        records = RecordIO(_PATH)
        labels = records.labels
    for index in range(len(records)):
        with contextlib.suppress(ValueError), named_errors(_PATH):
            record = records[index]
            assert record.label == labels[index] >= 0
