"""Graph of the export to ONNX."""

from collections import Counter

import keras
import numpy as np
import pytest
from conftest import make_face
from trained_embedders import trained

from keras_arcface.backbones import IResNet
from keras_arcface.backbones import MobileFaceNet
from keras_arcface.serving import export_onnx
from keras_arcface.serving.convert import onnx_optimization

onnx = pytest.importorskip("onnx", reason="onnx is absent")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
pytest.importorskip("tf2onnx", reason="tf2onnx is absent")

CALIBRATION = np.stack([make_face(person, 0) for person in range(32)])
# Operations at both ends: the cast of the pixels, their transpose, the last product, and the normalization.
ENDS = {"Cast": 1, "Transpose": 1, "MatMul": 1, "ReduceSum": 1, "Sqrt": 1, "Max": 1, "Unsqueeze": 1, "Div": 1}


@pytest.fixture(scope="module")
def iresnet():
    return trained(IResNet((1, 1), width=16, input_shape=(32, 32, 3)))


@pytest.fixture(scope="module")
def exported(iresnet, tmp_path_factory):
    """Path of the export in float32."""
    return export_onnx(iresnet, tmp_path_factory.mktemp("onnx") / "model.onnx")


def operations(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return Counter(node.op_type for node in model.graph.node)


def test_the_graph_of_an_iresnet_is_minimal(exported):
    found = operations(exported)
    print(dict(found))
    # Each of the two blocks has a BatchNorm before a padded convolution, which cannot be folded: Mul and Add. The other
    # Mul and Add belong to the pixels and the neck, and one Mul to the square of the norm.
    assert found == {**ENDS, "Conv": 7, "PRelu": 3, "Mul": 2 + 3 + 1, "Add": 2 + 2 + 3, "Flatten": 1}


def test_the_graph_of_a_mobilefacenet_is_minimal(tmp_path):
    backbone = MobileFaceNet(width=16, input_shape=(32, 32, 3), blocks=(1, 1, 1, 1))
    found = operations(export_onnx(trained(backbone), tmp_path / "model.onnx"))
    print(dict(found))
    kinds = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
    convolutions = sum(isinstance(layer, kinds) for layer in backbone.layers)
    activations = sum(isinstance(layer, keras.layers.PReLU) for layer in backbone.layers)
    assert found == {**ENDS, "Conv": convolutions, "PRelu": activations, "Mul": 3, "Add": 3 + 2, "Reshape": 1}


@pytest.mark.slow
def test_float16_and_int8_keep_the_graph(iresnet, exported, tmp_path):
    plain = operations(exported)
    halves = operations(export_onnx(iresnet, tmp_path / "float16.onnx", "float16"))
    large = sum(np.prod(weight.shape) >= 1024 for weight in iresnet.weights)
    assert halves - plain == {"Cast": large}
    eighths = operations(export_onnx(iresnet, tmp_path / "int8.onnx", "int8", calibration=CALIBRATION))
    assert set(eighths - plain) == {"QuantizeLinear", "DequantizeLinear"}
    assert not plain - eighths


def test_casts_of_weights_run_when_the_file_is_loaded(iresnet, tmp_path):
    path = export_onnx(iresnet, tmp_path / "float16.onnx", "float16")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert operations(tmp_path / "loaded.onnx")["Cast"] == 1  # that of the pixels


def test_the_file_uses_only_standard_operators(exported):
    model = onnx.load(exported)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 15)]
    sides = [entry.type.tensor_type.shape.dim for entry in (*model.graph.input, *model.graph.output)]
    assert [[side.dim_param or side.dim_value for side in entry] for entry in sides] == [
        ["n", 32, 32, 3],
        ["n", 16],
        ["n"],
    ]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_weights_that_float16_cannot_hold_are_refused(iresnet, tmp_path):
    large = keras.models.clone_model(iresnet)
    large.set_weights(iresnet.get_weights())
    kernel = large.get_layer("neck_dense").kernel
    kernel.assign(kernel * 1e7)
    with pytest.raises(ValueError, match="float16, batch of 1: the embeddings differ from the embedder's"):
        export_onnx(large, tmp_path / "model.onnx", "float16")
    assert not list(tmp_path.iterdir())


def keras_prelu(slope, swapped=False, other=False):
    """Returns `Relu(x) + slope * Relu(-x)`, or `Relu(x) + slope * Relu(-exp(x))` with `other`."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    node = onnx.helper.make_node
    nodes = [
        node("Exp" if other else "Identity", ["x"], ["z"]),
        node("Relu", ["x"], ["above"]),
        node("Neg", ["z" if other else "x"], ["minus"]),
        node("Relu", ["minus"], ["below"]),
        node("Mul", ["slope", "below"] if swapped else ["below", "slope"], ["scaled"]),
        node("Add", ["scaled", "above"] if swapped else ["above", "scaled"], ["y"]),
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(slope, np.float32), "slope")]
    graph = onnx.helper.make_graph(nodes, "prelu", [x], [y], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)


def answer_of(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_prelu_with_any_slope_becomes_one_operation(swapped):
    x = np.array([[-2, 0, 3], [5, -7, -11]], np.float32)
    model = keras_prelu([-0.25, 0.5, -1.5], swapped)
    before = answer_of(model, x)
    assert onnx_optimization.fuse_prelu(model) == 1
    onnx_optimization.remove_unused(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["PRelu"]
    np.testing.assert_array_equal(answer_of(model, x), before)
    np.testing.assert_array_equal(before, [[-0.5, 0, 3], [5, 3.5, -16.5]])


def test_similar_graphs_do_not_become_a_prelu():
    model = keras_prelu([-0.25, 0.5, -1.5], other=True)
    assert onnx_optimization.fuse_prelu(model) == 0
