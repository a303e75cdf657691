"""Plain softmax: the head that the margins improve on."""

import keras
from keras import ops

from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers.unbounded_product import UnboundedProduct


@keras.saving.register_keras_serializable(package="keras_arcface")
class SoftmaxProduct(UnboundedProduct):
    """Classification head without sphere, scale and margin: `embedding @ center + bias`, then softmax.

    The baseline of the ArcFace paper. Neither embeddings nor centers are normalized, so the loss can be lowered by
    longer embeddings as well as by better directions. `MarginProduct(num_classes)` without a margin is norm-softmax.

    The loss is computed in blocks of classes, as `MarginProduct`'s, for which it makes one copy of the centers with the
    bias beside them.

    Args:
        num_classes: number of classes, at least 2.
        label_smoothing: share of the target's probability that the loss asks to be spread over all classes evenly, in
            [0, 1).
        block_size, logits_memory, products: as of `MarginProduct`.
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

    def __init__(self, num_classes, *, label_smoothing=0.0, **kwargs):
        parts.check_number("label_smoothing", label_smoothing, lambda share: 0 <= share < 1, "in [0, 1)")
        super().__init__(num_classes, **kwargs)
        self.label_smoothing = float(label_smoothing)

    def build(self, embeddings_shape):
        self.centers = self.add_weight(
            name="centers", shape=(self.num_classes, embeddings_shape[-1]), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.num_classes,), initializer="zeros")

    def call(self, embeddings):
        return ops.matmul(embeddings, ops.transpose(self.centers)) + self.bias

    def loss_and_stats(self, labels, embeddings, training=False):
        """As `MarginProduct.loss_and_stats`; the cosine is that of the embedding and its center."""
        labels, embeddings, valid = parts.checked_batch(self, labels, embeddings)
        kernel = kernels.here()
        centers = ops.concatenate([kernel.read(self.centers), kernel.read(self.bias)[:, None]], axis=1)
        rows = ops.concatenate([embeddings, ops.ones_like(embeddings[:, :1])], axis=1)
        others = self._others(rows, centers, labels, mean=self.label_smoothing > 0)
        losses = ops.softplus(others.log_sum - others.own)
        if self.label_smoothing > 0:
            losses = losses + self.label_smoothing * (others.own - (others.own + others.sum) / self.num_classes)
        cosines, _ = self._target_cosines(labels, embeddings)
        return losses, ops.stop_gradient(cosines), ops.logical_and(valid, others.own > others.highest)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
