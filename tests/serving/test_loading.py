"""An embedder that is loaded from any format returns the same embeddings."""

import functools
import gc
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import _pixels
from keras_arcface import serving
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder

FACES = np.stack([make_face(person, 0) for person in range(5)])


@pytest.fixture(scope="module")
def embedder():
    return make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8)


def linear_onnx(path, channels_first=True, batch="n", element="FLOAT", channels=3):
    """Writes an ONNX model: the mean of each color times a matrix. The weights are inputs too, as of old exporters."""
    onnx = pytest.importorskip("onnx", reason="onnx is absent")
    from onnx import TensorProto
    from onnx import helper
    from onnx import numpy_helper

    weights = np.arange(channels * 4, dtype=np.float32).reshape(channels, 4) / 7 - 0.5
    shape = [batch, channels, 32, 32] if channels_first else [batch, 32, 32, channels]
    inputs = [helper.make_tensor_value_info("data", getattr(TensorProto, element), shape)]
    inputs.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, list(weights.shape)))
    inputs.append(helper.make_tensor_value_info("left_over", TensorProto.FLOAT, [3]))  # unused
    nodes = [
        helper.make_node("Cast", ["data"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3] if channels_first else [1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 4])]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return lambda images: images.astype(np.float64).mean(axis=(1, 2)) @ weights


def test_keras_files_and_saved_models(embedder, tmp_path):
    expected = embedder.predict(FACES, verbose=0)
    embedder.save(tmp_path / "embedder.keras")
    model = RecognitionModel(embedder, ArcFace(3))
    model(FACES)
    model.save(tmp_path / "model.keras")
    paths = ["embedder.keras", "model.keras"]
    if keras.backend.backend() == "tensorflow":
        serving.export_saved_model(embedder, tmp_path / "1", warmup_batch_sizes=(), check=False)
        paths.append("1")
    for path in paths:
        embed = serving.load_embedder(tmp_path / path)
        assert embed(FACES).dtype == np.float32
        np.testing.assert_allclose(embed(FACES), expected, atol=1e-5)
        with pytest.raises(ValueError, match=rf"{path} expects images of 32 x 32 pixels .* Received: 40 x 32"):
            embed(np.zeros((1, 40, 32, 3), np.uint8))


