"""Reads a shard of a dataset directory: all records, the labels, and what is left if damaged records are skipped."""

import contextlib
import dataclasses
import hashlib
import tempfile
from pathlib import Path

from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import check_dataset
from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.shards import ShardReader

COVERS = tuple(f"keras_arcface/data/{name}.py" for name in ("tfrecord", "shards", "integrity", "schema"))
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 64

_FOLDER = Path(tempfile.mkdtemp())
_PATH = _FOLDER / "00000-of-00001.tfrecord"
_EXAMPLES = [b"".join(schema.encode(encode(make_face(i, 0, size=(4, 4))), i, f"face {i}")) for i in range(2)]


def seeds():
    shard = b"".join(piece for example in _EXAMPLES for piece in tfrecord.frame(example))
    return [shard, shard[:-1], shard + bytes(30) + shard, b"\1" + _EXAMPLES[0], b"\1" + b"".join(_EXAMPLES)]


def run(data):
    if data.startswith(b"\1"):  # one record with correct checksums
        data = b"".join(tfrecord.frame(data[1:]))
    _PATH.write_bytes(data)
    found, errors = [], []
    for offset, record in tfrecord.read_records(_PATH, errors.append):
        assert data[offset + 12 : offset + 12 + len(record)] == record
        found.append(record)
    if not found:
        return
    shard = Shard(_PATH.name, len(found), len(data), hashlib.sha256(data).hexdigest())
    info = DatasetInfo(2, len(found), (4, 4), (shard,), "fuzz", skipped=("", ""))
    info.save(_FOLDER)
    assert list(ShardReader(_FOLDER, info, skip_damaged=True)) == found
    labels = _result(lambda: ShardReader(_FOLDER, info, skip_damaged=False).labels.tolist())
    records = _result(lambda: list(ShardReader(_FOLDER, info, skip_damaged=False)))
    assert (records == found) == (not errors)
    if _result(lambda: check_dataset(_FOLDER)) is not None:
        assert not errors
        assert len(labels) == len(found)
        other = dataclasses.replace(info, num_examples=3, shards=(dataclasses.replace(shard, num_examples=3),))
        other.save(_FOLDER)
        assert (_result(lambda: check_dataset(_FOLDER)) is None) == (len(found) != 3)


def _result(function):
    """Returns the result of a function, or None if it raises an error that names the file."""
    with contextlib.suppress(ValueError), named_errors(_PATH, limit=10**6):
        return function()
