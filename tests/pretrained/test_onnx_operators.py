"""Each converted operator against ONNX Runtime, for one image and several, before and after a saved `.keras` file."""

import keras
import numpy as np
import pytest

from keras_arcface.pretrained import load_onnx
from keras_arcface.pretrained.onnx_operators import OPERATORS
from keras_arcface.pretrained.onnx_operators.values import BATCH
from keras_arcface.pretrained.onnx_operators.values import reshaped
from keras_arcface.pretrained.weights import UnsupportedFileError

onnx = pytest.importorskip("onnx", reason="writes the files")
onnxruntime = pytest.importorskip("onnxruntime", reason="computes the expected values")
from onnx import TensorProto  # noqa: E402
from onnx import helper  # noqa: E402
from onnx import numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 9, 8, 3), dtype=np.uint8)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape):
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def write(path, steps, batch="n", opset=17, size=(9, 8), shape=None):
    """Writes a graph in which each step uses the output of the step before, and a Flatten at its end.

    A step is `(operator, constants, attributes)`. A constant that is a string is the name of a tensor: "data", or the
    index of a step. By default, the first input is the output of the step before.
    """
    nodes, initializers, tensor = [], [], "data"
    for number, (operator, constants, attributes) in enumerate([*steps, ("Flatten", [], {})]):
        attributes, names = dict(attributes), [tensor]
        if attributes.pop("first", None) == "constant":
            names = []
        for index, constant in enumerate(constants):
            name = constant if isinstance(constant, str) or constant is None else f"c{number}_{index}"
            if name not in ("", None) and not isinstance(constant, str):
                initializers.append(numpy_helper.from_array(np.asarray(constant), name))
            names.append(name or "")
        outputs = [str(number), *attributes.pop("others", [])]
        nodes.append(helper.make_node(operator, names, outputs, name=f"node{number}", **attributes))
        tensor = outputs[0]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, shape or [batch, 3, *size])
    result = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [batch, None])
    graph = helper.make_graph(nodes, "operators", [data], [result], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def expected(path, images=IMAGES):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    return np.concatenate([session.run(None, {"data": image[None]})[0] for image in inputs])


KERNEL = {"kernel_shape": [3, 3]}
PIXELS = ("Conv", [normal(6, 3, 3, 3), normal(6)], {"pads": [1, 1, 1, 1]})
TOKENS = [PIXELS, ("Reshape", [np.array([0, 6, 72])], {}), ("Transpose", [], {"perm": [0, 2, 1]})]
VECTORS = [("GlobalAveragePool", [], {}), ("Flatten", [], {})]
HALVES = [("Split", [], {"axis": 1, "others": ["b"]}), ("Mul", ["b"], {})]
CASES = {
    "conv, asymmetric pads": [("Conv", [normal(4, 3, 3, 2)], {"pads": [0, 1, 2, 0], "strides": [2, 1]})],
    "conv, torch's strides": [("Conv", [normal(4, 3, 3, 3)], {"pads": [1, 1, 1, 1], "strides": [2, 2]})],
    "conv, dilations": [("Conv", [normal(4, 3, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 2]})],
    "conv, groups": [PIXELS, ("Conv", [normal(4, 3, 3, 3), normal(4)], {"group": 2})],
    "conv, depthwise": [PIXELS, ("Conv", [normal(12, 1, 3, 3)], {"group": 6, "pads": [1, 1, 1, 1]})],
    "conv, depthwise, two strides": [PIXELS, ("Conv", [normal(6, 1, 3, 3)], {"group": 6, "strides": [2, 1]})],
    "conv, one pixel": [("Conv", [normal(4, 3, 1, 1)], {"strides": [2, 2]})],
    "conv, same upper": [("Conv", [normal(4, 3, 2, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
    "conv, same lower": [("Conv", [normal(4, 3, 2, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]})],
    "conv, valid": [("Conv", [normal(4, 3, 2, 3)], {"auto_pad": "VALID"})],
    "batch norm": [("BatchNormalization", [positive(3), normal(3), normal(3), positive(3)], {"epsilon": 0.1})],
    "batch norm, vectors": [
        *VECTORS,
        ("BatchNormalization", [positive(3), normal(3), normal(3), positive(3)], {}),
    ],
    "batch norm, tokens": [
        *TOKENS,
        ("BatchNormalization", [positive(72), normal(72), normal(72), positive(72)], {}),
    ],
    "layer norm": [*TOKENS, ("LayerNormalization", [normal(6), normal(6)], {"epsilon": 0.1})],
    "layer norm, no offset": [*TOKENS, ("LayerNormalization", [normal(72, 6)], {"axis": 1})],
    "layer norm of the last axis of pixels": [PIXELS, ("LayerNormalization", [normal(8), normal(8)], {})],
    "instance norm": [("InstanceNormalization", [positive(3), normal(3)], {"epsilon": 0.1})],
    "instance norm, tokens": [*TOKENS, ("InstanceNormalization", [positive(72), normal(72)], {})],
    "prelu, channels": [PIXELS, ("PRelu", [normal(6, 1, 1)], {})],
    "prelu, elements": [("PRelu", [normal(3, 9, 8)], {})],
    "prelu, one": [("PRelu", [normal(1)], {})],
    "prelu, vectors": [*VECTORS, ("PRelu", [normal(3)], {})],
    "relu": [("Relu", [], {})],
    "leaky relu": [("LeakyRelu", [], {"alpha": 0.3})],
    "elu": [("Elu", [], {"alpha": 0.3})],
    "clip": [("Clip", [np.float32(-0.2), np.float32(0.4)], {})],
    "clip, low": [("Clip", [np.float32(-0.2)], {})],
    "clip, high": [("Clip", [None, np.float32(0.2)], {})],
    "clip, all": [("Clip", [np.finfo("f4").min], {})],
    "sigmoid": [("Sigmoid", [], {})],
    "hard sigmoid": [("HardSigmoid", [], {"alpha": 0.6})],
    "hard swish": [PIXELS, ("HardSwish", [], {})],
    "tanh": [("Tanh", [], {})],
    "erf": [("Erf", [], {})],
    "softplus": [("Softplus", [], {})],
    "softmax": [*TOKENS, ("Softmax", [], {"axis": 1})],
    "softmax, channels": [PIXELS, ("Softmax", [], {"axis": 1})],
    "exp, log": [("Exp", [], {}), ("Log", [], {})],
    "abs, sqrt, neg": [("Abs", [], {}), ("Sqrt", [], {}), ("Neg", [], {})],
    "reciprocal": [("Exp", [], {}), ("Reciprocal", [], {})],
    "add a constant of channels": [PIXELS, ("Add", [normal(6, 1, 1)], {})],
    "constant minus pixels": [PIXELS, ("Sub", [normal(1, 6, 9, 8), "0"], {"first": "constant"})],
    "constant of the last axes": [PIXELS, ("Mul", [normal(9, 8)], {})],
    "one divided by pixels": [("Exp", [], {}), ("Div", [np.float32(1), "0"], {"first": "constant"})],
    "multiply, other ranks": [PIXELS, ("ReduceMean", [], {"axes": [0 + 1], "keepdims": 1}), ("Mul", ["0"], {})],
    "sum": [PIXELS, ("Sum", ["0", normal(6, 1, 1)], {})],
    "max": [PIXELS, ("Max", [np.float32(0.1), normal(6, 1, 1)], {})],
    "min": [PIXELS, ("Min", [np.float32(0.1)], {})],
    "pow": [("Abs", [], {}), ("Pow", [np.float32(1.7)], {})],
    "square": [("Pow", [np.float32(2)], {})],
    "matmul": [*TOKENS, ("MatMul", [normal(6, 5)], {})],
    "matmul, bias": [*TOKENS, ("MatMul", [normal(6, 5)], {}), ("Add", [normal(5)], {})],
    "matmul, used twice": [
        *TOKENS,
        ("MatMul", [normal(6, 5)], {}),
        ("Add", [normal(5)], {}),
        ("Mul", ["3"], {}),
    ],
    "matmul from the left": [*TOKENS, ("MatMul", [normal(4, 72), "2"], {"first": "constant"})],
    "matmul of two": [*TOKENS, ("MatMul", ["1"], {}), ("Softmax", [], {}), ("MatMul", ["2"], {})],
    "gemm": [*VECTORS, ("Gemm", [normal(3, 5), normal(5)], {"alpha": 0.5, "beta": 2.0})],
    "gemm, transposed": [*VECTORS, ("Gemm", [normal(5, 3), normal(1)], {"transB": 1})],
    "max pool": [PIXELS, ("MaxPool", [], {**KERNEL, "strides": [2, 2], "pads": [1, 1, 1, 1]})],
    "max pool, ceil": [PIXELS, ("MaxPool", [], {**KERNEL, "strides": [2, 2], "ceil_mode": 1})],
    "max pool, window in the padding": [
        PIXELS,
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1}),
    ],
    "average pool": [PIXELS, ("AveragePool", [], {**KERNEL, "strides": [2, 2]})],
    "average pool, with pads": [
        PIXELS,
        ("AveragePool", [], {**KERNEL, "pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": 1}),
    ],
    "average pool, without pads": [PIXELS, ("AveragePool", [], {**KERNEL, "pads": [1, 1, 1, 1]})],
    "global average pool": [PIXELS, ("GlobalAveragePool", [], {})],
    "global max pool": [PIXELS, ("GlobalMaxPool", [], {})],
    "reduce mean": [PIXELS, ("ReduceMean", [], {"axes": [2, 3], "keepdims": 0})],
    "reduce one axis": [PIXELS, ("ReduceMean", [], {"axes": [-1], "keepdims": 0})],
    "reduce sum": [PIXELS, ("ReduceSum", [np.array([1, 3])], {"keepdims": 0})],
    "reduce max": [PIXELS, ("ReduceMax", [], {"axes": [1]})],
    "reduce l1": [PIXELS, ("ReduceL1", [], {"axes": [1]})],
    "reduce l2": [PIXELS, ("ReduceL2", [], {"axes": [1]})],
    "lp normalization": [PIXELS, ("LpNormalization", [], {"axis": 1})],
    "lp normalization, p=1": [PIXELS, ("LpNormalization", [], {"axis": 1, "p": 1})],
    "transpose": [PIXELS, ("Transpose", [], {"perm": [0, 3, 1, 2]}), ("Transpose", [], {"perm": [0, 2, 1, 3]})],
    "transpose, batch inside": [
        *TOKENS,
        ("Transpose", [], {"perm": [1, 0, 2]}),
        ("Mul", [normal(72, 1, 6)], {}),
        ("Transpose", [], {"perm": [1, 0, 2]}),
    ],
    "squeeze": [PIXELS, ("GlobalAveragePool", [], {}), ("Squeeze", [np.array([2, -1])], {})],
    "unsqueeze": [PIXELS, ("Unsqueeze", [np.array([1, -1])], {})],
    "concat": [PIXELS, ("Concat", ["data"], {"axis": 1})],
    "concat with a class token": [*TOKENS, ("Concat", [normal(1, 1, 6), "2"], {"axis": 1, "first": "constant"})],
    "split": [PIXELS, *HALVES],
    "split, sizes": [
        *TOKENS,
        ("Split", [np.array([4, 2])], {"axis": 2, "others": ["b"]}),
        ("MatMul", [normal(4, 2)], {}),
        ("Add", ["b"], {}),
    ],
    "slice": [PIXELS, ("Slice", [np.array([1, -2]), np.array([5, 2**62]), np.array([1, 3]), np.array([2, 1])], {})],
    "slice, backwards": [PIXELS, ("Slice", [np.array([-1]), np.array([-(2**62)]), np.array([2]), np.array([-2])], {})],
    "gather": [*TOKENS, ("Gather", [np.array(-1)], {"axis": 1})],
    "gather, several": [PIXELS, ("Gather", [np.array([4, 1])], {"axis": 1})],
    "expand": [PIXELS, ("GlobalAveragePool", [], {}), ("Expand", [np.array([1, 6, 2, 3])], {})],
    "tile": [PIXELS, ("Tile", [np.array([1, 2, 1, 3])], {})],
    "pad": [PIXELS, ("Pad", [np.array([0, 1, 0, 2, 0, 0, 1, 0]), np.float32(0.5)], {})],
    "pad, reflect": [PIXELS, ("Pad", [np.array([0, 0, 2, 2, 0, 0, 1, 0])], {"mode": "reflect"})],
    "resize, nearest": [
        PIXELS,
        (
            "Resize",
            [None, np.array([1, 1, 2, 3], "f4")],
            {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        ),
    ],
    "resize, nearest, half a pixel": [PIXELS, ("Resize", [None, np.array([1, 1, 2, 3], "f4")], {})],
    "resize, linear": [
        PIXELS,
        ("Resize", [None, None, np.array([1, 6, 18, 16])], {"mode": "linear"}),
    ],
    "shape": [
        *TOKENS,
        ("Shape", ["data"], {"first": "constant", "start": 0, "end": 1}),
        ("Concat", [np.array([12, 36])], {"axis": 0}),
        ("Reshape", ["2", "4"], {"first": "constant"}),
    ],
    "cast": [PIXELS, ("Cast", [], {"to": TensorProto.FLOAT}), ("Identity", [], {}), ("Dropout", [], {})],
    "reshape for one image": [PIXELS, ("Reshape", [np.array([1, 3, -1])], {})],
    "two convolutions of a constant": [
        PIXELS,
        ("Conv", [normal(1, 2, 9, 8), normal(6, 2, 1, 1)], {"first": "constant"}),
        ("Add", ["0"], {}),
    ],
}
ONE_IMAGE_ONLY = {"reshape for one image"}
NEW = {"gelu": [("Gelu", [], {})], "gelu, tanh": [("Gelu", [], {"approximate": "tanh"})]}


@pytest.mark.parametrize("name", [*CASES, *NEW])
def test_operators_equal_onnxruntime(tmp_path, name):
    steps = {**CASES, **NEW}[name]
    # One image is written as 1, so that a shape of the graph does not state the batch.
    path = write(tmp_path / "model.onnx", steps, 1 if name in ONE_IMAGE_ONLY else "n", 20 if name in NEW else 17)
    embedder = load_onnx(path)
    values = expected(path)
    assert embedder.output_shape == (None, values.shape[1])
    np.testing.assert_allclose(embedder(IMAGES), values, rtol=1e-5, atol=2e-5 * np.abs(values).max())
    embedder.save(tmp_path / "embedder.keras")
    loaded = keras.saving.load_model(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(loaded(IMAGES), embedder(IMAGES))


def test_every_operator_is_tested():
    tested = {operator for steps in (*CASES.values(), *NEW.values()) for operator, _, _ in steps}
    assert set(OPERATORS) <= tested | {"Flatten"}


def test_old_versions_have_attributes_instead_of_inputs(tmp_path):
    steps = [
        PIXELS,
        ("Clip", [], {"min": -0.5, "max": 0.5}),
        ("Slice", [], {"starts": [1], "ends": [5], "axes": [1]}),
        ("Pad", [], {"pads": [0, 0, 1, 0, 0, 0, 0, 0], "value": 0.5}),
        ("Split", [], {"axis": 1, "split": [1, 3], "others": ["b"]}),
        ("Mul", ["b"], {}),
        ("Unsqueeze", [], {"axes": [1]}),
        ("Squeeze", [], {"axes": [1]}),
        ("ReduceSum", [], {"axes": [2, 3]}),
        ("Softmax", [], {}),
    ]
    path = write(tmp_path / "model.onnx", steps, opset=9)
    np.testing.assert_allclose(load_onnx(path)(IMAGES), expected(path), rtol=1e-5)


def test_resize_before_opset_11_has_other_defaults(tmp_path):
    scales = [np.array([1, 1, 2, 3], "f4")]
    path = write(tmp_path / "nearest.onnx", [PIXELS, ("Resize", scales, {})], opset=10)
    values = expected(path)
    np.testing.assert_allclose(load_onnx(path)(IMAGES), values, rtol=1e-5, atol=2e-5 * np.abs(values).max())
    path = write(tmp_path / "linear.onnx", [PIXELS, ("Resize", scales, {"mode": "linear"})], opset=10)
    with pytest.raises(UnsupportedFileError, match=r"nearest or linear with half_pixel.*b'linear' with b'asymmetric'"):
        load_onnx(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"coordinate_transformation_mode": "asymmetric"},  # rounds 2 / 3 to 1
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"},
        {"nearest_mode": "floor"},
        {"coordinate_transformation_mode": "align_corners"},
        {"mode": "cubic"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ],
)
def test_other_kinds_of_resize_are_refused(tmp_path, attributes):
    path = write(tmp_path / "model.onnx", [PIXELS, ("Resize", [None, np.array([1, 1, 2, 3], "f4")], attributes)])
    with pytest.raises(UnsupportedFileError, match=r"Resize 'node1': expected (mode|each pixel 2 x 3 times)"):
        load_onnx(path)


N = BATCH


@pytest.mark.parametrize(
    ("shape", "target", "result"),
    [
        ((N, 6, 2, 2), (N, 24), (N, 24)),
        ((N, 6, 2, 2), (N, -1), (N, 24)),
        ((N, 6, 2, 2), (1, 24), (N, 24)),
        ((N, 6, 2, 2), (1, -1), (N, 24)),
        ((N, 6, 2, 2), (-1, 24), (N, 24)),
        ((N, 6, 2, 2), (0, -1), (N, 24)),
        ((N, 6, 2, 2), (6, 4), (6 * N, 4)),
        ((N, 6, 4), (1, 3, 2, 4), (N, 3, 2, 4)),
        ((N, 6, 4), (-1, 4), (6 * N, 4)),
        ((6 * N, 4), (1, 6, 4), (N, 6, 4)),
        ((6 * N, 4), (-1, 6, 4), (N, 6, 4)),
        ((6 * N, 4), (2, 3, 4), (2 * N, 3, 4)),
        ((6, N, 4), (6, 1, 2, 2), (6, N, 2, 2)),
        ((6, N, 4), (6, N * 2, 2), (6, N * 2, 2)),
        ((6, N, 4), (6, -1, 2), (6, 2 * N, 2)),
        ((6, 4), (2, -1), (2, 12)),
    ],
)
def test_shapes_with_the_size_of_a_batch(shape, target, result):
    assert reshaped(shape, target) == result


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((N, 6), (1, 5)),
        ((N, 6), (4, -1)),
        ((N, 6), (-1, -1)),
        ((N, 6), (1, 1, 0)),
        ((6, N, 4), (6, 2, 2)),  # (6, 2n, 2) or (6n, 2, 2)
        ((6, N, 4), (3, 8)),
        ((N, 6), (1, -6)),
    ],
)
def test_shapes_without_an_axis_for_the_batch_are_refused(shape, target):
    with pytest.raises(UnsupportedFileError, match=r"expected a shape for the values of \(.*n.* Received: \("):
        reshaped(shape, target)
