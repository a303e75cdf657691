"""A new loss over all classes is one reduction and the few lines of a head."""

import keras
import numpy as np
import references
from gradients import mean_loss_gradients
from gradients import with_centers
from keras import ops

from keras_arcface import MarginProduct
from keras_arcface.layers.chunked import reductions

CLASSES, DIM, SCALE, BIAS, GAMMA = 11, 5, 8.0, 3.0, 2.0


class FocalSum(reductions.SumReduction):
    """The sum of `sigmoid(z)**gamma * softplus(z)` over all other classes, with `z = scale * cosine - bias`."""

    def values(self, chunk):
        z = chunk.inputs["scale"] * chunk.cosines - BIAS
        return ops.where(chunk.is_target, 0.0, ops.sigmoid(z) ** GAMMA * ops.softplus(z))

    def derivatives(self, chunk):
        z = chunk.inputs["scale"] * chunk.cosines - BIAS
        p = ops.sigmoid(z)
        slopes = p**GAMMA * (GAMMA * (1.0 - p) * ops.softplus(z) + p)
        return ops.where(chunk.is_target, 0.0, chunk.inputs["scale"] * slopes)


@keras.saving.register_keras_serializable(package="tests")
class FocalProduct(MarginProduct):
    """One-vs-rest focal loss."""

    def make_reductions(self):
        return {"focal": FocalSum(), "target": reductions.TargetCosine(), "highest": reductions.HighestCosine()}

    def combine(self, results, penalized, inputs, num_classes):
        z = BIAS - inputs["scale"] * penalized
        return ops.sigmoid(z) ** GAMMA * ops.softplus(z) + results["focal"]


def focal_losses(embeddings, centers, labels):
    """The same in float64, from complete logits."""
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (embeddings, centers)]
    cosines = unit[0] @ unit[1].T
    signs = np.where(np.arange(CLASSES) == labels[:, None], -1.0, 1.0)
    z = signs * (SCALE * cosines - BIAS)
    return np.sum(np.logaddexp(0, z) / (1 + np.exp(-z)) ** GAMMA, axis=1)


def test_a_custom_reduction_trains_in_chunks():
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(7, DIM)).astype("float32"), generator.integers(0, CLASSES, 7)
    centers = generator.normal(size=(CLASSES, DIM)).astype("float32")
    head = with_centers(FocalProduct(CLASSES, scale=SCALE, chunk_size=4, max_cache_bytes=0), centers)
    exact = embeddings.astype("float64"), centers.astype("float64")
    np.testing.assert_allclose(ops.convert_to_numpy(head.loss(labels, embeddings)), focal_losses(*exact, labels), 1e-5)
    by_embeddings, by_centers = mean_loss_gradients(head, embeddings, centers, labels)
    right = references.slopes(lambda e: focal_losses(e, exact[1], labels).mean(), exact[0])
    np.testing.assert_allclose(by_embeddings, right, rtol=1e-4, atol=1e-6)
    right = references.slopes(lambda c: focal_losses(exact[0], c, labels).mean(), exact[1])
    np.testing.assert_allclose(by_centers, right, rtol=1e-4, atol=1e-6)
