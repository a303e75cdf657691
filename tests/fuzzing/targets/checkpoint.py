"""Reads a checkpoint, or one with a damaged member and correct checksums."""

import io
import json
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
from fuzzing.named_errors import named_errors

from keras_arcface.training import checkpoint_files

COVERS = ("keras_arcface/training/checkpoint_files.py", "keras_arcface/_npz.py")
ALLOWED = (ValueError,)
MAX_MIB = 64

_PATH = checkpoint_files.checkpoint_path(Path(tempfile.mkdtemp()), 7)
_VALUES = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(True), np.zeros(2, np.uint32)]
_VARIABLES = [
    types.SimpleNamespace(path=f"layer/{index}", shape=value.shape, dtype=value.dtype.name)
    for index, value in enumerate(_VALUES)
]
_RUN = {"margin": 0.5, "names": ["a"]}
_MEMBERS = ("header.npy", "0.npy", "1.npy", "2.npy")


def _written():
    checkpoint_files.write_checkpoint(_PATH, 7, _RUN, _VARIABLES, _VALUES)
    with zipfile.ZipFile(_PATH) as archive:
        return _PATH.read_bytes(), {name: archive.read(name) for name in _MEMBERS}


_FILE, _CONTENTS = _written()
_HEADER = json.dumps(
    {
        "format": 1,
        "step": 7,
        "run_config": _RUN,
        "variables": [{"path": "v", "shape": list(value.shape), "dtype": value.dtype.name} for value in _VALUES],
    }
).encode()


def seeds():
    """The first byte selects the kind of the rest: the file, the JSON text of the header, or another member."""
    return [b"\0" + _FILE, b"\1" + _HEADER, *(bytes([2 + i]) + _CONTENTS[name] for i, name in enumerate(_MEMBERS))]


def run(data):
    kind, content = data[0] % 6 if data else 0, data[1:]
    _PATH.write_bytes(content if kind == 0 else _archive(kind, content))
    with named_errors(_PATH, 2000):
        values = checkpoint_files.read_checkpoint(_PATH, _VARIABLES, _RUN)
    assert [(value.shape, value.dtype) for value in values] == [(value.shape, value.dtype) for value in _VALUES]


def _archive(kind, content):
    if kind == 1:
        array = io.BytesIO()
        np.save(array, np.frombuffer(content, np.uint8))
        changed = {"header.npy": array.getvalue()}
    else:
        changed = {_MEMBERS[kind - 2]: content}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in _MEMBERS:
            archive.writestr(name, (_CONTENTS | changed)[name])
    return stream.getvalue()
