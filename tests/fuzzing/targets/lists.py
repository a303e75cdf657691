"""Reads a CSV file (first byte 0), a `.lst` file (1), or LFW's list of pairs (2)."""

import tempfile
from pathlib import Path

from conftest import encode
from conftest import make_face
from fuzzing.named_errors import named_errors

from keras_arcface.data import ImageList
from keras_arcface.data import PairSet

COVERS = ("keras_arcface/data/list_files.py", "keras_arcface/data/image_list.py")
ALLOWED = (ValueError, FileNotFoundError)
MAX_SECONDS = 2
MAX_MIB = 32

_FOLDER = Path(tempfile.mkdtemp())
_FILES = [_FOLDER / name for name in ("list.csv", "list.lst", "pairs.txt")]
for _person in ("ann", "bo"):
    (_FOLDER / _person).mkdir()
    for _number in (1, 2):
        (_FOLDER / _person / f"{_person}_{_number:04d}.png").write_bytes(encode(make_face(0, 0, size=(4, 4)), ".png"))


def seeds():
    return [
        b"\0path,label\na.jpg,0\nb.jpg,12\n",
        b"\0a.jpg,ann\nb.jpg,bo\n",
        b'\0"a,b.jpg","bo ""x"""\r\nb.jpg,bo\r\n',
        "\0\ufeffimage,id\nä.jpg,3.0\n".encode(),
        b"\0010\t3.0\ta.jpg\n1\t4\tb/c.jpg\n",
        b"\0011\ta.jpg\t0\n1\tb.jpg\t3\n",
        b"\0011\ta.jpg\t0" + b"\t0.5" * 14 + b"\n",
        b"\0022\t1\nann\t1\t2\nann\t1\tbo\t2\nbo\t1\t2\nbo\t2\tann\t1\n",
    ]


def run(data):
    path = _FILES[data[0] % 3] if data else _FILES[0]
    path.write_bytes(data[1:])
    with named_errors(path):
        if path.suffix == ".txt":
            PairSet.from_pairs_txt(path, _FOLDER)
            return
        images = ImageList(path)
    assert len(images) == len(images.labels) > 0
    assert 0 <= images.labels.min() <= images.labels.max() < images.num_classes
