"""What holds for every head: batches with nothing to learn from, embeddings without a direction, lower precision."""

import keras
import numpy as np
import pytest
from comparing import CLASSES
from comparing import DIM
from comparing import assert_goes_on_after_loading
from comparing import model_of
from comparing import problem
from every_head import HEADS
from every_head import WITH_CLASSES
from gradients import value_and_gradients
from keras import ops

every_head = pytest.mark.parametrize("name", HEADS)
EMBEDDINGS, LABELS, _ = problem()
ONE = LABELS[0]
# Embeddings and labels of batches that have little to say.
BATCHES = {
    "one person": (EMBEDDINGS, np.full_like(LABELS, ONE)),
    "one image of one person": (EMBEDDINGS[:1], LABELS[:1]),
    "one image of each person": (EMBEDDINGS[:CLASSES], np.arange(CLASSES)),
    "zero embeddings": (np.zeros_like(EMBEDDINGS), LABELS),
    "one zero embedding": (np.where(np.arange(len(LABELS))[:, None] == 2, 0, EMBEDDINGS), LABELS),
    "the same image again and again": (np.repeat(EMBEDDINGS[:1], len(LABELS), axis=0), LABELS),
}


def make(name):
    keras.utils.set_random_seed(3)
    return HEADS[name](CLASSES)


def built(name):
    head = make(name)
    head.build((None, DIM))
    return head


def losses_and_gradient(head, embeddings, labels, training):
    def total(embeddings):
        return ops.sum(head.loss_and_stats(labels, embeddings, training=training)[0])

    _, (gradient,) = value_and_gradients(total, embeddings.astype("float32"))
    return ops.convert_to_numpy(head.loss(labels, embeddings)), gradient


@every_head
@pytest.mark.parametrize("batch", BATCHES)
def test_degenerate_batches_of_heads_are_finite(name, batch):
    embeddings, labels = BATCHES[batch]
    # On JAX what a head learns of batches can change within RecognitionModel's step only.
    training = keras.backend.backend() == "tensorflow"
    losses, gradient = losses_and_gradient(built(name), embeddings, labels, training)
    assert losses.shape == (len(labels),)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()
    # None is so large that it would throw the network out.
    assert np.abs(gradient).max() < 1e3


@pytest.mark.parametrize("name", WITH_CLASSES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_at_the_ends(name, sign):
    head = built(name)
    labels = np.arange(CLASSES)
    embeddings = sign * ops.convert_to_numpy(head.centers)
    for scaled in (embeddings, 20 * embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)):
        losses, gradient = losses_and_gradient(head, scaled, labels, training=False)
        assert np.isfinite(losses).all()
        assert np.isfinite(gradient).all()


@pytest.mark.slow
@every_head
def test_training_continues_after_loading(name, tmp_path):
    assert_goes_on_after_loading(model_of(make(name)), EMBEDDINGS, LABELS, tmp_path)


@pytest.mark.slow
@every_head
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_as_float32_does(name, policy):
    history = {}
    for each in ("float32", policy):
        keras.config.set_dtype_policy(each)
        try:
            model = model_of(make(name))
            sgd = keras.optimizers.SGD(0.002 if name == "circle" else 0.01, momentum=0.9)
            # A scale at which no gradient overflows: otherwise steps are skipped until it has come down.
            model.compile(keras.optimizers.LossScaleOptimizer(sgd, initial_scale=16.0) if "_float16" in each else sgd)
            fitted = model.fit(EMBEDDINGS, LABELS, batch_size=len(LABELS), epochs=5, shuffle=False, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")
        assert {weight.dtype for weight in model.head.trainable_variables} <= {"float32"}
        history[each] = np.array(fitted.history["loss"])
    print(name, history)
    assert np.ptp(history[policy]) > 0.01  # a step that is skipped would show
    np.testing.assert_allclose(history[policy], history["float32"], rtol=0.02, atol=0.01)
