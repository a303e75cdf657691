"""Verification of small handmade SavedModels."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_arcface.serving import check_saved_model
from keras_arcface.serving.saved_model import export_check
from keras_arcface.serving.saved_model.loaders import npz_requests
from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE
from keras_arcface.serving.saved_model.warmup import Request
from keras_arcface.serving.saved_model.warmup import write_requests

IMAGES = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
REQUESTS = [Request("serving_default", {"images": IMAGES})]
OUTPUTS = [{"embedding": IMAGES.reshape(2, 12).astype(np.float32) / 255}]


def make_saved_model(directory, scale=255.0, fail=False):
    """Writes a SavedModel whose embedding is the pixels."""

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 3), tf.uint8, "images")])
    def embed(images):
        if fail:
            with tf.control_dependencies([tf.debugging.Assert(tf.shape(images)[0] > 5, ["never more than five"])]):
                images = tf.identity(images)
        return {"embedding": tf.reshape(tf.cast(images, tf.float32), (-1, 12)) / scale}

    module = tf.Module()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": embed})
    return directory


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    return make_saved_model(tmp_path_factory.mktemp("model") / "1")


@pytest.fixture
def at_once(monkeypatch):
    """Replaces the loaders with correct outputs."""

    def start_loader(directory, name, source, target):
        npz_requests.save(target, [("serving_default", OUTPUTS[0])])
        return subprocess.Popen([sys.executable, "-c", ""], stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(export_check, "_start_loader", start_loader)


@pytest.fixture
def cpp_only(monkeypatch):
    """Leaves only the C++ loader, which starts faster."""
    monkeypatch.delitem(export_check._LOADERS, "python")


def test_strings_and_arrays_survive_a_round_trip(tmp_path):
    requests = [
        ("a", {"x": IMAGES, "texts": [b"", b"a\x00", b"\x00"]}),
        ("b", {"none": []}),
        ("a", {"y": np.float32(1)}),
    ]
    npz_requests.save(tmp_path / "requests.npz", requests)
    loaded = npz_requests.load(tmp_path / "requests.npz")
    assert [signature for signature, _ in loaded] == ["a", "b", "a"]
    np.testing.assert_array_equal(loaded[0][1]["x"], IMAGES)
    assert loaded[0][1]["texts"] == [b"", b"a\x00", b"\x00"]
    assert loaded[1][1] == {"none": []}
    assert loaded[2][1]["y"] == 1


def test_both_loaders_run_the_requests_of_the_export(tmp_path):
    directory = make_saved_model(tmp_path / "1")
    write_requests(directory / WARMUP_FILE, REQUESTS)
    export_check.save_expected_outputs(directory, REQUESTS, OUTPUTS)
    assert check_saved_model(directory) == ["python", "cpp"]


def test_the_default_outputs_are_those_of_the_export(at_once, saved_model, tmp_path):
    directory = shutil.copytree(saved_model, tmp_path / "1")
    write_requests(directory / WARMUP_FILE, REQUESTS)
    export_check.save_expected_outputs(directory, REQUESTS, [{"embedding": OUTPUTS[0]["embedding"] + 0.01}])
    with pytest.raises(ValueError, match=r"must be within 0.0001 of the embedder's. Received: a difference of 0.01"):
        check_saved_model(directory)
    (directory / METADATA_FILE).write_text(json.dumps({"computes_in": ["bfloat16", "float32"]}))
    assert check_saved_model(directory) == ["python", "cpp"]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"embedding": OUTPUTS[0]["embedding"] * np.nan}, "a difference of nan"),
        (
            {"embedding": OUTPUTS[0]["embedding"] + 2e-4},
            "within 0.0001 of the embedder's. Received: a difference of 0.0002",
        ),
        ({"embedding": OUTPUTS[0]["embedding"][:1]}, r"must have the shape \(1, 12\). Received: \(2, 12\)"),
        ({"norm": np.ones(2)}, r"outputs must be \['norm'\]. Received: \['embedding'\]"),
    ],
)
def test_different_outputs_are_named(expected, message, at_once, saved_model):
    assert check_saved_model(saved_model, REQUESTS, OUTPUTS) == ["python", "cpp"]
    with pytest.raises(ValueError, match=message):
        check_saved_model(saved_model, REQUESTS, [expected])


def test_every_request_requires_expected_outputs(saved_model):
    with pytest.raises(ValueError, match="Received: 1 requests, 0 expected outputs"):
        check_saved_model(saved_model, REQUESTS, [])


def test_a_missing_signature_is_named(saved_model):
    with pytest.raises(ValueError, match=r"(?s)\(python loader\): expected outputs.*Received: signature='serve_bytes'"):
        check_saved_model(saved_model, [Request("serve_bytes", {"image_bytes": [b""]})])


@pytest.mark.usefixtures("cpp_only")
def test_a_request_of_the_wrong_type_fails(saved_model):
    with pytest.raises(ValueError, match=r"\(cpp loader\): expected outputs for every request. Received: exit status"):
        check_saved_model(saved_model, [Request("serving_default", {"images": [b"text"]})])


@pytest.mark.usefixtures("cpp_only")
def test_the_message_of_a_failing_graph_is_in_the_error(tmp_path):
    directory = make_saved_model(tmp_path / "1", fail=True)
    with pytest.raises(ValueError, match=r"(?s)1 \(cpp loader\): expected outputs.*never more than five"):
        check_saved_model(directory, REQUESTS, OUTPUTS)


@pytest.mark.usefixtures("cpp_only")
def test_a_damaged_saved_model_is_named(tmp_path):
    directory = make_saved_model(tmp_path / "1")
    (directory / "saved_model.pb").write_bytes((directory / "saved_model.pb").read_bytes()[:100])
    with pytest.raises(ValueError, match="expected outputs for every request"):
        check_saved_model(directory, REQUESTS)


def test_a_missing_saved_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a SavedModel, with saved_model.pb. Received: directory="):
        check_saved_model(tmp_path / "1")


def test_a_missing_c_library_leads_to_a_warning(saved_model, monkeypatch, tmp_path, caplog):
    script = tmp_path / "cpp.py"
    script.write_text(f"import sys; print('no library here', file=sys.stderr); sys.exit({export_check._NO_LIBRARY})")
    monkeypatch.setitem(export_check._LOADERS, "cpp", script)
    assert check_saved_model(saved_model, REQUESTS, OUTPUTS) == ["python"]
    assert "no library here" in caplog.text
