"""Heads that add an auxiliary loss to the loss of another head."""

import math

import keras
from keras import ops

from keras_arcface._arguments import check_number
from keras_arcface.layers import validation
from keras_arcface.layers import vectors
from keras_arcface.layers.base import Head
from keras_arcface.layers.chunked import ChunkedReductions
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import chunking
from keras_arcface.layers.chunked import reductions
from keras_arcface.margins.base import angles_of


class AuxiliaryLossHead(Head):
    """Base class of heads whose loss is the loss of another head plus `weight` times an auxiliary loss.

    A custom class implements `auxiliary_loss`. Decorate it with `keras.saving.register_keras_serializable`, so that
    models with it can be loaded. The inner head can itself have an auxiliary loss. Calls have the arguments and results
    of the inner head; the auxiliary loss is only part of the loss.

    Args:
        head: a head with classes that does not sample them, such as `ArcFace(num_classes)`.
        weight: weight of the auxiliary loss, at least 0.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        head: the inner head.
        centers: class centers of the inner head.
        sub_centers: number of centers per class of the inner head.

    Raises:
        ValueError: if an argument is out of its range, or for a call with labels in a functional model or with
            `training=True`, because the logits do not include the auxiliary loss.

    Examples:
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class WithNormPenalty(AuxiliaryLossHead):
        ...     def auxiliary_loss(self, labels, embeddings, training):
        ...         return keras.ops.sum(keras.ops.square(embeddings), axis=-1)
        >>> head = WithNormPenalty(ArcFace(num_classes=3, centers_initializer="identity"), weight=0.001)
        >>> labels, embeddings = np.array([0]), np.array([[8.0, 6.0, 0.0]])
        >>> print(np.round(head.loss(labels, embeddings) - head.head.loss(labels, embeddings), 3))  # 0.001 * 10**2
        [0.1]
    """

    def __init__(self, head, weight, **kwargs):
        self._check_head(head)
        check_number("weight", weight, lambda weight: weight >= 0, "at least 0")
        super().__init__(**kwargs)
        self.head, self.weight, self.num_classes = head, float(weight), head.num_classes
        self.sub_centers = head.sub_centers

    def _check_head(self, head):
        if not isinstance(head, Head) or head.num_classes is None or head.is_sampled or is_outermost(head):
            raise ValueError(
                "head must be a head with classes that does not sample them, such as ArcFace(num_classes). "
                f"Received: head={head!r}"
            )

    def auxiliary_loss(self, labels, embeddings, training):
        """Computes the auxiliary loss, without its weight.

        Args:
            labels: `(batch,)` int32 in [0, num_classes).
            embeddings: `(batch, dim)` float32, not normalized; NaN for labels out of range.
            training: true in a training step.

        Returns:
            `(batch,)` float32 losses.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not implement auxiliary_loss(labels, embeddings, training)."
        )

    @property
    def centers(self):
        """Class centers of the inner head."""
        return self.head.centers

    def __repr__(self):
        return self.describe("head", "weight")

    def build(self, embeddings_shape, labels_shape=None):
        if not self.head.built:
            self.embedding_dim(embeddings_shape, labels_shape)  # checks the shapes
            self.head.build(embeddings_shape)

    def call(self, embeddings, labels=None, training=None):
        """Computes the logits of the inner head.

        Args:
            embeddings: float tensor `(batch, dim)`, not normalized; or `[embeddings, labels]`.
            labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
            training: must not be true, because the logits do not include the auxiliary loss.

        Returns:
            `(batch, num_classes)` float32 logits.

        Raises:
            ValueError: for a call with labels in a functional model or with `training=True`, or without labels and with
                `training=True`.
        """
        embeddings, labels = validation.split_pair(self, embeddings, labels)
        self.check_call(embeddings, labels, training)
        # The outer head has checked a call without labels, so the inner head need not refuse it in training.
        return self.head(embeddings, training=False) if labels is None else self.head(embeddings, labels)

    def loss_and_stats(self, labels, embeddings, training=False):
        losses, target_cosines, hits = self.head.loss_and_stats(labels, embeddings, training=training)
        labels, embeddings, _ = self.check_batch(labels, embeddings)
        auxiliary_losses = self.auxiliary_loss(labels, embeddings, training)
        return losses + self.weight * auxiliary_losses, target_cosines, hits

    def missing_from_logits(self):
        return f"the auxiliary loss of {type(self).__name__}"

    def get_config(self):
        return {
            **super().get_config(),
            "head": keras.saving.serialize_keras_object(self.head),
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "head": keras.saving.deserialize_keras_object(config["head"])})


def is_outermost(head):
    """Returns true if another head must not contain a head, because it needs more than labels and embeddings."""
    return head.needs_teacher or head.features_before is not None


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithCenterLoss(AuxiliaryLossHead):
    """Head with center loss, half of the squared distance between each embedding and the mean embedding of its class.

    The class means are not trained by gradients and start at 0. After the loss of a training batch, the mean of each of
    its classes moves by `alpha * sum(x - mean) / (1 + n)` over the `n` embeddings of the class in the batch of all
    replicas. Embeddings that are not finite are ignored. Each step copies the means once.

    Args:
        head: a head with classes; the paper uses plain softmax, `SoftmaxProduct`.
        weight: weight of the distances, at least 0. The paper uses 0.003, for embeddings that are not normalized.
        alpha: learning rate of the class means, in [0, 1].
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        class_means: non-trainable weight `(num_classes, dim)`.

    Raises:
        ValueError: if an argument is out of its range, or for a call with labels in a functional model or with
            `training=True`.

    Examples:
        A training step moves the mean of the class by `0.5 * 4 / (1 + 1)`:

        >>> head = WithCenterLoss(SoftmaxProduct(num_classes=2), alpha=0.5)
        >>> losses, cosines, hits = head.loss_and_stats(np.array([0]), np.array([[4.0, 0.0]]), training=True)
        >>> print(np.asarray(head.class_means.value))
        [[1. 0.]
         [0. 0.]]

    References:
        - [A Discriminative Feature Learning Approach for Deep Face
          Recognition](https://ydwen.github.io/papers/WenECCV16.pdf), equations 2 to 5
    """

    def __init__(self, head, weight=0.003, alpha=0.5, **kwargs):
        check_number("alpha", alpha, lambda alpha: 0 <= alpha <= 1, "in [0, 1]")
        super().__init__(head, weight, **kwargs)
        self.alpha = float(alpha)

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        shape = (self.num_classes, self.embedding_dim(embeddings_shape, labels_shape))
        state = {"trainable": False, "aggregation": "only_first_replica"}
        self.class_means = self.add_weight(name="class_means", shape=shape, initializer="zeros", **state)

    def auxiliary_loss(self, labels, embeddings, training):
        means = backends.current().read(self.class_means)
        distances = ops.sum(ops.square(embeddings - ops.take(means, labels, axis=0)), axis=-1)
        if training:
            self._move_means(means, labels, ops.stop_gradient(embeddings))
        return 0.5 * distances

    def _move_means(self, means, labels, embeddings):
        backend = backends.current()
        labels, embeddings = backend.gather_replicas(labels), backend.gather_replicas(embeddings)
        before = ops.take(means, labels, axis=0)
        is_finite = ops.all(ops.isfinite(embeddings), axis=1)
        moves = ops.where(ops.expand_dims(is_finite, 1), embeddings - before, 0.0)
        # A scatter-add is not deterministic on a GPU, so the sums are a matrix product.
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        weights = ops.cast(ops.logical_and(same, is_finite), "float32")
        moves = ops.matmul(weights, moves) / (1.0 + ops.sum(weights, axis=1, keepdims=True))
        # All rows of a class must write the same mean: that of its first row.
        first = ops.argmax(ops.cast(same, "int32"), axis=1)
        after = ops.take(before + self.alpha * moves, first, axis=0)
        self.class_means.assign(ops.scatter_update(means, ops.expand_dims(labels, 1), after))

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithIntraLoss(AuxiliaryLossHead):
    """Head with the intra-loss of the ArcFace paper, the angle between embedding and target center, divided by pi.

    With sub-centers, it is the angle to the nearest one.

    Args:
        head: a head with classes; the paper uses norm-softmax, `NormSoftmax`.
        weight: weight of the angles, at least 0.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Raises:
        ValueError: if an argument is out of its range, or for a call with labels in a functional model or with
            `training=True`.

    Examples:
        An embedding at a right angle to its center adds `weight / 2` to the loss:

        >>> head = WithIntraLoss(NormSoftmax(num_classes=2, centers_initializer="identity"), weight=5.0)
        >>> labels, embeddings = np.array([0]), np.array([[0.0, 1.0]])
        >>> print(np.round(head.loss(labels, embeddings) - head.head.loss(labels, embeddings), 3))
        [2.5]

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 5
    """

    def __init__(self, head, weight=1.0, **kwargs):
        super().__init__(head, weight, **kwargs)

    def auxiliary_loss(self, labels, embeddings, training):
        target_centers = ops.take(self.centers, labels, axis=0)
        target_centers = ops.reshape(
            target_centers, (-1, math.prod(target_centers.shape[1:-1]), target_centers.shape[-1])
        )
        cosines = ops.sum(vectors.unit(target_centers) * ops.expand_dims(vectors.unit(embeddings), 1), axis=-1)
        return angles_of(ops.max(cosines, axis=-1)) / math.pi


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithInterLoss(AuxiliaryLossHead):
    """Head with the inter-loss of the ArcFace paper, which increases the angles between class centers.

    It is the negative mean angle from the target center to all other centers, divided by pi.

    The angles are computed in chunks of classes, in about the time of the inner head.

    Args:
        head: a head with one center per class; the paper uses norm-softmax, `NormSoftmax`.
        weight: weight of the angles, at least 0.
        chunk_size: number of classes per chunk, as in `MarginProduct`.
        max_cache_bytes: maximum size of the cosines that are cached for the backward pass, as in `MarginProduct`.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Raises:
        ValueError: if an argument is out of its range, the head has several centers per class, or for a call with
            labels in a functional model or with `training=True`.

    Examples:
        Centers at right angles to each other subtract `weight / 2` from the loss:

        >>> head = WithInterLoss(NormSoftmax(num_classes=2, centers_initializer="identity"), weight=5.0)
        >>> labels, embeddings = np.array([0]), np.array([[0.0, 1.0]])
        >>> print(np.round(head.loss(labels, embeddings) - head.head.loss(labels, embeddings), 3))
        [-2.5]

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 6
    """

    def __init__(self, head, weight=1.0, chunk_size=None, max_cache_bytes=2**28, **kwargs):
        chunking.check(chunk_size, max_cache_bytes, "float32")
        super().__init__(head, weight, **kwargs)
        if head.sub_centers != 1:
            raise ValueError(f"head must have one center per class. Received: head with sub_centers={head.sub_centers}")
        self.chunk_size, self.max_cache_bytes = chunk_size, max_cache_bytes
        self._reductions = ChunkedReductions({"angle_sum": reductions.AngleSum()})

    def auxiliary_loss(self, labels, embeddings, training):
        centers = backends.current().read(self.centers)
        chunks = chunking.choose(labels.shape[0], centers.shape, self.chunk_size, self.max_cache_bytes)
        rows = vectors.unit(ops.take(centers, labels, axis=0))
        angle_sum = self._reductions(rows, centers, labels, chunks)["angle_sum"]
        return -angle_sum / ((self.num_classes - 1) * math.pi)

    def get_config(self):
        return {**super().get_config(), "chunk_size": self.chunk_size, "max_cache_bytes": self.max_cache_bytes}
