"""Center loss and the ArcFace paper's intra- and inter-loss as auxiliary losses, against float64."""

import json
import subprocess
import sys
from pathlib import Path

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
from gradients import value_and_gradients
from gradients import with_centers
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import CosFace
from keras_arcface.layers import AuxiliaryLossHead
from keras_arcface.layers import EmbeddingHead
from keras_arcface.layers import NormSoftmax
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithCenterLoss
from keras_arcface.layers import WithInterLoss
from keras_arcface.layers import WithIntraLoss
from keras_arcface.layers import WithQuality
from keras_arcface.losses import TripletLoss

SCALE = 8.0
every_class = pytest.mark.parametrize("auxiliary", [WithCenterLoss, WithIntraLoss, WithInterLoss, WithQuality])


def angle(first, second):
    return np.arccos(unit(first) @ unit(second))


def arcface(classes=CLASSES):
    return ArcFace(classes, margin=0.4, scale=SCALE)


def arcface_losses(embeddings, centers, labels):
    return references.losses(embeddings, centers, labels, SCALE, m2=0.4)


def with_inner_centers(head, centers):
    head.build((None, centers.shape[-1]))
    head.head.centers.assign(centers)
    return head


def test_intra_loss_equals_the_formula():
    embeddings, labels, centers = problem()

    def losses(embeddings, centers):
        angles = np.array([angle(x, centers[y]) for x, y in zip(embeddings, labels, strict=True)])
        return arcface_losses(embeddings, centers, labels) + 3.0 * angles / np.pi

    assert_is(losses, with_inner_centers(WithIntraLoss(arcface(), 3.0), centers), embeddings, labels, centers)


def test_inter_loss_equals_the_formula():
    embeddings, labels, centers = problem()

    def losses(embeddings, centers):
        means = [np.mean([angle(centers[y], centers[j]) for j in range(CLASSES) if j != y]) for y in labels]
        return arcface_losses(embeddings, centers, labels) - 3.0 * np.array(means) / np.pi

    assert_is(losses, with_inner_centers(WithInterLoss(arcface(), 3.0), centers), embeddings, labels, centers)


def test_center_loss_equals_the_formula():
    embeddings, labels, centers = problem()
    places = np.random.default_rng(5).normal(size=centers.shape).astype("float32")
    head = with_inner_centers(WithCenterLoss(arcface(), 0.3), centers)
    head.class_means.assign(places)

    def losses(embeddings, centers):
        pairs = zip(embeddings, labels, strict=True)
        distances = np.array([((x - places[y].astype("float64")) ** 2).sum() for x, y in pairs])
        return arcface_losses(embeddings, centers, labels) + 0.3 / 2 * distances

    assert_is(losses, head, embeddings, labels, centers)


def moved(places, embeddings, labels, alpha):
    """The paper's equation 4, a class and an example at a time."""
    after = places.astype("float64")
    for j in range(len(places)):
        rows = [x for x, y in zip(embeddings, labels, strict=True) if y == j]
        delta = sum((places[j] - x for x in rows), np.zeros(DIM)) / (1 + len(rows))
        after[j] = places[j] - alpha * delta
    return after


def test_class_means_move_only_in_training():
    embeddings, labels, centers = problem()
    assert np.bincount(labels).max() > 1 > np.bincount(labels, minlength=CLASSES).min()
    head = with_inner_centers(WithCenterLoss(arcface(), alpha=0.7), centers)
    places = np.zeros(centers.shape)
    for _ in range(3):
        before = ops.convert_to_numpy(head.loss(labels, embeddings))
        losses, _, _ = head.loss_and_stats(labels, embeddings, training=True)
        np.testing.assert_array_equal(ops.convert_to_numpy(losses), before)  # the loss is that before the step
        places = moved(places, embeddings, labels, alpha=0.7)
        error = np.abs(ops.convert_to_numpy(head.class_means) - places).max() / np.abs(places).max()
        print(f"places {error:.1e}")
        assert error < 1e-6
    assert not any(weight is head.class_means for weight in head.trainable_weights)


def test_embeddings_that_are_not_finite_move_nothing():
    embeddings, labels, centers = problem()
    head = with_inner_centers(WithCenterLoss(arcface()), centers)
    embeddings[2], labels[4] = np.nan, CLASSES
    losses, _, _ = head.loss_and_stats(labels, embeddings, training=True)
    np.testing.assert_array_equal(np.isnan(losses), np.isin(np.arange(BATCH), [2, 4]))
    right = [i for i in range(BATCH) if i not in (2, 4)]
    expected = moved(np.zeros(centers.shape), embeddings[right], labels[right], alpha=0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(head.class_means), expected, rtol=1e-5, atol=1e-6)


