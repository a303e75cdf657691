"""Reads a `.safetensors` file."""

import json
import math

import pytest
from fuzzing import weight_files

pytest.importorskip("safetensors", reason="reads the files")

COVERS = (
    "keras_arcface/pretrained/state_dicts.py",
    "keras_arcface/pretrained/weights.py",
    "keras_arcface/pretrained/layouts/layout.py",
    "keras_arcface/pretrained/layouts/iresnet.py",
    "keras_arcface/pretrained/layouts/mobilefacenet.py",
)
ALLOWED = ()
MAX_SECONDS = 2
MAX_MIB = 64


def _file(tensors):
    """Returns a file of zeros for `{name: (dtype, bytes per value, shape)}`."""
    header, end = {}, 0
    for name, (dtype, size, shape) in tensors.items():
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def seeds():
    state = {"conv1.weight": ("F32", 4, (1, 3, 3, 3)), "layer4.0.conv1.weight": ("F16", 2, (1, 1))}
    return [
        _file({**state, "fc.weight": ("BF16", 2, (1, 8))}),
        _file({"module.a": ("I64", 8, (1, 2)), "b.num_batches_tracked": ("BOOL", 1, (1, 1))}),
        _file({}),
    ]


def run(data):
    weight_files.read(data, ".safetensors")
