"""Embedding of images by Apache Beam's `RunInference`."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face
from tiny_models import make_small_embedder

from keras_arcface import serving

apache_beam = pytest.importorskip("apache_beam")

from apache_beam.ml.inference.base import KeyedModelHandler  # noqa: E402
from apache_beam.ml.inference.base import RunInference  # noqa: E402
from apache_beam.testing.util import assert_that  # noqa: E402

from keras_arcface.beam import SavedModelHandler  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "exported"
    serving.export_saved_model(make_small_embedder(), path)
    return path


def test_every_key_gets_its_embedding(exported):
    size = make_small_embedder().input_shape[1:3]
    images = {f"person {person}": encode(make_face(person, 0, size)) for person in range(5)}
    images["damaged"] = b"damaged"
    signature = tf.saved_model.load(str(exported)).signatures["serve_bytes"]
    expected = {key: signature(image_bytes=tf.constant([image])) for key, image in images.items()}

    def check(results):
        found = {key: result.inference for key, result in results}
        assert found.keys() == images.keys()
        for key, outputs in expected.items():
            assert bool(found[key]["valid"]) == (key != "damaged")
            np.testing.assert_allclose(found[key]["embedding"], outputs["embedding"][0], atol=1e-6)
            np.testing.assert_allclose(found[key]["norm"], outputs["norm"][0], rtol=1e-5)

    with apache_beam.Pipeline() as pipeline:
        results = (
            pipeline
            | apache_beam.Create(list(images.items()))
            | RunInference(KeyedModelHandler(SavedModelHandler(exported, batch_size=4)))
        )
        assert_that(results, check)


def test_wrong_models_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains saved_model\.pb"):
        SavedModelHandler(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="must have the signature serve_bytes"):
        SavedModelHandler(tmp_path / "other").load_model()
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        SavedModelHandler(tmp_path / "other", batch_size=0)
