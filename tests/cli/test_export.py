"""The commands `keras-arcface export saved-model`, `onnx`, `openvino` and `litert`."""

import json
import logging

import keras
import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import serving
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder

FORMATS = {
    "onnx": ("model.onnx", ("onnxruntime", "tf2onnx")),
    "openvino": ("model.xml", ("openvino", "nncf")),
    "litert": ("model.tflite", ("ai_edge_litert", "litert_quantizer")),
}


@pytest.fixture
def embedder(tmp_path):
    embedder = make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    embedder.save(tmp_path / "embedder.keras")
    return tmp_path / "embedder.keras"


@pytest.fixture
def pairs(tmp_path):
    """Writes twenty pairs, ten of them genuine."""
    images, same = [], []
    for person in range(20):
        images += [encode(make_face(person, 0)), encode(make_face(person if person % 2 else person + 100, 1))]
        same.append(person % 2 == 1)
    data.PairSet(images, np.array(same)).save(tmp_path / "pairs.npz")
    return tmp_path / "pairs.npz"


def skip_without(format_):
    for module in FORMATS[format_][1]:
        pytest.importorskip(module, reason=f"{module} is absent")


def test_saved_model(run, tmp_path, caplog):
    make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8).save(tmp_path / "embedder.keras")
    sets = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for start, path in zip((0, 1000), sets, strict=True):
        faces = [encode(make_face(start + pair * (pair % 2 or side), side)) for pair in range(120) for side in (0, 1)]
        data.PairSet(faces, np.arange(120) % 2 == 1).save(path)
    output = tmp_path / "models" / "faces" / "1"
    options = ("--batch-sizes", 1, "--mirror", "--alignment", "five_points", "--pairs", *sets)
    caplog.handler.setLevel(logging.NOTSET)
    done = run("export", "saved-model", tmp_path / "embedder.keras", output, *options)
    assert done.code == 0, done.err
    assert (output / "saved_model.pb").is_file()
    assert [line.partition(": AUC")[0] for line in done.out.splitlines()[:2]] == [*map(str, sets)]
    metadata = json.loads((output / "assets.extra" / "metadata.json").read_text())
    assert (metadata["mirrored"], metadata["alignment"]["method"]) == (True, "five_points")
    assert list(metadata["thresholds"]) == [
        "0.01"
    ]  # the 60 impostor pairs of one set do not support it, those of both sets do
    assert metadata["thresholds"]["0.01"]["impostors"] == 120
    assert "The threshold for a FAR of 0.01 is uncertain: it is determined by 1 of 120 impostor pairs" in caplog.text
    assert done.out.endswith(f"{output}: checked; signatures describe, serve_bytes, serving_default\n")
    again = run("export", "saved-model", tmp_path / "embedder.keras", output, *options)
    assert again.code == 1
    assert "error: " in again.err
    assert "must not exist or must be empty" in again.err
    assert "AUC" not in again.out  # the error precedes the embedding


def test_saved_model_as_json(run, embedder, pairs, tmp_path):
    options = ("--batch-sizes", 2, "--compare", "--keep-variables", "--pairs", pairs, "--json")
    done = run("export", "saved-model", embedder, tmp_path / "out", *options)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["path"] == str(tmp_path / "out")
    assert found["facts"] == json.loads((tmp_path / "out" / "assets.extra" / "metadata.json").read_text())
    facts = {name: found["facts"][name] for name in ("variables", "signatures", "warmup_batch_sizes", "image_size")}
    assert facts == {
        "variables": "kept",
        "signatures": ["compare", "describe", "serve_bytes", "serving_default"],
        "warmup_batch_sizes": [2],
        "image_size": [32, 32],
    }
    assert 0 <= found["parity"]["max_difference"] < 1e-5
    assert found["parity"]["min_cosine"] == pytest.approx(1, abs=1e-5)
    assert [sorted(entry) for entry in found["verification"]] == [["auc", "eer", "pairs"]]
    assert "AUC" in done.err


