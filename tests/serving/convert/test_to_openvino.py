"""The graph that OpenVINO is given."""

from collections import Counter

import numpy as np
import pytest
from conftest import make_face

from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder
from keras_arcface.serving import export_openvino

openvino = pytest.importorskip("openvino", reason="openvino is absent")

CALIBRATION = np.stack([make_face(person, 0) for person in range(32)])


@pytest.fixture(scope="module")
def embedder():
    return make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)


def operations(path):
    return Counter(node.get_type_name() for node in openvino.Core().read_model(path).get_ops())


def kernels(path, hint):
    """What the CPU computes, and in which precision."""
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint}).get_runtime_model()
    kinds = [(node.get_rt_info()["layerType"], node.get_rt_info()["runtimePrecision"]) for node in model.get_ops()]
    return Counter((kind.astype(str), precision.astype(str)) for kind, precision in kinds)


def test_the_graph_is_as_small_as_can_be(embedder, tmp_path):
    path = export_openvino(embedder, tmp_path / "model.xml")
    found = operations(path)
    print(dict(found))
    assert (found["Convolution"], found["PRelu"], found["Transpose"]) == (7, 3, 2)
    assert not {"Relu", "Negative", "BatchNormInference"} & set(found)
    assert kernels(path, "f32")["Convolution", "f32"] == 7


def test_ranges_and_types_are_those_of_the_contract(embedder, tmp_path):
    model = openvino.Core().read_model(export_openvino(embedder, tmp_path / "model.xml"))
    entries = {
        entry.any_name: (str(entry.partial_shape), entry.element_type.get_type_name())
        for entry in (*model.inputs, *model.outputs)
    }
    assert entries == {"images": ("[?,32,32,3]", "u8"), "embedding": ("[?,16]", "f32"), "norm": ("[?]", "f32")}


@pytest.mark.parametrize(
    ("precision", "hint"),
    [
        ("float32", "f32"),
        pytest.param("float16", "f32", marks=pytest.mark.slow),
        ("bfloat16", "bf16"),
        pytest.param("int8", "f32", marks=pytest.mark.slow),
    ],
)
def test_the_model_says_what_to_compute_in(precision, hint, embedder, tmp_path):
    if precision == "int8":
        pytest.importorskip("nncf", reason="nncf is absent")
    path = export_openvino(embedder, tmp_path / "model.xml", precision, calibration=CALIBRATION)
    model = openvino.Core().read_model(path)
    assert model.get_rt_info(["keras_arcface", "inference_precision"]).astype(str) == hint
    if precision == "int8":
        found = operations(path)
        assert found["FakeQuantize"] > 7
        # Nothing is rounded from the product to the outputs: lengths are 1.
        assert not {"FakeQuantize"} & set(map(openvino_type, behind_the_product(model)))
        assert kernels(path, hint)["Convolution", "u8"] + kernels(path, hint)["Convolution", "i8"] == 7


def openvino_type(node):
    return node.get_type_name()


def behind_the_product(model):
    nodes, waiting = [], [result.input_value(0).get_node() for result in model.get_results()]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() not in ("MatMul", "Constant"):
            nodes.append(node)
            waiting += [value.get_node() for value in node.input_values()]
    return nodes


def test_weights_without_a_graph_are_not_overwritten_either(embedder, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"model.bin exists"):
        export_openvino(embedder, tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
