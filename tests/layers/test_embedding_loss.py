"""The head that adds triplets to another head, and the BNNeck, against float64."""

import keras
import numpy as np
import pytest
import references
from comparing import CLASSES
from comparing import DIM
from comparing import assert_goes_on_after_loading
from comparing import assert_is
from comparing import model_of
from comparing import problem
from gradients import with_centers
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithCenterLoss
from keras_arcface.layers import WithDistillation
from keras_arcface.layers import WithEmbeddingLoss
from keras_arcface.losses import TripletLoss
from keras_arcface.models import make_embedder

MARGIN = 0.7
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype("uint8")
LABELS = np.repeat(np.arange(4), 3)


def triplet_losses(vectors, labels):
    """Batch-hard triplets, one anchor at a time."""
    losses = []
    for a, anchor in enumerate(vectors):
        distances = np.linalg.norm(vectors - anchor, axis=1)
        positives = [d for j, d in enumerate(distances) if labels[j] == labels[a] and j != a]
        negatives = [d for j, d in enumerate(distances) if labels[j] != labels[a]]
        losses.append(max(max(positives) - min(negatives) + MARGIN, 0) if positives and negatives else 0)
    return np.array(losses)


def triplets():
    return TripletLoss(MARGIN, squared=False, normalize=False)


def arcface():
    return ArcFace(CLASSES, margin=0.4, scale=8.0)


def make_model(seed=0, **options):
    keras.utils.set_random_seed(seed)
    images = keras.Input((8, 8, 3))
    backbone = keras.Model(images, keras.layers.Conv2D(6, 4, strides=4)(images), name="backbone")
    embedder = make_embedder(backbone, dim=6, dropout=0.0, neck="BNNeck")
    options = {"features_before": "embedding", **options}
    return RecognitionModel(embedder, WithEmbeddingLoss(SoftmaxProduct(4), triplets(), 2.0, **options, name="head"))


def test_loss_equals_the_formula():
    embeddings, labels, centers = problem()
    head = WithEmbeddingLoss(arcface(), triplets(), 3.0)
    head.build((None, DIM))
    head.centers.assign(centers)

    def losses(embeddings, centers):
        plain = references.losses(embeddings, centers, labels, 8.0, m2=0.4)
        return plain + 3.0 * triplet_losses(embeddings, labels)

    assert_is(losses, head, embeddings, labels, centers)


def test_an_image_with_a_wrong_label_changes_only_its_own_loss():
    embeddings, labels, centers = problem()
    head = WithEmbeddingLoss(with_centers(arcface(), centers), triplets())
    expected = ops.convert_to_numpy(head.loss(np.where(np.arange(len(labels)) == 4, CLASSES - 1, labels), embeddings))
    losses = ops.convert_to_numpy(head.loss(np.where(np.arange(len(labels)) == 4, CLASSES, labels), embeddings))
    np.testing.assert_array_equal(np.isnan(losses), np.arange(len(labels)) == 4)
    assert np.isfinite(expected).all()


def test_a_model_goes_on_after_loading(tmp_path):
    embeddings, labels, _ = problem()
    model = model_of(WithEmbeddingLoss(arcface(), triplets()))
    assert_goes_on_after_loading(model, embeddings, labels, tmp_path)


def bnneck(features, gamma, centers, bias, labels):
    """Losses of the BNNeck in a training step, from the features of a batch."""
    mean, variance = features.mean(axis=0), features.var(axis=0)
    embeddings = gamma * (features - mean) / np.sqrt(variance + 1e-5)
    logits = embeddings @ centers.T + bias
    log_sums = np.logaddexp.reduce(logits, axis=1)
    of_classes = log_sums - logits[np.arange(len(labels)), labels]
    return of_classes + 2.0 * triplet_losses(features, labels), embeddings


def test_the_triplets_of_a_bnneck_are_of_the_features_before_it():
    """Loss and updated weights of one step, whose gradient is that of the formula."""
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1))
    layers = [model.embedder.get_layer("backbone").layers[-1], model.embedder.get_layer("embedding"), model.head.head]
    kernel, offset = map(np.float64, layers[0].get_weights())
    gamma = np.float64(layers[1].get_weights()[0])
    centers, bias = map(np.float64, layers[2].get_weights())
    patches = np.float64(IMAGES).reshape(12, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(12, 4, 48) / 127.5 - 1

    def losses(kernel):
        features = patches.mean(axis=1) @ kernel + offset
        return bnneck(features, gamma, centers, bias, LABELS)[0]

    slopes = references.slopes(lambda k: losses(k).mean(), kernel.reshape(48, 6))
    loss = model.train_on_batch(IMAGES, LABELS)
    assert float(np.ravel(loss)[0]) == pytest.approx(losses(kernel.reshape(48, 6)).mean(), rel=1e-5)
    moved = kernel - 0.1 * slopes.reshape(kernel.shape)
    found = layers[0].get_weights()[0]
    error = np.abs(found - moved).max() / np.abs(0.1 * slopes).max()
    print(f"kernel after a step: error {error:.1e} of the largest change")
    assert error < 1e-3


def test_evaluate_and_predict_use_the_same_features():
    model = make_model()
    model.compile("sgd")
    model.embedder.get_layer("embedding").set_weights([np.ones(6), np.zeros(6), np.full(6, 0.2)])
    embeddings = model.predict(IMAGES, verbose=0)
    assert embeddings.shape == (12, 6)
    np.testing.assert_allclose(embeddings, ops.convert_to_numpy(model.embedder(IMAGES)), rtol=1e-5, atol=1e-6)
    before = keras.Model(model.embedder.input, model.embedder.get_layer("embedding").input)
    features = ops.convert_to_numpy(before(IMAGES)).astype("float64")
    of_classes = ops.convert_to_numpy(model.head.head.loss(LABELS, embeddings))
    expected = (of_classes + 2.0 * triplet_losses(features, LABELS)).mean()
    assert model.evaluate(IMAGES, LABELS, verbose=0)[0] == pytest.approx(expected, rel=1e-4)
    assert triplet_losses(features, LABELS).mean() != pytest.approx(triplet_losses(embeddings, LABELS).mean(), rel=0.01)


def test_the_model_has_no_additional_weights_and_is_saved(tmp_path):
    model = make_model()
    model.compile("sgd")
    parts = {id(weight) for part in (model.embedder, model.head) for weight in part.weights}
    assert {id(weight) for weight in model.weights} == parts
    model.fit(IMAGES, LABELS, batch_size=12, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(IMAGES, LABELS, verbose=0) == pytest.approx(model.evaluate(IMAGES, LABELS, verbose=0))
    for each in (model, loaded):
        each.fit(IMAGES, LABELS, batch_size=12, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), rtol=1e-4, atol=1e-4
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"Received: features_before='neck_bn'. Layers: .*neck_pooling"):
        make_model(features_before="neck_bn")
    with pytest.raises(ValueError, match=r"features_before='embedding'. Layers: $"):
        RecognitionModel(keras.layers.Dense(4), make_model().head)
    with pytest.raises(ValueError, match=r"loss must be a keras.losses.Loss.*Received: loss='triplet'"):
        WithEmbeddingLoss(arcface(), "triplet")
    embeddings, labels, _ = problem()
    head = WithEmbeddingLoss(arcface(), triplets(), features_before="embedding")
    with pytest.raises(ValueError, match=r"must be a pair \(labels, features\)"):
        head.loss(labels, embeddings)
    for outer in (WithCenterLoss, WithDistillation):
        with pytest.raises(ValueError, match=r"^head must be a head"):
            outer(head)
