"""Reads a list of pairs (first byte 0) or of landmarks (1) of Racial Faces in the Wild."""

import tempfile
from pathlib import Path

import rfw_files
from fuzzing.named_errors import named_errors

from keras_arcface.data import RfwSet

COVERS = ("keras_arcface/data/rfw.py",)
ALLOWED = (ValueError, FileNotFoundError)
MAX_SECONDS = 2
MAX_MIB = 32

_FOLDER = Path(tempfile.mkdtemp())
rfw_files.write(_FOLDER, size=(32, 32))
_FILES = [_FOLDER / "txts" / "Asian" / f"Asian_{name}.txt" for name in ("pairs", "lmk")]
_CONTENTS = [file.read_bytes() for file in _FILES]


def seeds():
    return [bytes([number]) + content for number, content in enumerate(_CONTENTS)]


def run(data):
    number, data = (data[0] % 2, data[1:]) if data else (0, b"")
    for index, (file, content) in enumerate(zip(_FILES, _CONTENTS, strict=True)):
        file.write_bytes(data if index == number else content)
    with named_errors(_FOLDER):
        rfw = RfwSet(_FOLDER)
    assert len(rfw.pairs) == len(rfw.same) == len(rfw.groups)
    assert rfw.pairs.max() == len(rfw.names) - 1
