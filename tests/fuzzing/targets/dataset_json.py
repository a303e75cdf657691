"""Reads `dataset.json`, whose checksum is corrected if it is JSON, and checks the dataset."""

import functools
import json
import tempfile
from pathlib import Path

from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import Record
from keras_arcface.data import Source
from keras_arcface.data import check_dataset
from keras_arcface.data import info as info_module
from keras_arcface.data import load_info
from keras_arcface.data import write_dataset

COVERS = ("keras_arcface/data/info.py", "keras_arcface/_json.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32


class _Faces(list, Source):
    num_classes = 2
    class_names = ("ann", "bo")


_FOLDER = Path(tempfile.mkdtemp(), "faces")
_FACES = [Record(encode(make_face(i % 2, i, size=(4, 4))), i % 2, f"{i}.png") for i in range(4)]
_PATH = _FOLDER / "dataset.json"


@functools.cache
def _original():
    """Writes the dataset. At import it is too early, because TensorFlow's threads do not survive a fork."""
    return write_dataset(_Faces(_FACES), _FOLDER, examples_per_shard=2)


@functools.cache
def _content():
    _original()
    return _PATH.read_bytes()


def seeds():
    fields = json.loads(_content())
    fields |= {"source_labels": [3, 5], "alignment": "five_points", "skipped": ["damaged"], "class_names": None}
    return [_content(), json.dumps(fields, indent=1).encode()]


def run(data):
    _original()
    _PATH.write_bytes(_with_checksum(data))
    with named_errors(_PATH):
        info = load_info(_FOLDER)
    assert info.num_examples == sum(shard.num_examples for shard in info.shards)
    assert repr(info)
    with named_errors(_FOLDER, limit=10**6):
        check_dataset(_FOLDER)
    assert (info.shards, info.num_examples) == (_original().shards, _original().num_examples)
    assert info.num_classes <= 2 + len(info.skipped)


def _with_checksum(data: bytes) -> bytes:
    try:
        fields = json.loads(data)
        fields["sha256"] = info_module._checksum({key: fields[key] for key in fields if key != "sha256"})
        return json.dumps(fields).encode()
    except (ValueError, TypeError, IndexError, RecursionError):  # data that is not an object
        return data
