"""Reads an `.onnx` file."""

import numpy as np
import pytest
from fuzzing import weight_files

onnx = pytest.importorskip("onnx", reason="reads the files")

COVERS = (
    "keras_arcface/pretrained/onnx_constants.py",
    "keras_arcface/pretrained/onnx_networks.py",
    "keras_arcface/pretrained/onnx_reader.py",
    "keras_arcface/pretrained/weights.py",
    "keras_arcface/pretrained/layouts/layout.py",
    "keras_arcface/pretrained/layouts/iresnet.py",
    "keras_arcface/pretrained/layouts/mobilefacenet.py",
)
ALLOWED = ()
MAX_SECONDS = 2
MAX_MIB = 64

_make = onnx.helper.make_node


def _model(nodes, constants, output):
    data = onnx.helper.make_tensor_value_info("data", 1, ["n", 3, 16, 16])
    values = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", [data], [onnx.helper.make_tensor_value_info(output, 1, None)], values)
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 13)])


def _iresnet():
    """Returns an IResNet of width 1 with one block in each stage."""
    constants = {"one": np.ones(1, "f4"), "shape": np.array([1, -1, 1, 1])}
    nodes = [_make("Sub", ["data", "mean"], ["s"]), _make("Mul", ["s", "factor"], ["m"])]
    constants |= {"mean": np.float32(127.5), "factor": np.float32(1 / 128)}

    def conv(name, x, inputs, filters, side, strides=1):
        constants[f"{name}w"] = np.zeros((filters, inputs, side, side), "f4")
        nodes.append(_make("Conv", [x, f"{name}w"], [name], strides=[strides] * 2, pads=[side // 2] * 4))
        return name

    def norm(name, x, channels):
        constants.setdefault(f"v{channels}", np.ones(channels, "f4"))
        nodes.append(_make("BatchNormalization", [x, *[f"v{channels}"] * 4], [name]))
        return name

    def prelu(name, x, channels):
        constants.setdefault(f"v{channels}", np.ones(channels, "f4"))
        nodes.append(_make("Reshape", [f"v{channels}", "shape"], [f"{name}s"]))
        nodes.append(_make("PRelu", [x, f"{name}s"], [name]))
        return name

    x = prelu("p", norm("n", conv("c", "m", 3, 1, 3), 1), 1)
    inputs = 1
    for stage in range(4):
        filters = 2**stage
        y = conv(f"{stage}a", norm(f"{stage}n", x, inputs), inputs, filters, 3)
        y = prelu(f"{stage}p", norm(f"{stage}m", y, filters), filters)
        y = norm(f"{stage}o", conv(f"{stage}b", y, filters, filters, 3, 2), filters)
        shortcut = norm(f"{stage}k", conv(f"{stage}d", x, inputs, filters, 1, 2), filters)
        nodes.append(_make("Add", [shortcut, y], [f"{stage}x"]))
        x, inputs = f"{stage}x", filters
    constants["fc"] = np.zeros((2, 8), "i1")
    constants |= {"scale": np.float32(0.5), "fcb": np.zeros(2, "f4")}
    nodes.append(_make("Flatten", [norm("z", x, 8)], ["f"]))
    nodes.append(_make("DequantizeLinear", ["fc", "scale"], ["q"]))
    nodes.append(_make("Gemm", ["f", "q", "fcb"], ["g"], transB=1))
    return _model(nodes, constants, norm("e", "g", 2))


def _chain(*nodes, **constants):
    return _model([*nodes, _make("Conv", ["data", "w"], ["y"])], constants, "y")


def seeds():
    x = np.zeros((1, 3, 1, 1), "f4")
    external = _chain(w=x)
    external.graph.initializer[0].data_location = 1
    external.graph.initializer[0].external_data.add(key="location", value="model.onnx")
    models = [
        _iresnet(),
        _chain(_make("Transpose", ["x"], ["w"], perm=[0, 1, 3, 2]), x=x),
        _chain(_make("Squeeze", ["x", "a"], ["u"]), _make("Unsqueeze", ["u", "a"], ["w"]), x=x, a=np.array([3])),
        _chain(_make("Flatten", ["x"], ["u"]), _make("Reshape", ["u", "s"], ["w"]), x=x, s=np.array([1, 3, 1, 1])),
        _chain(_make("Constant", [], ["u"], value_floats=[0.0]), _make("Cast", ["u"], ["w"], to=6)),
        external,
    ]
    return [model.SerializeToString() for model in models]


def run(data):
    weight_files.read(data, ".onnx")
