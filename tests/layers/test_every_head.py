"""What every head must do: config, shapes, training, saving, degenerate batches and mixed precision."""

import keras
import numpy as np
import pytest
from comparing import BATCH
from comparing import DIM
from comparing import assert_goes_on_after_loading
from comparing import model_of
from comparing import problem
from every_head import HEADS
from every_head import WITH_CLASSES
from gradients import value_and_gradients
from keras import ops
from layer_checks import check_head

every_head = pytest.mark.parametrize("name", HEADS)
EMBEDDINGS, LABELS, _ = problem()
ONE = LABELS[0]
# Embeddings and labels of degenerate batches.
BATCHES = {
    "one person": (EMBEDDINGS, np.full_like(LABELS, ONE)),
    "one image of one person": (EMBEDDINGS[:1], LABELS[:1]),
    "one image of each person": (EMBEDDINGS, np.arange(BATCH)),
    "zero embeddings": (np.zeros_like(EMBEDDINGS), LABELS),
    "one zero embedding": (np.where(np.arange(len(LABELS))[:, None] == 2, 0, EMBEDDINGS), LABELS),
    "the same image again and again": (np.repeat(EMBEDDINGS[:1], len(LABELS), axis=0), LABELS),
}


def make(name):
    """Returns a new head with as many classes as the batch has examples: one compilation serves most batches."""
    keras.utils.set_random_seed(3)
    return HEADS[name](BATCH)


def built(name):
    head = make(name)
    head.build((None, DIM))
    return head


def loss_and_gradient(head, embeddings, labels, training):
    def total(embeddings):
        return ops.sum(head.loss_and_stats(labels, embeddings, training=training)[0])

    value, (gradient,) = value_and_gradients(total, embeddings.astype("float32"))
    return value, gradient


@every_head
def test_passes_the_checks_of_heads(name, tmp_path):
    check_head(lambda: make(name), EMBEDDINGS, LABELS, tmp_path)


@pytest.mark.slow
@every_head
def test_degenerate_batches_have_a_finite_loss_and_gradient(name):
    # On JAX the state of a head changes only inside the training step of RecognitionModel.
    training = keras.backend.backend() == "tensorflow"
    head = built(name)
    for batch, (embeddings, labels) in BATCHES.items():
        loss, gradient = loss_and_gradient(head, embeddings, labels, training)
        assert np.isfinite(loss), batch
        assert np.isfinite(gradient).all(), batch
        # A larger gradient could ruin the network in one step.
        assert np.abs(gradient).max() < 1e3, batch
    if name in WITH_CLASSES:
        centers = ops.convert_to_numpy(head.centers)
        long = 20 * centers / np.linalg.norm(centers, axis=1, keepdims=True)
        for embeddings in (centers, -centers, long, -long):  # cosines of 1 and -1
            loss, gradient = loss_and_gradient(head, embeddings, np.arange(BATCH), training)
            assert np.isfinite(loss)
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
