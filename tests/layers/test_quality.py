"""The predicted quality of CR-FIQA, against its formula in float64."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import references
from comparing import BATCH
from comparing import CLASSES
from comparing import DIM
from comparing import assert_goes_on_after_loading
from comparing import assert_is
from comparing import model_of
from comparing import problem
from comparing import unit
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithCenterLoss
from keras_arcface.layers import WithDistillation
from keras_arcface.layers import WithQuality
from keras_arcface.models import make_quality_model

SCALE = 8.0


def arcface(**kwargs):
    return ArcFace(CLASSES, margin=0.4, scale=SCALE, **kwargs)


def ratios(embeddings, centers, labels):
    """The paper's equations 4 to 6, one example at a time. Centers are `(classes, dim)` or `(classes, subs, dim)`."""
    found = []
    for x, y in zip(embeddings, labels, strict=True):
        cosines = [max(unit(x) @ unit(center) for center in np.atleast_2d(own)) for own in centers]
        found.append(cosines[y] / (max(c for j, c in enumerate(cosines) if j != y) + 1 + 1e-9))
    return np.array(found)


def smooth_l1(error, beta=0.5):
    error = abs(error)
    return error**2 / (2 * beta) if error < beta else error - beta / 2


def make(inner, centers, weight=3.0):
    head = WithQuality(inner, weight)
    head.build((None, DIM))
    head.centers.assign(centers)
    rng = np.random.default_rng(4)
    head.regressor.set_weights([0.1 * rng.normal(size=(DIM, 1)), np.array([0.4])])
    return head


def test_equals_the_formula():
    embeddings, labels, centers = problem()
    head = make(arcface(), centers)
    kernel, bias = (weights.astype("float64") for weights in head.regressor.get_weights())
    targets = ratios(embeddings.astype("float64"), centers.astype("float64"), labels)  # they have no gradient

    def losses(embeddings, centers):
        errors = (embeddings @ kernel + bias)[:, 0] - targets
        auxiliary = np.array([smooth_l1(error) for error in errors])
        return references.losses(embeddings, centers, labels, SCALE, m2=0.4) + 3.0 * auxiliary

    errors = np.abs((embeddings @ kernel + bias)[:, 0] - targets)
    assert errors.min() < 0.4
    assert errors.max() > 0.6
    assert_is(losses, head, embeddings, labels, centers)


@pytest.mark.parametrize("inner", [arcface, lambda: arcface(sub_centers=2), lambda: SoftmaxProduct(CLASSES)])
def test_true_quality_is_the_ratio_of_cosines(inner):
    embeddings, labels, centers = problem()
    if inner().sub_centers == 2:
        centers = np.stack([centers, -0.5 * np.roll(centers, 1, axis=1)], axis=1)
    head = make(inner(), centers)
    found = ops.convert_to_numpy(head.true_quality(labels, embeddings))
    np.testing.assert_allclose(found, ratios(embeddings, centers, labels), rtol=1e-5, atol=1e-6)
    labels[3] = CLASSES
    found = ops.convert_to_numpy(head.true_quality(labels, embeddings))
    np.testing.assert_array_equal(np.isnan(found), np.arange(BATCH) == 3)


