"""Plain softmax head, the baseline of heads with a margin."""

import keras
from keras import ops

from keras_arcface._arguments import check_number
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import reductions
from keras_arcface.layers.inner_product import InnerProductHead


@keras.saving.register_keras_serializable(package="keras_arcface")
class SoftmaxProduct(InnerProductHead):
    """Classification head with the logits `embedding @ center + bias`, without normalization, scale or margin.

    This is plain softmax, the baseline of the ArcFace paper. Embeddings and centers are not normalized, so larger norms
    reduce the loss as well as better directions do. `NormSoftmax` is the baseline with normalization.

    The loss is computed in chunks of classes, as in `MarginProduct`. It copies the centers to append the bias as a
    column.

    Args:
        num_classes: number of classes, at least 2.
        label_smoothing: fraction of the target probability that is distributed evenly over all classes, in [0, 1).
        **kwargs: `chunk_size`, `max_cache_bytes` and `matmul_dtype` of `MarginProduct`; `name`, `trainable` and other
            arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        centers: weight `(num_classes, dim)`.
        bias: weight `(num_classes,)`.

    Raises:
        ValueError: if an argument is out of its range, or for a call whose embeddings are not `(batch, dim)` or whose
            labels are not one integer per embedding. The loss of a label outside `[0, num_classes)` is NaN.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        Unlike in a head with normalized embeddings, a larger norm reduces the loss:

        >>> head = SoftmaxProduct(num_classes=2)
        >>> head.build((None, 2))
        >>> head.set_weights([np.eye(2), np.zeros(2)])  # centers and bias
        >>> embeddings = np.array([[0.8, 0.6], [8.0, 6.0]])
        >>> print(np.round(head.loss(np.array([0, 0]), embeddings), 3))
        [0.598 0.127]

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 1
    """

    def __init__(self, num_classes, *, label_smoothing=0.0, **kwargs):
        check_number("label_smoothing", label_smoothing, lambda share: 0 <= share < 1, "in [0, 1)")
        self.label_smoothing = float(label_smoothing)
        super().__init__(num_classes, **kwargs)

    def build(self, embeddings_shape):
        dim = self.embedding_dim(embeddings_shape)
        self.centers = self.add_weight(name="centers", shape=(self.num_classes, dim), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.num_classes,), initializer="zeros")

    def call(self, embeddings):
        """Computes the logits.

        Args:
            embeddings: float tensor `(batch, dim)`.

        Returns:
            `(batch, num_classes)` float32 logits.
        """
        return ops.matmul(embeddings, ops.transpose(self.centers)) + self.bias

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass, in chunks of classes.

        Args:
            labels: integer tensor `(batch,)` or `(batch, 1)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: not used.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the center of the
            target class; `(batch,)` bool mask of the examples whose target logit is above all others.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        backend = backends.current()
        centers = ops.concatenate([backend.read(self.centers), backend.read(self.bias)[:, None]], axis=1)
        rows = ops.concatenate([embeddings, ops.ones_like(embeddings[:, :1])], axis=1)
        results = self._reduce(rows, centers, labels)
        target = results["target"]
        losses = ops.softplus(results["log_sum_exp"] - target)
        if self.label_smoothing > 0:
            mean = (target + results["cosine_sum"]) / self.num_classes
            losses = losses + self.label_smoothing * (target - mean)
        cosines, _ = self._target_cosines(labels, embeddings)
        return losses, ops.stop_gradient(cosines), ops.logical_and(valid, target > results["highest"])

    def make_reductions(self):
        needed = super().make_reductions()
        return {**needed, "cosine_sum": reductions.CosineSum()} if self.label_smoothing > 0 else needed

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
