"""Constants in ONNX files: operators against onnx, and files that ask for more memory than their size explains."""

import itertools
import tracemalloc

import numpy as np
import pytest

from keras_arcface.pretrained import load_insightface
from keras_arcface.pretrained.onnx_reader import OnnxGraph

onnx = pytest.importorskip("onnx", reason="writes the files")
from onnx import TensorProto  # noqa: E402
from onnx import helper  # noqa: E402
from onnx import numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


def write(path, nodes, tensors):
    """Writes a graph in which PRelu uses the tensor "weight"."""
    nodes = [*nodes, helper.make_node("PRelu", ["data", "weight"], ["y"])]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "constants", [data], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def constant(path):
    """Returns the tensor "weight" of a file."""
    graph = OnnxGraph(path)
    (node,) = graph.consumers("data")
    return graph.constant(node, 1)


X = RNG.integers(-100, 100, (2, 3, 4)).astype(np.int8)
EVALUATED = {
    "constant": ([], {"value": numpy_helper.from_array(X)}, "Constant"),
    "numbers": ([], {"value_floats": [1.0, 2.0]}, "Constant"),
    "number": ([], {"value_int": 3}, "Constant"),
    "cast": ([X], {"to": TensorProto.FLOAT16}, "Cast"),
    "reshape": ([X, np.array([0, -1])], {}, "Reshape"),
    "flatten": ([X], {"axis": -1}, "Flatten"),
    "flatten all": ([X], {"axis": 3}, "Flatten"),
    "squeeze": ([X[:, :1], np.array([1])], {}, "Squeeze"),
    "squeeze all": ([X[:1, :1]], {}, "Squeeze"),
    "unsqueeze": ([X, np.array([0, -1])], {}, "Unsqueeze"),
    "transpose": ([X], {"perm": [2, 0, 1]}, "Transpose"),
    "reverse": ([X], {}, "Transpose"),
    "one scale": ([X, np.float32(0.1)], {}, "DequantizeLinear"),
    "scales": (
        [X, np.array([0.1, 0.2, 0.3, 0.4], "f4"), np.array([1, 2, 3, 4], "i1")],
        {"axis": -1},
        "DequantizeLinear",
    ),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_operators_equal_those_of_onnx(tmp_path, name):
    arrays, attributes, operator = EVALUATED[name]
    node = helper.make_node(operator, [f"x{n}" for n in range(len(arrays))], ["weight"], **attributes)
    inputs = {f"x{n}": np.asarray(array) for n, array in enumerate(arrays)}
    path = write(tmp_path / "model.onnx", [node], inputs)
    from onnx.reference import ReferenceEvaluator

    (expected,) = ReferenceEvaluator(node).run(None, inputs)
    np.testing.assert_array_equal(constant(path), expected.astype(np.float32))


def quadratic(path):
    node = helper.make_node("DequantizeLinear", ["x", "scale"], ["weight"], axis=1)
    return write(path, [node], {"x": np.zeros((40000, 1), "i1"), "scale": np.ones(10000, "f4")})


def chain(path):
    names = ["x", *(f"cast{n}" for n in range(200)), "weight"]
    pairs = enumerate(itertools.pairwise(names))
    nodes = [helper.make_node("Cast", [old], [new], to=6 + n % 2) for n, (old, new) in pairs]
    return write(path, nodes, {"x": np.zeros(100, "f4")})


def strings(path):
    node = helper.make_node("Cast", ["x"], ["weight"], to=TensorProto.STRING)
    return write(path, [node], {"x": np.zeros(3, "f4")})


def external_constant(path):
    tensor = numpy_helper.from_array(np.zeros(3, "f4"))
    tensor.data_location, tensor.raw_data = TensorProto.EXTERNAL, b""
    tensor.external_data.add(key="location", value="model.onnx")
    return write(path, [helper.make_node("Constant", [], ["weight"], value=tensor)], {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            quadratic,
            r"DequantizeLinear 'weight', which fails with .*each index or block of an axis of \(40000, 1\)",
        ),
        (chain, "expected constant weights in input 1 of PRelu .* Received: Cast 'cast"),
        (strings, "Cast 'weight', which fails with .*expected real numbers"),
        (external_constant, "Constant 'weight', which fails with .*expected a stored tensor. Received: external data"),
    ],
)
def test_constants_are_not_larger_than_their_inputs(tmp_path, make, message):
    path = make(tmp_path / "model.onnx")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            constant(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21 + 10 * path.stat().st_size
    finally:
        tracemalloc.stop()


def with_external_data(path, **entries):
    """Writes a graph whose weight, 6 values, is at byte 4 of `values.bin`. `entries` replace its description."""
    values = np.arange(7, dtype=np.float32)
    (path.parent / "values.bin").write_bytes(values.tobytes())
    write(path, [], {"weight": values[1:]})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in {"location": "values.bin", "offset": "4", "length": "24", **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("length", ["24", None], ids=["with length", "up to the end"])
def test_external_data(tmp_path, length):
    np.testing.assert_array_equal(constant(with_external_data(tmp_path / "model.onnx", length=length)), range(1, 7))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../values.bin"}, r"in a file next to the ONNX file. Received: location='../values.bin'"),
        ({"location": "/dev/zero"}, "Received: location='/dev/zero'"),
        ({"location": "absent.bin"}, "Received: location='absent.bin'"),
        ({"location": ""}, "Received: location=''"),
        ({"offset": "8"}, "within the 28 bytes of 'values.bin'. Received: 24 bytes at 8 for 'weight'"),
        ({"length": "1000000000000"}, "Received: 1000000000000 bytes at 4"),
        ({"offset": "-4"}, "Received: 24 bytes at -4"),
        ({"length": "four"}, "expected an ONNX file. Received: a file that fails with ValueError"),
    ],
)
def test_external_data_outside_of_its_file(tmp_path, entries, message):
    path = with_external_data(tmp_path / "model.onnx", **entries)
    with pytest.raises(ValueError, match=rf"model.onnx cannot be loaded: .*{message}"):
        load_insightface(path)


def test_tensors_together_are_not_larger_than_their_file(tmp_path):
    path = with_external_data(tmp_path / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    for number in range(10):
        model.graph.initializer.append(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"copy{number}"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="Received: 24 bytes at 4 for 'copy0', 48 bytes of all tensors"):
        load_insightface(path)


def test_arrays_that_broadcast_are_refused(tmp_path):
    """A difference of (n, 1) and (m,) has n * m values."""
    nodes = [
        helper.make_node("Conv", ["data", "kernel", "bias"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["x", "column", "column", "column", "column"], ["z"]),
    ]
    tensors = {"kernel": np.zeros((8, 3, 3, 3), "f4"), "bias": np.zeros(8, "f4"), "column": np.zeros((9, 1), "f4")}
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 16, 16])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "columns", [data], [z], initializers)), tmp_path / "model.onnx"
    )
    with pytest.raises(ValueError, match=r"expected arrays \(n,\) in BatchNormalization 'z', with the channels"):
        load_insightface(tmp_path / "model.onnx")


@pytest.mark.parametrize("change", [{"domain": "other"}, {"inputs": 40}], ids=["domain", "inputs"])
def test_other_operators_are_refused(tmp_path, change):
    node = helper.make_node("Concat", ["x"] * change.get("inputs", 1), ["weight"], domain=change.get("domain"))
    path = write(tmp_path / "model.onnx", [node], {"x": np.zeros(3, "f4")})
    with pytest.raises(ValueError, match=r"expected operators of ONNX with at most 32 inputs and .* Received: Concat"):
        load_insightface(path)
