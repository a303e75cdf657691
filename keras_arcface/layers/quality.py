"""Head that also learns to predict the quality of an image."""

import keras
from keras import ops

from keras_arcface.layers import class_sharding
from keras_arcface.layers import vectors
from keras_arcface.layers.auxiliary_losses import AuxiliaryLossHead
from keras_arcface.layers.chunked import ChunkedReductions
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import chunking
from keras_arcface.layers.chunked import reductions

# The paper's smallest denominator, and the width of the quadratic part of the loss in its published program.
_EPSILON, _BETA = 1e-9, 0.5


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithQuality(AuxiliaryLossHead):
    """Head that also learns to predict the quality of an image from its embedding, as in CR-FIQA.

    The quality is how much nearer the embedding is to the center of its class than to the nearest center of another
    class: `cos(own) / (cos(nearest other) + 1)`. It is known for images with a label only, so a dense layer learns to
    predict it for others. The smooth L1 loss of the prediction is quadratic for errors below 0.5. The quality gets no
    gradient, but the prediction does, so that it also trains the embedder. Set `trainable = False` for a trained
    embedder that must not change, and for the inner head, if its centers must not change either.

    After the training, `keras_arcface.models.make_quality_model` returns a model with the embedding and the quality.

    The nearest center is found in chunks of classes, by one more matrix product with all centers. With very few
    classes, whose centers can be opposite to each other, the quality has no upper limit.

    Args:
        head: a head with classes; the paper uses `ArcFace`.
        weight: weight of the smooth L1 loss, at least 0.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        regressor: dense layer that predicts the quality from the embedding, which is not normalized.

    Raises:
        ValueError: if an argument is out of its range, or for a call with labels in a functional model or with
            `training=True`.

    Examples:
        The cosine to the own center is 0.8, and that to the nearest other center 0.6:

        >>> head = WithQuality(ArcFace(num_classes=3, centers_initializer="identity"))
        >>> labels, embeddings = np.array([0]), np.array([[8.0, 6.0, 0.0]])
        >>> print(np.round(head.true_quality(labels, embeddings), 3))
        [0.5]
        >>> tuple(head.quality(embeddings).shape)
        (1,)

    References:
        - [CR-FIQA](https://arxiv.org/abs/2112.06592), section 3; its program, which divides by `cos(nearest other)`
          unlike the paper, has the width of the quadratic part
    """

    def __init__(self, head, weight=10.0, **kwargs):
        super().__init__(head, weight, **kwargs)
        self.regressor = keras.layers.Dense(1, dtype=self.dtype_policy, name="quality")
        self._reductions = ChunkedReductions(
            {"target": reductions.TargetCosine(), "highest": reductions.HighestCosine()}
        )

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        self.regressor.build((None, self.embedding_dim(embeddings_shape, labels_shape)))

    def quality(self, embeddings):
        """Predicts the quality of images.

        Args:
            embeddings: float tensor `(batch, dim)`, not normalized.

        Returns:
            `(batch,)` float32 qualities, mostly in 0..1. A higher quality is better.
        """
        embeddings = ops.cast(ops.convert_to_tensor(embeddings), "float32")
        return ops.squeeze(self.regressor(embeddings), axis=-1)

    def true_quality(self, labels, embeddings):
        """Computes the quality of images with known class, the target of the prediction.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`, not normalized.

        Returns:
            `(batch,)` float32 qualities without gradient, NaN for labels out of range.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        return ops.where(valid, self._true_quality(labels, embeddings), float("nan"))

    def check_batch(self, labels, embeddings):
        labels, embeddings = ops.convert_to_tensor(labels), ops.convert_to_tensor(embeddings)
        return super().check_batch(
            class_sharding.distribute_batch(self.path, labels),
            class_sharding.distribute_batch(self.path, embeddings),
        )

    def auxiliary_loss(self, labels, embeddings, training):
        errors = ops.abs(self.quality(embeddings) - self._true_quality(labels, embeddings))
        return ops.where(errors < _BETA, 0.5 / _BETA * ops.square(errors), errors - 0.5 * _BETA)

    def _true_quality(self, labels, embeddings):
        centers = ops.stop_gradient(backends.current().read(self.centers))
        # There is no backward pass that could use cached cosines.
        chunks = chunking.choose(
            labels.shape[0], centers.shape, max_cache_bytes=0, shards=class_sharding.num_shards(self.centers)
        )
        results = self._reductions(vectors.unit(ops.stop_gradient(embeddings)), centers, labels, chunks)
        own, other = (ops.clip(results[name], -1.0, 1.0) for name in ("target", "highest"))
        return ops.stop_gradient(own / (other + 1.0 + _EPSILON))
