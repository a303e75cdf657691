"""Scans a RecordIO file without its index, and reads all records."""

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
_IMAGES = [encode(make_face(person, 0, size=(4, 4)), ".jpg") for person in range(2)]


def seeds():
    layouts = [
        recordio_files.ms1m_layout([[image] for image in _IMAGES]),
        [(0, recordio_files.payload(_IMAGES[0], 3, 0)), (1, recordio_files.payload(_IMAGES[1], [2.0, 1.0], 1))],
        [(0, recordio_files.payload(b"abcd" + recordio_files.MAGIC_BYTES * 20 + b"abcd", 0, 0))],
        [(0, recordio_files.payload(recordio_files.MAGIC_BYTES * 40, 0, 0)), (1, b"short")],
    ]
    return [read_layout(layout) for layout in layouts]


def read_layout(layout):
    recordio_files.write(_PATH, layout, index=False)
    return _PATH.read_bytes()


def run(data):
    _PATH.write_bytes(data)
    records = RecordIO(_PATH, index=False)
    labels = records.labels
    num_bytes = 0
    for index in range(len(records)):
        with contextlib.suppress(ValueError), named_errors(_PATH):
            record = records[index]
            assert record.label == labels[index] >= 0
            num_bytes += len(record.image)
    assert num_bytes <= len(data)