# The formats share their command line, and the exports have their own tests: one of them is enough by default.
@pytest.mark.parametrize(
    "format_", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "litert"))]
)
def test_int8_with_its_loss(format_, embedder, face_folder, pairs, run, tmp_path):
    skip_without(format_)
    output = tmp_path / "out" / FORMATS[format_][0]
    options = ("--precision", "int8", "--calibration", face_folder, "--images", 8, "--mirror")
    done = run("export", format_, embedder, output, *options, "--pairs", pairs, "--shuffle-seed", 0)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert output.exists()
    assert f"{output}: images -> embedding, norm; int8" in done.out
    assert "Compared with the embedder: a maximum difference of " in done.out
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("embedder", "int8 "))}
    accuracies = {row: float(values[0].removesuffix("%")) for row, values in rows.items()}
    lost = float(lines[-1].split()[3])
    assert lines[-1] == f"The export loses {lost:.2f} points of accuracy."
    assert lost == pytest.approx(accuracies["embedder"] - accuracies["int8"], abs=0.011)
    assert abs(float(rows["embedder"][1]) - float(rows["int8"][1])) < 0.05  # AUC


def test_onnx_as_json(run, embedder, pairs, tmp_path, monkeypatch):
    skip_without("onnx")
    output = tmp_path / "model.onnx"
    done = run("export", "onnx", embedder, output, "--pairs", pairs, "--shuffle-seed", 1, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["path"] == str(output)
    assert (found["facts"]["precision"], found["facts"]["embedding_size"]) == ("float32", 16)
    assert 0 < found["parity"]["max_difference"] < 1e-5
    assert 0 <= found["parity"]["max_norm_error"] < 1e-4
    (verified,) = found["verification"]
    assert (verified["pairs"], verified["shuffle_seed"]) == (str(pairs), 1)
    assert verified["embedder"]["accuracy"] == pytest.approx(verified["export"]["accuracy"], abs=0.06)

    noise = np.random.default_rng(0)
    monkeypatch.setattr(serving, "load_embedder", lambda path: lambda images: noise.normal(size=(len(images), 16)))
    done = run("export", "onnx", embedder, tmp_path / "worse.onnx", "--pairs", pairs, "--json")
    found = json.loads(done.out)
    assert found["parity"]["min_cosine"] < 0.9
    (verified,) = found["verification"]
    assert verified["embedder"]["accuracy"] - verified["export"]["accuracy"] > 0.1


def test_the_embedder_of_a_recognition_model_is_exported(run, tmp_path):
    skip_without("onnx")
    embedder = make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)
    model = RecognitionModel(embedder, ArcFace(3))
    model.build((None, 32, 32, 3))
    model.save(tmp_path / "model.keras")
    done = run("export", "onnx", tmp_path / "model.keras", tmp_path / "model.onnx", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["facts"]["weights_sha256"] == serving.embedder_facts.weights_sha256(embedder)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_has_its_function(format_, run, embedder, tmp_path, monkeypatch):
    """The exports themselves have their own tests."""
    calls = []
    monkeypatch.setattr(serving, f"export_{format_}", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(serving, "load_embedder", lambda path: keras.saving.load_model(embedder).predict_on_batch)
    done = run("export", format_, embedder, tmp_path / "model", "--precision", "float16", "--mirror")
    assert done.code == 0, done.err
    ((loaded, *others),) = calls
    assert loaded.input_shape == (None, 32, 32, 3)
    assert others == [tmp_path / "model", "float16", None, True]


def test_errors_are_printed_in_one_line(embedder, run, tmp_path):
    skip_without("onnx")
    (tmp_path / "text.keras").write_text("text")
    (tmp_path / "model.h5").write_text("text")
    (tmp_path / "has_no_images").mkdir()
    output = tmp_path / "model.onnx"
    for arguments, message in (
        (
            [embedder, output, "--precision", "int8"],
            "precision='int8', see calibration_images. Received: ",
        ),
        ([tmp_path / "nothing.keras", output], f"error: No such file or directory: {tmp_path / 'nothing.keras'}"),
        (
            [tmp_path / "model.h5", output],
            "error: Expected a file that `embedder.save(",
        ),
        ([tmp_path / "text.keras", output], "text.keras: expected a model that Keras can load"),
        ([embedder, output, "--calibration", tmp_path / "has_no_images"], "has_no_images must contain one sub-folder"),
        ([embedder, output, "--pairs", tmp_path / "absent.bin"], "error: No such file or directory: "),
        ([embedder, tmp_path / "model.txt"], "path must end with .onnx"),
    ):
        done = run("export", "onnx", *arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("error: ")
        assert message in done.err
    assert not output.exists()
