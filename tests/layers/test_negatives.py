"""Hard negatives and the binary loss, in blocks and whole, against float64."""

import keras
import numpy as np
import pytest
import references
from gradients import mean_loss_gradients
from gradients import with_centers
from keras import ops

from keras_arcface import MarginProduct
from keras_arcface.layers import CurricularNegatives
from keras_arcface.layers import MisclassifiedNegatives
from keras_arcface.layers import UniFace
from keras_arcface.margins import CombinedMargin

BATCH, CLASSES, DIM, SCALE = 9, 23, 6, 8.0
RUNNING = 0.3
HARD = {
    "MV-softmax": (MisclassifiedNegatives(1.2), lambda cosine: 1.2 * cosine + 0.2),
    "MV-softmax, fixed": (MisclassifiedNegatives(1.2, fixed=True), lambda cosine: cosine + 0.2),
    "CurricularFace": (CurricularNegatives(), lambda cosine: cosine * (RUNNING + cosine)),
}
hard_ones = pytest.mark.parametrize("name", HARD)
memories = pytest.mark.parametrize("memory", [0, 2**40], ids=["again", "kept"])


def problem():
    generator = np.random.default_rng(2)
    labels = generator.integers(0, CLASSES, BATCH)
    centers = generator.normal(size=(CLASSES, DIM)).astype("float32")
    embeddings = generator.normal(size=(BATCH, DIM)) + np.linspace(-1, 2, BATCH)[:, None] * centers[labels]
    return embeddings.astype("float32"), labels, centers


def cosines_of(embeddings, centers):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T


def softmax_losses(embeddings, centers, labels, hard):
    """One example, one class after another."""
    losses = []
    for row, label in zip(cosines_of(embeddings, centers), labels, strict=True):
        own = references.psi(np.arccos(row[label]), m2=0.5)
        others = [hard(cosine) if cosine > own else cosine for j, cosine in enumerate(row) if j != label]
        losses.append(np.logaddexp.reduce(SCALE * np.array([own, *others])) - SCALE * own)
    return np.array(losses)


def binary_losses(embeddings, centers, labels, bias, weight):
    losses = []
    for row, label in zip(cosines_of(embeddings, centers), labels, strict=True):
        others = np.logaddexp(0, SCALE * np.delete(row, label) - bias).sum()
        losses.append(np.logaddexp(0, bias - SCALE * (row[label] - 0.3)) + weight * others)
    return np.array(losses)


def assert_is(reference, head, embeddings, labels, centers):
    exact = embeddings.astype("float64"), centers.astype("float64")
    losses = ops.convert_to_numpy(head.loss(labels, embeddings))
    expected = reference(*exact)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    wanted = (
        references.slopes(lambda e: reference(e, exact[1]).mean(), exact[0]),
        references.slopes(lambda c: reference(exact[0], c).mean(), exact[1]),
    )
    found = mean_loss_gradients(head, embeddings, centers, labels)
    for gradient, right in zip(found, wanted, strict=True):
        error = np.abs(gradient - right).max() / np.abs(right).max()
        print(f"loss {np.abs(losses / expected - 1).max():.1e}, gradient {error:.1e}")
        assert error < 1e-5


def head_with(negatives, centers, **options):
    head = with_centers(
        MarginProduct(CLASSES, margin=CombinedMargin(m2=0.5), scale=SCALE, negatives=negatives, **options), centers
    )
    if isinstance(negatives, CurricularNegatives):
        head.statistics["hardness"].assign(RUNNING)
    return head


@hard_ones
@memories
@pytest.mark.parametrize("block", [5, pytest.param(23, marks=pytest.mark.slow)])
def test_hard_negatives_equal_the_formula(name, memory, block):
    negatives, hard = HARD[name]
    embeddings, labels, centers = problem()
    head = head_with(negatives, centers, chunk_size=block, max_cache_bytes=memory)
    assert_is(lambda e, c: softmax_losses(e, c, labels, hard), head, embeddings, labels, centers)
    cosines = cosines_of(embeddings, centers)
    own = references.psi(np.arccos(cosines[np.arange(BATCH), labels]), m2=0.5)
    assert 0.05 < np.mean(cosines > own[:, None]) < 0.95  # both kinds are there