@every_class
@pytest.mark.parametrize("inner", [arcface, CosFace, NormSoftmax, SoftmaxProduct])
def test_logits_and_statistics_are_those_of_the_inner_head(auxiliary, inner):
    embeddings, labels, centers = problem()
    head, plain = auxiliary(inner(CLASSES), 2.0), with_centers(inner(CLASSES), centers)
    head = with_inner_centers(head, centers)
    np.testing.assert_array_equal(head(embeddings), plain(embeddings))
    if inner is not SoftmaxProduct:
        np.testing.assert_array_equal(head(embeddings, labels), plain(embeddings, labels))
    for ours, theirs in zip(
        head.loss_and_stats(labels, embeddings)[1:], plain.loss_and_stats(labels, embeddings)[1:], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert head.centers is head.head.centers


def test_the_intra_loss_is_to_the_nearest_sub_center():
    embeddings, labels, centers = problem()
    both = np.stack([-centers, centers], axis=1)
    head = with_inner_centers(WithIntraLoss(ArcFace(CLASSES, scale=SCALE, sub_centers=2), 1.0), both)
    plain = with_centers(ArcFace(CLASSES, scale=SCALE, sub_centers=2), both)
    losses = ops.convert_to_numpy(head.loss(labels, embeddings)) - ops.convert_to_numpy(plain.loss(labels, embeddings))
    angles = [min(angle(x, centers[y]), angle(x, -centers[y])) for x, y in zip(embeddings, labels, strict=True)]
    np.testing.assert_allclose(losses, np.array(angles) / np.pi, atol=1e-5)


@every_class
def test_the_ends_are_finite(auxiliary):
    _, labels, centers = problem()
    centers[1], centers[2] = 2 * centers[0], -centers[0]
    centers[3] = 0
    ends = np.concatenate([3 * centers[labels[:4]], -50 * centers[labels[4:8]], np.zeros((1, DIM))]).astype("float32")
    head = with_inner_centers(auxiliary(arcface(), 1.0), centers)
    value, gradients = value_and_gradients(lambda e: ops.mean(head.loss(labels, e)), ends)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_auxiliary_losses_can_be_nested():
    embeddings, labels, centers = problem()
    head = WithInterLoss(WithIntraLoss(WithCenterLoss(arcface(), 0.1, alpha=0.3), 2.0), 3.0)
    head.build((None, DIM))
    head.centers.assign(centers)
    total = ops.convert_to_numpy(head.loss(labels, embeddings))
    expected = arcface_losses(embeddings.astype("float64"), centers.astype("float64"), labels)
    for i, (x, y) in enumerate(zip(embeddings, labels, strict=True)):
        expected[i] += 0.05 * (x**2).sum() + 2.0 * angle(x, centers[y]) / np.pi
        expected[i] -= 3.0 * np.mean([angle(centers[y], centers[j]) for j in range(CLASSES) if j != y]) / np.pi
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    assert copy.get_config() == head.get_config()
    assert [outer.weight for outer in (copy, copy.head, copy.head.head)] == [3.0, 2.0, 0.1]
    assert copy.head.head.alpha == 0.3


def test_a_fit_step_moves_the_class_means():
    embeddings, labels, _ = problem()
    model = model_of(WithCenterLoss(SoftmaxProduct(CLASSES)))
    model.build((None, DIM))
    before = model.predict(embeddings, verbose=0)
    model.fit(embeddings, labels, batch_size=BATCH, shuffle=False, verbose=0)
    expected = moved(np.zeros((CLASSES, DIM)), before, labels, alpha=0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(model.head.class_means), expected, rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class WithNormPenalty(AuxiliaryLossHead):
    def auxiliary_loss(self, labels, embeddings, training):
        return ops.sum(ops.square(embeddings), axis=-1)


def test_a_custom_auxiliary_loss(tmp_path):
    embeddings, labels, centers = problem()

    def losses(embeddings, centers):
        return arcface_losses(embeddings, centers, labels) + 0.1 * (embeddings**2).sum(axis=1)

    assert_is(losses, with_inner_centers(WithNormPenalty(arcface(), 0.1), centers), embeddings, labels, centers)
    assert_goes_on_after_loading(model_of(WithNormPenalty(arcface(), 0.1)), embeddings, labels, tmp_path)
    with pytest.raises(NotImplementedError, match="AuxiliaryLossHead does not implement auxiliary_loss"):
        AuxiliaryLossHead(arcface(), 1.0).loss(labels, embeddings)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: WithCenterLoss(arcface(), weight=-1), "weight=-1"),
        (lambda: WithCenterLoss(arcface(), alpha=1.5), "alpha=1.5"),
        (lambda: WithIntraLoss(ArcFace(5, sample_rate=0.5)), "head="),
        (lambda: WithIntraLoss(EmbeddingHead(TripletLoss())), "head="),
        (lambda: WithInterLoss(ArcFace(5, sub_centers=3)), "sub_centers=3"),
        (lambda: WithInterLoss(WithCenterLoss(ArcFace(5, sub_centers=3))), "sub_centers=3"),
        (lambda: WithInterLoss(arcface(), dtype="float16"), "dtype='float16'"),
    ],
)
def test_invalid_arguments_are_refused(make, named):
    with pytest.raises(ValueError, match=f"Received: .*{named}"):
        make()


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_replicas_train_as_one():
    script = Path(__file__).with_name("every_head_replicas.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(report)
    assert max(report["two against one"].values()) < 1e-5
    assert report["triplets, two against halves"] < 1e-6
    assert report["triplets, halves against whole"] > 1e-3
