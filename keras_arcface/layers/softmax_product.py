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

    This is the baseline of the ArcFace paper. Embeddings and centers are not normalized, so larger norms reduce the
    loss as well as better directions do. `MarginProduct(num_classes)` without a margin is norm-softmax.

    The loss is computed in chunks of classes, as in `MarginProduct`. It copies the centers to append the bias as a
    column.

    Args:
        num_classes: number of classes, at least 2.
        label_smoothing: fraction of the target probability that is distributed evenly over all classes, in [0, 1).
        chunk_size, max_cache_bytes, matmul_dtype: options of the chunked loss, the same as in `MarginProduct`.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`.

    Returns:
        `(batch, num_classes)` float32 logits.

    Attributes:
        centers: weight `(num_classes, dim)`.
        bias: weight `(num_classes,)`.

    Raises:
        ValueError: if an argument is out of range, or labels are not one integer per embedding. The loss of a label
            outside `[0, num_classes)` is NaN.

    >>> head = SoftmaxProduct(10)
    >>> head(np.ones((4, 8), "float32")).shape
    TensorShape([4, 10])

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
        return ops.matmul(embeddings, ops.transpose(self.centers)) + self.bias

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics, as `Head.loss_and_stats`.

        An example is a hit if its target logit is above all others.
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
