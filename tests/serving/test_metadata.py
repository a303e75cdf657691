import json
import logging

import keras
import numpy as np
import pytest

from keras_arcface import evaluation
from keras_arcface.data.alignment import TEMPLATE
from keras_arcface.serving import export_saved_model
from keras_arcface.serving.metadata import weights_sha256


def make_embedder(size=(28, 28)):
    inputs = keras.Input((*size, 3))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)), name="small")


def exported(embedder, path, **options):
    directory = export_saved_model(embedder, path, warmup_batch_sizes=(), check=False, **options)
    return json.loads((directory / "assets.extra" / "metadata.json").read_text())


def test_what_the_model_is_and_wants(tmp_path):
    embedder = make_embedder()
    described = exported(embedder, tmp_path / "1")
    assert described["image_size"] == [28, 28]
    assert (described["colour"], described["embedding_size"], described["name"]) == ("RGB", 4, "small")
    np.testing.assert_allclose(described["alignment"]["template"], TEMPLATE / 4)
    assert described["weights_sha256"] == weights_sha256(embedder)
    assert described["computes_in"] == ["float32"]
    assert described["thresholds"] == {}


@pytest.mark.parametrize(("size", "options"), [((28, 28), {"aligned": False}), ((28, 20), {})])
def test_there_is_no_template_where_none_was_used(size, options, tmp_path):
    assert exported(make_embedder(size), tmp_path / "1", **options)["alignment"] is None


def test_the_sha256_is_of_the_weights_alone(tmp_path):
    embedder = make_embedder()
    before = weights_sha256(embedder)
    embedder.save(tmp_path / "embedder.keras")
    assert weights_sha256(keras.saving.load_model(tmp_path / "embedder.keras")) == before
    kernel = embedder.layers[-1].kernel
    kernel.assign(kernel + np.eye(*kernel.shape) * 1e-6)
    assert weights_sha256(embedder) != before


def test_thresholds_are_those_of_the_evaluation_where_it_can_show_them(tmp_path, caplog):
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
    assert caplog.text.count("No threshold for a FAR of") == 4
