"""An exported embedder behind the double: this package's client and an independent one get the SavedModel's bits.

The difference from the embedder is printed.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face
from server_double import ServerDouble

from keras_arcface import backbones
from keras_arcface._choices import BATCH_SIZES
from keras_arcface.models import make_embedder
from keras_arcface.serving import FaceClient
from keras_arcface.serving import export_saved_model

BATCHES = (1, 7, 64)
FACES = np.stack([make_face(person, 0) for person in range(64)])


@dataclasses.dataclass(frozen=True)
class Point:
    threshold: float
    far: float
    tar: float = 0.9
    impostors: int = 3000
    impostors_accepted: int = 30
    far_interval: tuple = (0.006, 0.015)


class Evaluation:
    """Evaluation with enough impostor pairs for two thresholds."""

    def at_far(self, far):
        if far < 1e-3:
            raise ValueError("too few impostor pairs")
        return Point({1e-2: 0.3, 1e-3: 0.4}[far], far)


@pytest.fixture(scope="module")
def embedder():
    keras.utils.set_random_seed(1)
    return make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16)


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    options = {"compare": True, "evaluation": Evaluation(), "warmup_batch_sizes": (), "check": False}
    export_saved_model(embedder, base / "faces" / "1", **options)
    with ServerDouble(base) as double:
        yield double


def answer_of(exported, requests):
    """Returns the answer of the SavedModel in this process to some requests, one after the other."""
    answers = [exported.find(1).run("serving_default", {"images": tf.constant(images)}) for images in requests]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


@pytest.mark.parametrize("batch", BATCHES)
def test_the_saved_model_is_close_to_the_embedder(batch, exported, embedder):
    raw = embedder.predict(FACES[:batch], verbose=0).astype(np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    difference = np.max(np.abs(answer_of(exported, [FACES[:batch]])["embedding"] - unit))
    print(f"batch {batch}: the SavedModel is {difference:.1e} from embedder.predict")
    assert difference < 1e-5


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_gets_the_bits_of_the_saved_model(protocol, batch, exported):
    """The client sends 64 images as two requests. On some CPUs the bits depend on the number of images in a request."""
    expected = answer_of(exported, np.split(FACES[:batch], range(BATCH_SIZES[-1], batch, BATCH_SIZES[-1])))
    with FaceClient(getattr(exported, protocol)) as client:
        arrays, encoded = client.embed(FACES[:batch]), client.embed([encode(face) for face in FACES[:batch]])
    for found in (arrays, encoded):
        np.testing.assert_array_equal(found.embedding, expected["embedding"])
        np.testing.assert_array_equal(found.norm, expected["norm"])
        assert found.valid.all()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_independent_client_gets_the_same_bits(protocol, batch, exported):
    reason = "the independent client is absent: pip install --no-deps ovmsclient"
    ovmsclient = pytest.importorskip("ovmsclient", reason=reason)
    address = exported.grpc if protocol == "grpc" else exported.rest
    theirs = getattr(ovmsclient, f"make_{protocol}_client")(address.split("://")[1])
    answer = theirs.predict(inputs={"images": FACES[:batch]}, model_name="faces", model_version=1)
    expected = answer_of(exported, [FACES[:batch]])
    for name in ("embedding", "norm"):
        np.testing.assert_array_equal(np.asarray(answer[name], np.float32), expected[name])


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_gets_metadata_and_thresholds(protocol, exported):
    with FaceClient(getattr(exported, protocol)) as client:
        metadata = client.metadata()
        assert (client.threshold(1e-2), client.threshold(1e-3)) == (0.3, 0.4)
        assert client.operating_point(1e-2) == {
            **{"threshold": 0.3, "far": 0.01, "far_interval": [0.006, 0.015], "tar": 0.9},
            **{"impostors_accepted": 30, "impostors": 3000},
        }
    assert (metadata["package"], metadata["image_size"], metadata["embedding_size"]) == ("keras_arcface", [32, 32], 16)
    assert metadata["signatures"] == ["compare", "describe", "serve_bytes", "serving_default"]
