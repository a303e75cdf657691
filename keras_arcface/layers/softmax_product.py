"""Plain softmax: the head that the margins improve on."""

import keras
from keras import ops

from keras_arcface.layers import parts


@keras.saving.register_keras_serializable(package="keras_arcface")
class SoftmaxProduct(keras.layers.Layer):
    """Classification head without sphere, scale and margin: `embedding @ centre + bias`, then softmax.

    The baseline of the ArcFace paper. Neither embeddings nor centres are normalised, so the loss can be lowered by
    longer embeddings as well as by better directions. `MarginProduct(num_classes)` without a margin is norm-softmax.

    Args:
        num_classes: number of classes, at least 2.
        label_smoothing: share of the target's probability that the loss asks to be spread over all classes evenly, in
            [0, 1).
        **kwargs: `name`, `trainable` and the like. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`.

    Returns:
        `(batch, num_classes)` float32 logits.

    Attributes:
        centers: the weight, `(num_classes, dim)`.
        bias: `(num_classes,)`.

    Raises:
        ValueError: for arguments out of range, or labels that are not one integer per embedding. A label outside
            `[0, num_classes)` makes its row NaN.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 1
    """

    def __init__(self, num_classes, label_smoothing=0.0, **kwargs):
        parts.check_integer("num_classes", num_classes, 2)
        parts.check_number("label_smoothing", label_smoothing, lambda share: 0 <= share < 1, "in [0, 1)")
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        self.num_classes = int(num_classes)
        self.label_smoothing = float(label_smoothing)

    def build(self, embeddings_shape):
        self.centers = self.add_weight(
            name="centers", shape=(self.num_classes, embeddings_shape[-1]), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.num_classes,), initializer="zeros")

    def call(self, embeddings):
        return ops.matmul(embeddings, ops.transpose(self.centers)) + self.bias

    def loss(self, labels, embeddings):
        """Cross-entropy: integers `(batch,)` and embeddings `(batch, dim)` -> `(batch,)` float32."""
        return self.loss_and_stats(labels, embeddings)[0]

    def loss_and_stats(self, labels, embeddings, training=False):
        """As `MarginProduct.loss_and_stats`; the cosine is that of the embedding and its centre."""
        labels, embeddings, valid = parts.checked_batch(self, labels, embeddings)
        logits = self(embeddings)
        wanted = parts.take_column(logits, labels)
        if self.label_smoothing > 0:
            wanted = (1 - self.label_smoothing) * wanted + self.label_smoothing * ops.mean(logits, axis=-1)
        losses = ops.logsumexp(logits, axis=-1) - wanted
        own = ops.take(self.centers, labels, axis=0)
        cosines = ops.clip(ops.sum(parts.unit(embeddings) * parts.unit(own), axis=-1), -1.0, 1.0)
        hits = ops.logical_and(valid, ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels))
        return losses, ops.stop_gradient(cosines), hits

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "label_smoothing": self.label_smoothing}
