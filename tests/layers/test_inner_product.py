"""Heads whose logits have no bound, and the inter-loss, in blocks of classes."""

import keras
import numpy as np
import pytest
from gradients import mean_loss_gradients
from keras import ops

from keras_arcface.layers import ASoftmax
from keras_arcface.layers import LSoftmax
from keras_arcface.layers import NormSoftmax
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithInterLoss

BATCH, CLASSES, DIM = 9, 41, 6
HEADS = {
    "softmax": SoftmaxProduct,
    "softmax, smoothed": lambda n, **blocks: SoftmaxProduct(n, label_smoothing=0.1, **blocks),
    "L-Softmax": lambda n, **blocks: LSoftmax(n, base=1.0, minimum=1.0, **blocks),
    "A-Softmax": lambda n, **blocks: ASoftmax(n, base=1.0, minimum=1.0, **blocks),
    "inter-loss": lambda n, **blocks: WithInterLoss(NormSoftmax(n, scale=8.0, **blocks), 3.0, **blocks),
}
every_head = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)


def problem(length=1.0):
    generator = np.random.default_rng(2)
    labels = generator.integers(0, CLASSES, BATCH)
    labels[-3:] = labels[0]
    centers = generator.normal(size=(CLASSES, DIM)).astype("float32")
    embeddings = generator.normal(size=(BATCH, DIM)) + np.linspace(-2, 3, BATCH)[:, None] * centers[labels]
    return (length * embeddings).astype("float32"), labels, centers


def built(head, centers):
    head.build((None, DIM))
    getattr(head, "head", head).centers.assign(centers)
    if isinstance(head, SoftmaxProduct):
        head.bias.assign(np.linspace(-1, 1, CLASSES))
    return head


@every_head
@pytest.mark.parametrize(
    ("block", "memory", "length"),
    [
        (7, 2**40, 1.0),
        (7, 0, 1000.0),
        pytest.param(1, 0, 1.0, marks=pytest.mark.slow),
        pytest.param(40, 2**40, 1000.0, marks=pytest.mark.slow),
    ],
)
def test_chunks_change_neither_loss_nor_gradients(make, block, memory, length):
    embeddings, labels, centers = problem(length)
    whole, split = (
        built(make(CLASSES), centers),
        built(make(CLASSES, chunk_size=block, max_cache_bytes=memory), centers),
    )
    losses = [ops.convert_to_numpy(head.loss(labels, embeddings)) for head in (whole, split)]
    assert losses[0].max() > (length if "inter" not in whole.name else 0)
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-5 * length)
    gradients = [mean_loss_gradients(head, embeddings, centers, labels) for head in (whole, split)]
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("length", [1.0, 1000.0])
def test_plain_softmax_and_its_gradients_equal_those_of_complete_logits(smoothing, length):
    embeddings, labels, centers = problem(length)
    head = built(SoftmaxProduct(CLASSES, label_smoothing=smoothing, chunk_size=7, max_cache_bytes=0), centers)
    logits = embeddings.astype("float64") @ centers.astype("float64").T + np.linspace(-1, 1, CLASSES)
    log_sums = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    wanted = np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES
    losses = ops.convert_to_numpy(head.loss(labels, embeddings))
    np.testing.assert_allclose(losses, (wanted * (log_sums - logits)).sum(axis=1), rtol=1e-5, atol=1e-5 * length)
    by_logits = (np.exp(logits - log_sums) - wanted) / BATCH
    right = by_logits @ centers, by_logits.T @ embeddings
    for gradient, expected in zip(mean_loss_gradients(head, embeddings, centers, labels), right, strict=True):
        error = np.abs(gradient - expected).max() / np.abs(expected).max()
        print(f"gradient: largest error {error:.1e} of the largest")
        # Logits of ten thousand have three digits behind the point, and so have the exponents of their differences.
        assert error < (1e-5 if length == 1 else 2e-3)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX shows what a gradient holds")
@every_head
def test_complete_logits_are_never_allocated(make):
    import jax

    embeddings, labels, centers = problem()

    def shapes_of(**blocks):
        head = built(make(CLASSES, **blocks), centers)

        def mean_loss(embeddings, centers):
            with keras.StatelessScope(state_mapping=[(getattr(head, "head", head).centers, centers)]):
                return ops.mean(head.loss(labels, embeddings))

        return jax.jit(jax.grad(mean_loss, argnums=(0, 1))).lower(embeddings, centers).as_text()

    assert f"<{BATCH}x{CLASSES}xf32>" in shapes_of()
    assert f"<{BATCH}x7xf32>" in shapes_of(chunk_size=7, max_cache_bytes=0)
    assert f"{BATCH}x{CLASSES}x" not in shapes_of(chunk_size=7, max_cache_bytes=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"chunk_size": 0}, "chunk_size=0"), ({"max_cache_bytes": -1}, "max_cache_bytes=-1")],
)
@every_head
def test_sizes_out_of_range_are_refused(make, arguments, named):
    with pytest.raises(ValueError, match=f"Received: {named}"):
        make(CLASSES, **arguments)


def test_equal_centers_of_two_classes_have_a_finite_inter_loss():
    _, _, centers = problem()
    centers[1] = 2 * centers[0]
    centers[2] = -centers[0]
    head = built(WithInterLoss(NormSoftmax(CLASSES)), centers)
    for gradient in mean_loss_gradients(head, np.ones((3, DIM), "float32"), centers, np.array([0, 1, 2])):
        assert np.isfinite(gradient).all()
