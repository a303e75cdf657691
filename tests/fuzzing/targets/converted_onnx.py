"""Converts an `.onnx` file operator by operator."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing.named_errors import named_errors

from keras_arcface.pretrained import load_onnx

onnx = pytest.importorskip("onnx", reason="reads the files")

COVERS = (
    "keras_arcface/pretrained/onnx_constants.py",
    "keras_arcface/pretrained/onnx_converter.py",
    "keras_arcface/pretrained/onnx_reader.py",
    *(
        f"keras_arcface/pretrained/onnx_operators/{name}.py"
        for name in ("arithmetic", "arrangement", "builder", "constants", "layers", "values")
    ),
)
ALLOWED = (ValueError,)

_make = onnx.helper.make_node
_FOLDER = Path(tempfile.mkdtemp())
_SIDE = 8


def _model(nodes, batch="n", **constants):
    """Returns a file of nodes from the images `x` to the embedding `y`."""
    images = onnx.helper.make_tensor_value_info("x", 1, [batch, 3, _SIDE, _SIDE])
    values = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", [images], [onnx.helper.make_tensor_value_info("y", 1, None)], values)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets).SerializeToString()


def _convolutions():
    vector, pads = np.ones(4, "f4"), np.array([0, 0, 1, 1, 0, 0, 1, 1])
    nodes = [
        _make("Sub", ["x", "mean"], ["a"]),
        _make("Conv", ["a", "k", "v"], ["b"], pads=[1] * 4, strides=[2, 2]),
        _make("BatchNormalization", ["b", "v", "v", "v", "v"], ["c"]),
        _make("PRelu", ["c", "slope"], ["d"]),
        _make("Pad", ["d", "pads"], ["e"]),
        _make("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], ceil_mode=1),
        _make("Conv", ["f", "depthwise"], ["g"], group=4, pads=[1] * 4),
        _make("GlobalAveragePool", ["g"], ["h"]),
        _make("Sigmoid", ["h"], ["i"]),
        _make("Mul", ["g", "i"], ["j"]),
        _make("AveragePool", ["j"], ["l"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        _make("Resize", ["l", "", "scales"], ["m"], mode="nearest"),
        _make("Flatten", ["m"], ["o"]),
        _make("Gemm", ["o", "dense", "v"], ["y"], transB=1),
    ]
    return _model(
        nodes,
        mean=np.float32(127.5),
        k=np.ones((4, 3, 3, 3), "f4"),
        v=vector,
        slope=np.ones((4, 1, 1), "f4"),
        pads=pads,
        depthwise=np.ones((4, 1, 3, 3), "f4"),
        scales=np.array([1, 1, 2, 2], "f4"),
        dense=np.ones((4, 4 * 10 * 10), "i1"),
    )


def _attention():
    nodes = [
        _make("Conv", ["x", "k"], ["a"], strides=[4, 4]),
        _make("Reshape", ["a", "tokens"], ["b"]),
        _make("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        _make("Shape", ["c"], ["shape"]),
        _make("Gather", ["shape", "zero"], ["n"]),
        _make("Concat", ["n", "one", "width"], ["class_shape"], axis=0),
        _make("Expand", ["token", "class_shape"], ["class"]),
        _make("Concat", ["class", "c"], ["d"], axis=1),
        _make("LayerNormalization", ["d", "v", "v"], ["e"]),
        _make("MatMul", ["e", "dense"], ["f"]),
        _make("Add", ["f", "bias"], ["h"]),
        _make("Split", ["h"], ["q", "s"], axis=2),
        _make("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
        _make("MatMul", ["q", "t"], ["u"]),
        _make("Softmax", ["u"], ["w"], axis=-1),
        _make("MatMul", ["w", "e"], ["m"]),
        _make("Slice", ["m", "zero", "one", "one"], ["o"]),
        _make("Squeeze", ["o", "one"], ["r"]),
        _make("ReduceL2", ["r"], ["p"], axes=[1]),
        _make("Div", ["r", "p"], ["y"]),
    ]
    return _model(
        nodes,
        k=np.ones((4, 3, 4, 4), "f4"),
        tokens=np.array([0, 4, -1]),
        zero=np.array([0]),
        one=np.array([1]),
        width=np.array([4]),
        token=np.ones((1, 1, 4), "f4"),
        v=np.ones(4, "f4"),
        dense=np.ones((4, 8), "f4"),
        bias=np.ones(8, "f4"),
    )


def _computed_constants():
    """Returns a file for one image whose weights and shape are computed."""
    nodes = [
        _make("DequantizeLinear", ["k", "scale"], ["a"]),
        _make("Range", ["start", "end", "step"], ["b"]),
        _make("Where", ["mask", "b", "start"], ["c"]),
        _make("Cast", ["c"], ["d"], to=1),
        _make("Unsqueeze", ["d", "axes"], ["e"]),
        _make("Tile", ["e", "repeats"], ["f"]),
        _make("Conv", ["x", "a"], ["g"]),
        _make("Add", ["g", "f"], ["h"]),
        _make("Clip", ["h", "", "scale"], ["i"]),
        _make("Pow", ["i", "scale"], ["j"]),
        _make("ReduceMean", ["j"], ["y"], axes=[2, 3], keepdims=0),
    ]
    return _model(
        nodes,
        batch=1,
        k=np.ones((4, 3, 1, 1), "i1"),
        scale=np.float32(2),
        start=np.int64(0),
        end=np.int64(4),
        step=np.int64(1),
        mask=np.array([True, False, True, True]),
        axes=np.array([1, 2]),
        repeats=np.array([1, 1, 1]),
    )


def seeds():
    return [_convolutions(), _attention(), _computed_constants()]


def run(data):
    path = _FOLDER / "model.onnx"
    path.write_bytes(data)
    with named_errors(path, limit=2000):
        embedder = load_onnx(path)
    assert embedder.input_shape[3] == 3, embedder.input_shape
    assert len(embedder.output_shape) == 2, embedder.output_shape
    assert embedder.count_params() <= 8 * len(data) + 2**22, f"{embedder.count_params()} weights of {len(data)} bytes"
