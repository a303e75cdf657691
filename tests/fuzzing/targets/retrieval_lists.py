"""Reads a list of CUB-200-2011 (first byte 0 to 2), SOP (3) or In-Shop (4), or the annotations of Cars196 (5)."""

import tempfile
from pathlib import Path

import retrieval_trees
from fuzzing.named_errors import named_errors

from keras_arcface.data import Cars196
from keras_arcface.data import Cub200
from keras_arcface.data import InShop
from keras_arcface.data import StanfordOnlineProducts

COVERS = tuple(
    f"keras_arcface/data/{name}.py"
    for name in ("retrieval_set", "cub200", "cars196", "mat_file", "online_products", "in_shop")
)
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_FOLDER = Path(tempfile.mkdtemp())
retrieval_trees.write_all(_FOLDER, [[b"a", b"b"], [b"c", b"d"]])
retrieval_trees.write_cars(_FOLDER / "cars196", {1: [b"a", b"b"]}, num_classes=2)
_CUB, _SOP = _FOLDER / "CUB_200_2011", _FOLDER / "Stanford_Online_Products"
_READERS = [
    *((_CUB / name, lambda: Cub200(_CUB, "train")) for name in Cub200.list_files),
    (_SOP / "Ebay_train.txt", lambda: StanfordOnlineProducts(_SOP, "train")),
    (_FOLDER / "In-shop" / "list_eval_partition.txt", lambda: InShop(_FOLDER / "In-shop", "query")),
    (_FOLDER / "cars196" / "cars_annos.mat", lambda: Cars196(_FOLDER / "cars196", "train")),
]
_CONTENTS = [path.read_bytes() for path, _ in _READERS]


def seeds():
    return [bytes([number]) + content for number, content in enumerate(_CONTENTS)]


def run(data):
    number, data = (data[0] % len(_READERS), data[1:]) if data else (0, b"")
    path, read = _READERS[number]
    path.write_bytes(data)
    try:
        with named_errors(_FOLDER):
            source = read()
    finally:
        path.write_bytes(_CONTENTS[number])
    assert len(source) == len(source.labels) > 0
    assert 0 <= source.labels.min() <= source.labels.max() < source.num_classes == len(source.class_names)