@hard_ones
def test_cross_entropy_of_the_logits_equals_the_loss(name):
    embeddings, labels, centers = problem()
    head = head_with(HARD[name][0], centers)
    logits = ops.convert_to_numpy(head(embeddings, labels)).astype("float64")
    expected = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(BATCH), labels]
    np.testing.assert_allclose(ops.convert_to_numpy(head.loss(labels, embeddings)), expected, rtol=1e-5)
    np.testing.assert_allclose(head(embeddings), SCALE * cosines_of(embeddings, centers), rtol=1e-4, atol=1e-5)


def test_hard_negatives_with_sub_centers():
    embeddings, labels, centers = problem()
    twice = np.stack([centers, -centers], axis=1)
    head = head_with(MisclassifiedNegatives(), twice, sub_centers=2, chunk_size=5)
    whole = ops.convert_to_numpy(head(embeddings, labels)).astype("float64")
    expected = np.logaddexp.reduce(whole, axis=1) - whole[np.arange(BATCH), labels]
    np.testing.assert_allclose(ops.convert_to_numpy(head.loss(labels, embeddings)), expected, rtol=1e-5)


def test_the_running_mean_of_curricularface_follows_the_targets():
    embeddings, labels, centers = problem()
    head = with_centers(
        MarginProduct(CLASSES, margin=CombinedMargin(m2=0.5), scale=SCALE, negatives=CurricularNegatives(momentum=0.9)),
        centers,
    )
    own = cosines_of(embeddings, centers)[np.arange(BATCH), labels].mean()
    for step in range(1, 4):
        head.loss_and_stats(labels, embeddings, training=True)
        found = float(ops.convert_to_numpy(head.statistics["hardness"]))
        assert found == pytest.approx(own * (1 - 0.9**step), rel=1e-5)
    head.loss(labels, embeddings)
    assert float(ops.convert_to_numpy(head.statistics["hardness"])) == found
    # Neither one bad example nor a batch of them spoils what was learned.
    for bad in (0, slice(None)):
        broken = np.array(labels)
        broken[bad] = -1
        head.loss_and_stats(broken, embeddings, training=True)
        assert np.isfinite(ops.convert_to_numpy(head.statistics["hardness"]))


def test_only_learned_weights_of_negatives_are_saved():
    head = MarginProduct(CLASSES, margin=CombinedMargin(m2=0.5), negatives=MisclassifiedNegatives(1.3))
    head.build((None, DIM))
    assert head.statistics == {}


@memories
@pytest.mark.parametrize("block", [5, 23])
def test_uniface_equals_the_formula(memory, block):
    embeddings, labels, centers = problem()
    options = {"chunk_size": block, "max_cache_bytes": memory}
    head = with_centers(UniFace(CLASSES, margin=0.3, scale=SCALE, negatives_weight=0.5, **options), centers)
    assert float(ops.convert_to_numpy(head.bias)) == pytest.approx(np.log(10 * CLASSES))
    head.bias.assign(2.5)
    assert_is(lambda e, c: binary_losses(e, c, labels, 2.5, 0.5), head, embeddings, labels, centers)


def test_the_threshold_of_uniface_is_trained():
    embeddings, labels, centers = problem()
    head = with_centers(UniFace(CLASSES, margin=0.3, scale=SCALE, negatives_weight=0.5), centers)

    def mean_loss(bias):
        exact = embeddings.astype("float64"), centers.astype("float64")
        return binary_losses(*exact, labels, bias, 0.5).mean()

    start = float(ops.convert_to_numpy(head.bias))
    right = (mean_loss(start + 1e-6) - mean_loss(start - 1e-6)) / 2e-6
    inputs = keras.Input((DIM,))
    from keras_arcface import RecognitionModel

    model = RecognitionModel(keras.Model(inputs, keras.layers.Identity()(inputs)), head)
    model.compile(keras.optimizers.SGD(1e-3))
    model.fit(embeddings, labels, batch_size=BATCH, verbose=0)
    assert float(ops.convert_to_numpy(head.bias)) == pytest.approx(start - 1e-3 * right, abs=1e-6)
    assert abs(right) > 0.1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CurricularNegatives(momentum=1), "momentum=1"),
        (lambda: MisclassifiedNegatives(weight=0.9), "weight=0.9"),
        (lambda: UniFace(5, label_smoothing=0.1), "label_smoothing=0.1"),
        (lambda: UniFace(5, negatives_weight=0), "negatives_weight=0"),
        (lambda: MarginProduct(5, negatives=CurricularNegatives(), label_smoothing=0.1), "label_smoothing=0.1"),
        (lambda: MarginProduct(5, negatives="curricular"), "negatives='curricular'"),
    ],
)
def test_invalid_arguments_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()
