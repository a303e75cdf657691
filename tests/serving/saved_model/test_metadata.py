import json
import logging

import keras
import numpy as np
import pytest

from keras_arcface import evaluation
from keras_arcface._alignment import TEMPLATE
from keras_arcface.serving import export_saved_model
from keras_arcface.serving.embedder_facts import weights_sha256
from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.metadata import read_metadata


def make_embedder(size=(28, 28)):
    inputs = keras.Input((*size, 3))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)), name="small")


def exported(embedder, path, **options):
    directory = export_saved_model(embedder, path, warmup_batch_sizes=(), check=False, **options)
    return json.loads((directory / "assets.extra" / "metadata.json").read_text())


def test_facts_about_the_model(tmp_path):
    embedder = make_embedder()
    described = exported(embedder, tmp_path / "1")
    assert described["image_size"] == [28, 28]
    assert (described["color"], described["embedding_size"], described["name"]) == ("RGB", 4, "small")
    assert described["alignment"] == {"method": "not stated"}
    assert described["weights_sha256"] == weights_sha256(embedder)
    assert described["computes_in"] == ["float32"]
    assert described["thresholds"] == {}


def test_the_alignment_is_the_stated_one(tmp_path):
    stated = exported(make_embedder(), tmp_path / "five", alignment="five_points")["alignment"]
    assert stated["method"] == "five_points"
    np.testing.assert_allclose(stated["template"], TEMPLATE / 4)
    assert exported(make_embedder(), tmp_path / "none", alignment="none")["alignment"] == {"method": "none"}
    assert exported(make_embedder((28, 20)), tmp_path / "unknown")["alignment"] == {"method": "not stated"}


@pytest.mark.parametrize(
    ("size", "alignment", "message"),
    [
        (
            (28, 20),
            "five_points",
            r"image_size must be square with alignment.* Received: image_size=\(28, 20\)",
        ),
        ((28, 28), "yes", r'must be "five_points", "none" or None.*Received: alignment=\'yes\''),
    ],
)
def test_invalid_alignments_are_refused(size, alignment, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_saved_model(make_embedder(size), tmp_path / "1", alignment=alignment)
    assert not (tmp_path / "1").exists()


def test_the_sha256_depends_only_on_the_weights(tmp_path):
    embedder = make_embedder()
    before = weights_sha256(embedder)
    embedder.save(tmp_path / "embedder.keras")
    assert weights_sha256(keras.saving.load_model(tmp_path / "embedder.keras")) == before
    kernel = embedder.layers[-1].kernel
    kernel.assign(kernel + np.eye(*kernel.shape) * 1e-6)
    assert weights_sha256(embedder) != before


def test_thresholds_are_those_of_the_evaluation(tmp_path, caplog):
    generator = np.random.default_rng(0)
    same = np.arange(600) < 300
    scores = generator.normal(np.where(same, 0.6, 0.0), 0.2)
    first = np.tile([1.0, 0.0], (600, 1))
    second = np.stack([np.clip(scores, -1, 1), np.sqrt(1 - np.clip(scores, -1, 1) ** 2)], axis=1)
    embeddings = np.stack([first, second], axis=1).reshape(1200, 2)
    result = evaluation.verify(embeddings, same, shuffle_seed=0)
    with caplog.at_level(logging.WARNING):
        thresholds = exported(make_embedder(), tmp_path / "1", evaluation=result)["thresholds"]
    assert list(thresholds) == ["0.01"]
    assert thresholds["0.01"]["threshold"] == result.at_far(0.01).threshold
    assert thresholds["0.01"]["impostors"] == 300
    assert caplog.text.count("The export has no thresholds for FARs of 0.001, 0.0001, 1e-05, 1e-06. ") == 1


def test_few_accepted_impostors_lead_to_a_wide_interval_and_a_warning(tmp_path, caplog):
    generator = np.random.default_rng(0)
    sets = [evaluation.Roc(generator.normal(3, 1, 500), generator.normal(size=500)) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        alone = exported(make_embedder(), tmp_path / "alone", evaluation=sets[0])["thresholds"]["0.01"]
    assert (alone["impostors_accepted"], alone["impostors"]) == (5, 500)
    np.testing.assert_allclose(alone["far_interval"], [0.00325, 0.02318], atol=5e-6)  # Clopper-Pearson, 5 of 500
    assert (
        "between 0.0033 and 0.023 (95% confidence). Use more or larger pair sets, with 10 or more accepted"
        in caplog.text
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pooled = evaluation.Roc.from_rocs(sets)
        together = exported(make_embedder(), tmp_path / "pooled", evaluation=pooled)["thresholds"]["0.01"]
    assert (together["impostors_accepted"], together["impostors"]) == (10, 1000)
    assert "FAR of 0.01 is uncertain" not in caplog.text
    assert np.diff(together["far_interval"]) < np.diff(alone["far_interval"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"not the metadata of an export: expected JSON. Received: JSONDecodeError"),
        (b"\x80{}", r"expected JSON. Received: UnicodeDecodeError"),
        (b"[" * 100_000, r"expected JSON. Received: JSON that is too deeply nested"),
        (b"[1]", r"expected a JSON object. Received: \[1\]"),
        (b'{"warmup_batch_sizes": 7}', r"contain warmup_batch_sizes as a list of int. Received: 7"),
        (b'{"warmup_batch_sizes": [1, "64"]}', r"as a list of int. Received: \[1, '64'\]"),
        (b'{"warmup_batch_sizes": [true]}', r"as a list of int. Received: \[True\]"),
        (b'{"computes_in": [[]]}', r"contain computes_in as a list of str. Received: \[\[\]\]"),
        (b" " * (1 << 20) + b"{}", r"have at most 1048576 bytes. Received: more"),
    ],
)
def test_damaged_metadata_is_named(content, message, tmp_path):
    path = tmp_path / METADATA_FILE
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"metadata.json .*{message}"):
        read_metadata(tmp_path)
    path.write_bytes(b"{}")
    assert read_metadata(tmp_path) == {"warmup_batch_sizes": [], "computes_in": []}