def test_opposite_centers_have_a_finite_loss():
    centers = np.eye(1, DIM).astype("float32") * [[1.0], [-3.0]]
    head = WithQuality(ArcFace(2, scale=SCALE))
    head.build((None, DIM))
    head.centers.assign(centers)
    embeddings = np.concatenate([centers, np.zeros((1, DIM))]).astype("float32")
    assert np.isfinite(ops.convert_to_numpy(head.loss(np.array([0, 1, 0]), embeddings))).all()
    assert ops.convert_to_numpy(head.true_quality(np.array([0, 1, 0]), embeddings))[2] == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_the_prediction_is_learned(frozen):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 30).astype("int32")
    noise = rng.uniform(0, 2, (len(labels), 1))
    images = (4 * np.eye(CLASSES)[labels] + noise * rng.normal(size=(len(labels), CLASSES))).astype("float32")
    images = np.concatenate([images, noise.astype("float32")], axis=1)  # the noise is visible
    keras.utils.set_random_seed(2)
    embedder = keras.Sequential([keras.Input((CLASSES + 1,)), keras.layers.Dense(CLASSES + 1)])
    if frozen:
        embedder.set_weights([np.eye(CLASSES + 1), np.zeros(CLASSES + 1)])
        embedder.trainable = False
    head = WithQuality(ArcFace(CLASSES, margin=0.1, scale=SCALE))
    model = RecognitionModel(embedder, head)
    model.compile(keras.optimizers.Adam(0.02))
    before = [ops.convert_to_numpy(weight).copy() for weight in embedder.weights]
    model.fit(images, labels, batch_size=35, epochs=30, verbose=0)
    for weight, old in zip(embedder.weights, before, strict=True):
        assert np.array_equal(ops.convert_to_numpy(weight), old) == frozen
    embeddings = model.predict(images, verbose=0)
    true, predicted = (
        ops.convert_to_numpy(values) for values in (head.true_quality(labels, embeddings), head.quality(embeddings))
    )
    correlation = np.corrcoef(true, predicted)[0, 1]
    print(f"correlation {correlation:.2f}, mean error {np.abs(true - predicted).mean():.3f}")
    assert correlation > 0.5
    assert np.abs(true - predicted).mean() < 0.2


LOAD = """
import sys

import keras
import numpy as np

model = keras.saving.load_model(f"{sys.argv[1]}/quality.keras")
arrays = np.load(f"{sys.argv[1]}/arrays.npz")
outputs = model.predict(arrays["images"], verbose=0)
assert outputs.keys() == {"embedding", "quality"}
assert all(np.array_equal(outputs[name], arrays[name]) for name in outputs)
assert not [name for name in sys.modules if name.startswith("keras_arcface")]
"""


def test_a_saved_quality_model_is_plain_keras(tmp_path):
    images, labels, _ = problem()
    model = model_of(WithDistillation(WithCenterLoss(WithQuality(arcface()))))
    model.fit(images, (labels, images), verbose=0)
    quality_model = make_quality_model(model)
    outputs = quality_model.predict(images, verbose=0)
    np.testing.assert_array_equal(outputs["embedding"], model.predict(images, verbose=0))
    expected = model.head.head.head.quality(outputs["embedding"])
    np.testing.assert_allclose(outputs["quality"], expected, rtol=1e-6)
    assert outputs["quality"].shape == (BATCH,)
    quality_model.save(tmp_path / "quality.keras")
    np.savez(tmp_path / "arrays.npz", images=images, **outputs)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": "", "KERAS_BACKEND": keras.backend.backend()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_quality_model_follows_the_training(tmp_path):
    images, labels, _ = problem()
    model = model_of(WithQuality(arcface()))
    quality_model = make_quality_model(model)
    before = quality_model.predict(images, verbose=0)
    loaded = assert_goes_on_after_loading(model, images, labels, tmp_path)
    after = make_quality_model(loaded).predict(images, verbose=0)
    for name, values in quality_model.predict(images, verbose=0).items():
        assert not np.array_equal(values, before[name])
        np.testing.assert_array_equal(values, after[name])


class SubclassedEmbedder(keras.Model):
    def call(self, images):
        return images


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: WithQuality(arcface(), weight=-1), ValueError, "weight=-1"),
        (lambda: WithQuality(arcface(sample_rate=0.5)), ValueError, "head=<ArcFace"),
        (lambda: make_quality_model(model_of(WithCenterLoss(arcface()))), ValueError, "head=<WithCenterLoss"),
        (lambda: make_quality_model(model_of(arcface()).embedder), TypeError, "model=<Sequential"),
        (
            lambda: make_quality_model(RecognitionModel(SubclassedEmbedder(), WithQuality(arcface()))),
            ValueError,
            "embedder=<SubclassedEmbedder",
        ),
    ],
)
def test_invalid_arguments_are_refused(make, error, named):
    with pytest.raises(error, match=f"Received: {named}"):
        make()
