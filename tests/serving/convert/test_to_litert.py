"""Graph of the export to LiteRT."""

from collections import Counter

import numpy as np
import pytest
from conftest import make_face

from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder
from keras_arcface.serving import export_litert

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai_edge_litert is absent")

CALIBRATION = np.stack([make_face(person, 0) for person in range(32)])


@pytest.fixture(scope="module")
def embedder():
    return make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)


def loaded(path):
    """Returns an interpreter without delegates, and the number of each operation."""
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    lite = interpreter.Interpreter(str(path), experimental_op_resolver_type=plain)
    return lite, Counter(entry["op_name"] for entry in lite._get_ops_details())


def test_the_graph_is_minimal(embedder, tmp_path):
    _, found = loaded(export_litert(embedder, tmp_path / "model.tflite"))
    print(dict(found))
    assert (found["CONV_2D"], found["PRELU"], found["FULLY_CONNECTED"]) == (7, 3, 1)
    assert not any("Flex" in name or name in ("TRANSPOSE", "RELU", "NEG") for name in found)


@pytest.mark.slow
def test_resizing_to_any_batch_size(embedder, tmp_path):
    path = export_litert(embedder, tmp_path / "model.tflite")
    lite = interpreter.Interpreter(str(path))
    entry = lite.get_input_details()[0]
    assert (list(entry["shape"]), list(entry["shape_signature"])) == ([1, 32, 32, 3], [-1, 32, 32, 3])
    assert entry["dtype"] == np.uint8
    outputs = lite.get_signature_runner().get_output_details()
    alone = lite.get_signature_runner()(images=CALIBRATION[4:5])
    lite.resize_tensor_input(entry["index"], (5, 32, 32, 3))
    lite.allocate_tensors()
    lite.set_tensor(entry["index"], CALIBRATION[:5])
    lite.invoke()
    np.testing.assert_allclose(lite.get_tensor(outputs["embedding"]["index"])[4:], alone["embedding"], atol=1e-6)
    np.testing.assert_allclose(lite.get_tensor(outputs["norm"]["index"])[4:], alone["norm"], rtol=1e-6)


@pytest.mark.slow
def test_int8_keeps_prelu_and_the_normalization_in_float32(embedder, tmp_path):
    pytest.importorskip("litert_quantizer", reason="litert_quantizer is absent")
    path = export_litert(embedder, tmp_path / "model.tflite", "int8", calibration=CALIBRATION)
    lite, found = loaded(path)
    lite.allocate_tensors()
    types = {entry["index"]: entry["dtype"] for entry in lite.get_tensor_details()}
    taken = {}
    for entry in lite._get_ops_details():
        taken.setdefault(entry["op_name"], set()).add(types[entry["inputs"][0]])
    print(dict(found))
    assert taken["CONV_2D"] == {np.int8}
    for operation in ("PRELU", "FULLY_CONNECTED", "SQRT", "DIV"):
        assert taken[operation] == {np.float32}
    weights = next(entry for entry in lite._get_ops_details() if entry["op_name"] == "FULLY_CONNECTED")["inputs"][1]
    assert types[weights] == np.int8
