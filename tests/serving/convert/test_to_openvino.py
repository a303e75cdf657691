"""Graph of the export to OpenVINO."""

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
    """Returns the operations of the compiled model, with their precision."""
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint}).get_runtime_model()
    kinds = [(node.get_rt_info()["layerType"], node.get_rt_info()["runtimePrecision"]) for node in model.get_ops()]
    return Counter((kind.astype(str), precision.astype(str)) for kind, precision in kinds)


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    """Path of the export in float32."""
    return export_openvino(embedder, tmp_path_factory.mktemp("openvino") / "model.xml")


def hint_of(model):
    return model.get_rt_info(["keras_arcface", "inference_precision"]).astype(str)


def test_the_graph_is_minimal(exported):
    found = operations(exported)
    print(dict(found))
    assert (found["Convolution"], found["PRelu"], found["Transpose"]) == (7, 3, 2)
    assert not {"Relu", "Negative", "BatchNormInference"} & set(found)
    assert kernels(exported, "f32")["Convolution", "f32"] == 7


def test_inputs_outputs_and_precision_match_the_contract(exported):
    model = openvino.Core().read_model(exported)
    assert hint_of(model) == "f32"
    entries = {
        entry.any_name: (str(entry.partial_shape), entry.element_type.get_type_name())
        for entry in (*model.inputs, *model.outputs)
    }
    assert entries == {"images": ("[?,32,32,3]", "u8"), "embedding": ("[?,16]", "f32"), "norm": ("[?]", "f32")}


@pytest.mark.parametrize(
    ("precision", "hint"),
    [
        pytest.param("float16", "f32", marks=pytest.mark.slow),
        ("bfloat16", "bf16"),
        pytest.param("int8", "f32", marks=pytest.mark.slow),
    ],
)
def test_the_model_contains_the_precision_of_the_computation(precision, hint, embedder, tmp_path):
    if precision == "int8":
        pytest.importorskip("nncf", reason="nncf is absent")
    path = export_openvino(embedder, tmp_path / "model.xml", precision, calibration=CALIBRATION)
    model = openvino.Core().read_model(path)
    assert hint_of(model) == hint
    if precision == "int8":
        found = operations(path)
        assert found["FakeQuantize"] > 7
        # Nothing between the last product and the outputs is rounded, so that embeddings have length 1.
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


def test_an_existing_file_of_weights_is_not_overwritten(embedder, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"must not exist. Received: .*model.bin"):
        export_openvino(embedder, tmp_path / "model.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