def test_saved_model_with_one_output(tmp_path):
    class Means(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, "pixels")])
        def serve(self, pixels):
            return {"means": tf.reduce_mean(pixels, axis=(1, 2))}

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, "pixels")])
        def serve_two(self, pixels):
            return {"a": pixels[:, 0, 0], "b": pixels[:, 1, 1]}

    module = Means()
    tf.saved_model.save(module, str(tmp_path / "one"), signatures={"serving_default": module.serve})
    tf.saved_model.save(module, str(tmp_path / "two"), signatures={"serving_default": module.serve_two})
    tf.saved_model.save(module, str(tmp_path / "other"), signatures={"other": module.serve})
    np.testing.assert_allclose(
        serving.load_embedder(tmp_path / "one")(FACES), FACES.mean(axis=(1, 2), dtype=np.float64), rtol=1e-5
    )
    with pytest.raises(
        ValueError, match=r"two: .* with one input.*Received: inputs \['pixels'\], outputs \['a', 'b'\]"
    ):
        serving.load_embedder(tmp_path / "two")
    with pytest.raises(ValueError, match=r"other: expected a signature.*Received: signatures \['other'\]"):
        serving.load_embedder(tmp_path / "other")


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("element", ["FLOAT", "UINT8"])
def test_onnx_files(channels_first, batch, element, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    reference = linear_onnx(tmp_path / "model.onnx", channels_first, batch, element=element)
    found = serving.load_embedder(tmp_path / "model.onnx")(FACES)
    np.testing.assert_allclose(found, reference(FACES), rtol=1e-4)


def test_color_mean_and_std(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    reference = linear_onnx(tmp_path / "model.onnx")
    found = serving.load_embedder(tmp_path / "model.onnx", color="BGR", mean=127.5, std=128.0)(FACES)
    np.testing.assert_allclose(found, reference((FACES[..., ::-1] - 127.5) / 128), rtol=1e-4, atol=1e-6)
    assert serving.Preprocessing()(FACES).dtype == np.uint8
    with pytest.raises(ValueError, match=r"color must be one of RGB, BGR. Received: color='rgb'"):
        serving.load_embedder(tmp_path / "model.onnx", color="rgb")
    with pytest.raises(ValueError, match="std must be above 0"):
        serving.load_embedder(tmp_path / "model.onnx", std=0)


def test_invalid_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be an existing embedder. Received: path='.*nothing.keras'"):
        serving.load_embedder(tmp_path / "nothing.keras")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path must be a .keras, .*Received: path='.*model.pt'"):
        serving.load_embedder(tmp_path / "model.pt")
    (tmp_path / "broken.keras").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.keras: expected a model that Keras can load. Received: "):
        serving.load_embedder(tmp_path / "broken.keras")
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    linear_onnx(tmp_path / "double.onnx", element="DOUBLE")
    with pytest.raises(ValueError, match=r"double.onnx: expected an input of type .*Received: tensor\(double\)"):
        serving.load_embedder(tmp_path / "double.onnx")
    linear_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model.onnx expects images of 32 x 32 pixels .*Received: 16 x 16"):
        serving.load_embedder(tmp_path / "model.onnx")(np.zeros((1, 16, 16, 3), np.uint8))
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.onnx: expected a model that onnxruntime can load. Received: "):
        serving.load_embedder(tmp_path / "broken.onnx")
    linear_onnx(tmp_path / "tall.onnx", channels=4)
    with pytest.raises(ValueError, match=r"tall.onnx: expected one input .*Received: .*'data', \['n', 4, 32, 32\]"):
        serving.load_embedder(tmp_path / "tall.onnx")


EXPORTS = {
    ".onnx": (serving.export_onnx, ("onnxruntime", "tf2onnx")),
    ".xml": (serving.export_openvino, ("openvino",)),
    ".tflite": (serving.export_litert, ("ai_edge_litert",)),
}


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    """Exports an embedder in float32, once per format. The suffix of a SavedModel is empty."""

    @functools.cache
    def export(suffix):
        if suffix == "":
            path = tmp_path_factory.mktemp("exported") / "1"
            return serving.export_saved_model(embedder, path, warmup_batch_sizes=(), check=False)
        write, modules = EXPORTS[suffix]
        for module in modules:
            pytest.importorskip(module, reason=f"{module} is absent")
        return write(embedder, tmp_path_factory.mktemp("exported") / f"model{suffix}", check=False)

    return export


@pytest.mark.parametrize("suffix", EXPORTS)
def test_exports_return_unnormalized_embeddings(suffix, embedder, exported):
    embed = serving.load_embedder(exported(suffix))
    for images in (FACES, FACES[:2], FACES):  # LiteRT's interpreter is resized
        found = embed(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, embedder.predict(images, verbose=0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=rf"model{suffix} expects images of 32 x 32 pixels .*Received: 40 x 32"):
        embed(np.zeros((1, 40, 32, 3), np.uint8))


WRONG_PIXELS = {
    "normalized": FACES / np.float32(127.5) - 1,
    "in 0..1": FACES / np.float32(255),
    "normalized by ImageNet": (FACES / np.float32(255) - 0.45) / 0.22,
    "16 bits": FACES.astype(np.uint16) * 257,
    "negative": FACES.astype(np.int16) - 128,
    "above 255": FACES.astype(np.int32) + 100,
    "NaN": np.where(FACES[0, 0, 0, 0] == FACES, np.nan, FACES),
    "infinite": np.where(FACES[0, 0, 0, 0] == FACES, np.inf, FACES),
    "complex": FACES.astype(np.complex64),
    "one image": FACES[0],
    "gray": FACES[..., :1],
    "channels first": FACES.transpose(0, 3, 1, 2),
    "with alpha": np.concatenate([FACES, FACES[..., :1]], axis=-1),
}


@pytest.mark.parametrize("suffix", ["", *EXPORTS])
def test_exports_refuse_other_pixels(suffix, exported):
    """They take uint8, to which a runtime would cast any number."""
    path = exported(suffix)
    embed = serving.load_embedder(path)
    expected = embed(FACES)
    for images in (FACES.astype(np.float32), FACES.astype(np.int64), tf.constant(FACES), tf.cast(FACES, tf.bfloat16)):
        np.testing.assert_array_equal(embed(images), expected)
    for name, images in {**WRONG_PIXELS, "fractions": FACES * np.float32(0.9)}.items():
        with pytest.raises(ValueError, match=r"expects RGB pixels .* Received: ") as raised:
            embed(images)
        assert str(path) in str(raised.value), name
    for scaling in ({"mean": 127.5}, {"std": 127.5}):
        with pytest.raises(ValueError, match=r"input of type uint8 .* mean must be 0 and std must be 1"):
            serving.load_embedder(path, **scaling)


def test_models_with_float_inputs_warn_about_scaled_pixels(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(_pixels, "_warned", set())
    path = tmp_path / "embedder.keras"
    embedder.save(path)
    embed = serving.load_embedder(path)
    for name, images in WRONG_PIXELS.items():
        if name in ("normalized", "in 0..1"):
            continue
        with pytest.raises(ValueError, match=r"embedder.keras expects RGB pixels .* Received: "):
            embed(images)
    with pytest.warns(UserWarning, match=r"given to .*embedder.keras are all within 0..1") as caught:
        embed(WRONG_PIXELS["in 0..1"])
    assert [warning.filename for warning in caught] == [__file__]
    embed(WRONG_PIXELS["normalized"])
    resized = FACES * np.float32(1.2) - 20
    np.testing.assert_allclose(embed(resized), embedder.predict(resized, verbose=0), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*np.object")  # in what Keras does for tf2onnx
@pytest.mark.parametrize("suffix", EXPORTS)
def test_two_outputs_that_are_not_embedding_and_norm(suffix, tmp_path):
    for module in EXPORTS[suffix][1]:
        pytest.importorskip(module, reason=f"{module} is absent")
    images = keras.Input((32, 32, 3), name="images")
    means = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, {"first": means, "second": means + 1})
    model(FACES)
    path, formats = tmp_path / f"model{suffix}", {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}
    model.export(str(path), format=formats[suffix], verbose=False)
    with pytest.raises(ValueError, match=rf"model{suffix}: expected one input .*Received: .*'first', 'second'"):
        serving.load_embedder(path)


def test_openvino_model_with_one_output(tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is absent")
    from openvino import opset13

    for batch, element in ((2, np.float32), (-1, np.float32), (2, np.float64)):
        data = opset13.parameter([batch, 3, 32, 32], element, name="data")
        model = openvino.Model([opset13.reduce_mean(data, np.array([2, 3]), False)], [data])
        openvino.save_model(model, tmp_path / "model.xml")
        if element == np.float64:
            with pytest.raises(ValueError, match=r"model.xml: expected an input of type .*Received: .*float64"):
                serving.load_embedder(tmp_path / "model.xml")
            continue
        found = serving.load_embedder(tmp_path / "model.xml")(FACES)
        np.testing.assert_allclose(found, FACES.mean(axis=(1, 2), dtype=np.float64), rtol=1e-5)
    (tmp_path / "broken.xml").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.xml: expected a model that OpenVINO can load. Received: "):
        serving.load_embedder(tmp_path / "broken.xml")


def test_litert_model_with_one_output(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="ai_edge_litert is absent")

    @tf.function
    def means(pixels):
        return tf.reduce_mean(pixels, axis=(1, 2))

    for batch in (2, 5):  # without a signature, and with a fixed batch size
        concrete = means.get_concrete_function(tf.TensorSpec([batch, 32, 32, 3], tf.float32))
        path = tmp_path / f"{batch}.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
        found = serving.load_embedder(path)(FACES)
        np.testing.assert_allclose(found, FACES.mean(axis=(1, 2), dtype=np.float64), rtol=1e-5)
    (tmp_path / "broken.tflite").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.tflite: expected a model that LiteRT can load. Received: "):
        serving.load_embedder(tmp_path / "broken.tflite")


def test_openvino_computes_in_the_precision_of_the_export(embedder, exported, tmp_path):
    """OpenVINO's default is bfloat16 on CPUs that support it."""
    openvino = pytest.importorskip("openvino", reason="openvino is absent")
    expected = embedder.predict(FACES, verbose=0)
    bfloat16 = serving.export_openvino(embedder, tmp_path / "bfloat16.xml", "bfloat16", check=False)
    difference = {
        precision: np.abs(serving.load_embedder(path)(FACES) - expected).max()
        for precision, path in (("float32", exported(".xml")), ("bfloat16", bfloat16))
    }
    print(difference)
    assert difference["float32"] < 1e-5
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert difference["bfloat16"] > 1e-3
    else:  # 16-bit weights, float32 arithmetic
        assert difference["bfloat16"] > 1e-5


@pytest.mark.parametrize(
    ("suffix", "hidden", "extra"), [(".xml", "openvino", "openvino"), (".tflite", "ai_edge_litert", "litert")]
)
def test_missing_runtime(suffix, hidden, extra, tmp_path, monkeypatch):
    for loaded in [name for name in sys.modules if name.split(".")[0] == hidden]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, hidden, None)
    (tmp_path / f"model{suffix}").touch()
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'keras-arcface\[{extra}\]'"):
        serving.load_embedder(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("hidden", ["onnxruntime", "onnx"])
def test_missing_onnx_modules(hidden, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
    linear_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[onnx\]'"):
        serving.load_embedder(tmp_path / "model.onnx")


def test_saved_model_variables_stay_alive(embedder, tmp_path):
    """The loaded object owns the variables, so the returned function must hold it."""
    serving.export_saved_model(embedder, tmp_path / "1", warmup_batch_sizes=(), check=False)
    embed = serving.load_embedder(tmp_path / "1")
    gc.collect()
    assert embed(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 8)
