"""L-Softmax and SphereFace as published, against float64."""

import numpy as np
import pytest
import references
from comparing import BATCH
from comparing import CLASSES
from comparing import DIM
from comparing import assert_is
from comparing import problem
from comparing import unit
from gradients import value_and_gradients
from gradients import with_centers
from keras import ops

from keras_arcface.layers import ASoftmax
from keras_arcface.layers import LSoftmax

heads = pytest.mark.parametrize("kind", [LSoftmax, ASoftmax])


def losses_of(embeddings, centers, labels, margin, annealing, normalized):
    """One example, one class after another."""
    losses = []
    for x, label in zip(embeddings, labels, strict=True):
        logits = []
        for j, w in enumerate(unit(centers) if normalized else centers):
            norms = np.linalg.norm(w) * np.linalg.norm(x)
            cosine = w @ x / norms
            psi = references.psi(np.arccos(cosine), m1=margin)
            logits.append(norms * ((annealing * cosine + psi) / (1 + annealing) if j == label else cosine))
        losses.append(np.logaddexp.reduce(logits) - logits[label])
    return np.array(losses)


@heads
@pytest.mark.parametrize(("margin", "annealing"), [(1, 0.0), (2, 5.0), (3, 0.0), (4, 0.0), (4, 5.0)])
def test_the_loss_equals_the_formula(kind, margin, annealing):
    embeddings, labels, centers = problem()
    head = with_centers(kind(CLASSES, margin=margin, base=annealing, minimum=0), centers)
    normalized = kind is ASoftmax
    assert_is(lambda e, c: losses_of(e, c, labels, margin, annealing, normalized), head, embeddings, labels, centers)
    angles = np.arccos((unit(embeddings) * unit(centers)[labels]).sum(axis=1))
    assert len(set(np.floor(4 * angles / np.pi))) > 2  # several branches of psi


@heads
def test_cross_entropy_of_the_logits_equals_the_loss(kind):
    embeddings, labels, centers = problem()
    head = with_centers(kind(CLASSES, base=2), centers)
    logits = ops.convert_to_numpy(head(embeddings, labels)).astype("float64")
    rows = np.arange(BATCH)
    losses, cosines, hits = map(ops.convert_to_numpy, head.loss_and_stats(labels, embeddings))
    np.testing.assert_allclose(losses, np.logaddexp.reduce(logits, axis=1) - logits[rows, labels], rtol=1e-5, atol=1e-5)
    plain = embeddings @ (unit(centers) if kind is ASoftmax else centers).T
    np.testing.assert_allclose(head(embeddings), plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cosines, (unit(embeddings) * unit(centers)[labels]).sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(hits, plain.argmax(axis=1) == labels)
    assert (logits[rows, labels] < plain[rows, labels]).all()
    logits[rows, labels] = plain[rows, labels]
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "at_1000"), [(LSoftmax, 1000 * 1.025**-35), (ASoftmax, 1000 / 121)])
def test_the_annealing_falls_with_the_batches_of_training(kind, at_1000):
    embeddings, labels, centers = problem()
    head = with_centers(kind(CLASSES), centers)
    assert float(head.annealing) == 1000
    for _ in range(3):
        head.loss_and_stats(labels, embeddings, training=True)
    head.loss(labels, embeddings)
    assert int(head.steps) == 3
    head.steps.assign(1000)
    assert float(head.annealing) == pytest.approx(at_1000, rel=1e-5)
    head.steps.assign(10_000_000)
    assert float(head.annealing) == (5 if kind is ASoftmax else pytest.approx(0, abs=1e-9))


@heads
def test_a_batch_of_training_is_counted_before_its_loss(kind):
    embeddings, labels, centers = problem()
    head = with_centers(kind(CLASSES, margin=4, base=10, gamma=1, power=1, minimum=0), centers)
    exact = embeddings.astype("float64"), centers.astype("float64")
    for annealing in (10 / 2, 10 / 3):
        losses = ops.convert_to_numpy(head.loss_and_stats(labels, embeddings, training=True)[0])
        expected = losses_of(*exact, labels, 4, annealing, kind is ASoftmax)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(head.loss(labels, embeddings), expected, rtol=1e-5, atol=1e-6)


@heads
def test_the_ends_are_finite(kind):
    _, labels, centers = problem()
    ends = np.concatenate([3 * centers[labels[:4]], -50 * centers[labels[4:8]], np.zeros((1, DIM))]).astype("float32")
    head = with_centers(kind(CLASSES, base=0, minimum=0), centers)
    value, (gradient,) = value_and_gradients(lambda e: ops.mean(head.loss(labels, e)), ends)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"margin": 1.5}, "margin=1.5"),
        ({"margin": 0}, "margin=0"),
        ({"base": -1}, "base=-1"),
        ({"minimum": "5"}, "minimum='5'"),
    ],
)
def test_invalid_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=f"Received: {named}"):
        LSoftmax(**{"num_classes": 5, **arguments})
