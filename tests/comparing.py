"""Compares a head with the formula of its paper in float64."""

import keras
import numpy as np
import references
from gradients import mean_loss_gradients
from keras import ops

from keras_arcface import RecognitionModel

BATCH, CLASSES, DIM = 9, 7, 6


def problem():
    """Returns embeddings at very different distances from their centers, labels and centers."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, CLASSES, BATCH)
    centers = generator.normal(size=(CLASSES, DIM)).astype("float32")
    embeddings = generator.normal(size=(BATCH, DIM)) + np.linspace(-2, 3, BATCH)[:, None] * centers[labels]
    return embeddings.astype("float32"), labels, centers


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def assert_is(reference, head, embeddings, labels, centers):
    """Checks the losses and gradients of a head against `reference(embeddings, centers) -> losses`."""
    exact = embeddings.astype("float64"), centers.astype("float64")
    losses, expected = ops.convert_to_numpy(head.loss(labels, embeddings)), reference(*exact)
    wanted = (
        references.slopes(lambda e: reference(e, exact[1]).mean(), exact[0]),
        references.slopes(lambda c: reference(exact[0], c).mean(), exact[1]),
    )
    found = mean_loss_gradients(head, embeddings, centers, labels)
    errors = [np.abs(losses - expected).max() / np.abs(expected).max()]
    errors += [np.abs(f - w).max() / np.abs(w).max() for f, w in zip(found, wanted, strict=True)]
    print(f"loss {errors[0]:.1e}, gradient by embeddings {errors[1]:.1e}, by centers {errors[2]:.1e}")
    assert max(errors) < 1e-5


def model_of(head, dim=DIM, rate=0.1):
    """Returns a compiled model: an embedder of one layer, and the head."""
    keras.utils.set_random_seed(1)
    model = RecognitionModel(keras.Sequential([keras.Input((dim,)), keras.layers.Dense(dim)]), head)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    return model


def assert_goes_on_after_loading(model, inputs, labels, folder):
    """Checks that a saved and loaded model continues training exactly as the original does."""
    model.fit(inputs, labels, batch_size=len(labels), epochs=2, shuffle=False, verbose=0)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    for each in (model, loaded):
        history = each.fit(inputs, labels, batch_size=len(labels), epochs=2, shuffle=False, verbose=0).history
        assert np.isfinite(history["loss"]).all()
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))
    return loaded
