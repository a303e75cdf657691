import keras
import numpy as np
import pytest
from keras import ops

from keras_arcface.layers import SoftmaxProduct

BATCH, DIM, CLASSES = 13, 8, 5


@pytest.fixture
def batch():
    generator = np.random.default_rng(3)
    return generator.normal(size=(BATCH, DIM)).astype(np.float32), generator.integers(0, CLASSES, BATCH)


def make_head(**kwargs):
    keras.utils.set_random_seed(1)
    head = SoftmaxProduct(CLASSES, **kwargs)
    head.build((None, DIM))
    head.bias.assign(np.linspace(-1, 1, CLASSES))
    return head


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_formula(smoothing, batch):
    embeddings, labels = batch
    head = make_head(label_smoothing=smoothing)
    centers, bias = (ops.convert_to_numpy(weight).astype(np.float64) for weight in (head.centers, head.bias))
    logits = embeddings @ centers.T + bias
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES
    losses, cosines, hits = head.loss_and_stats(labels, embeddings)
    np.testing.assert_allclose(losses, -(wanted * log_probabilities).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(head.loss(labels, embeddings), losses)
    np.testing.assert_allclose(head(embeddings), logits, rtol=1e-5, atol=1e-6)
    own = centers[labels]
    expected = (embeddings * own).sum(axis=1) / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(own, axis=1)
    np.testing.assert_allclose(cosines, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(hits, logits.argmax(axis=1) == labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be an integer of at least 2"),
        ({"num_classes": 5, "label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxProduct(**arguments)
