"""Terms that are added to a head's loss."""

import math

import keras
from keras import ops

from keras_arcface.layers import blocks
from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers import ways
from keras_arcface.margins.base import angles_of


class JoinedHead(keras.layers.Layer):
    """Base class: a head whose loss is that of another head, and `weight` times a term.

    To make your own, implement `term`, and decorate the class with `keras.saving.register_keras_serializable`:

    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class WithShortEmbeddings(JoinedHead):
    ...     def term(self, labels, embeddings, training):
    ...         return keras.ops.sum(keras.ops.square(embeddings), axis=-1)
    >>> head = WithShortEmbeddings(ArcFace(10), weight=1e-4)

    Joined heads are heads, and can be joined again. What they are called with and give is as of the inner head; the
    term is in the loss alone.

    Args:
        head: a head with classes, such as `ArcFace(num_classes)`; not one that samples classes.
        weight: of the term, at least 0.
        **kwargs: `name`, `trainable` and the like. `dtype` may only be float32.

    Attributes:
        head: the inner head.
        centers, sub_centers: those of the inner head.

    Raises:
        ValueError: for arguments out of range.
    """

    samples = False

    def __init__(self, head, weight, **kwargs):
        if getattr(head, "num_classes", None) is None or getattr(head, "samples", False):
            raise ValueError(
                "A term can be joined to a head with classes, such as ArcFace(num_classes), that does not sample them. "
                f"Received: head={head!r}"
            )
        parts.check_number("weight", weight, lambda weight: weight >= 0, "at least 0")
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        self.head, self.weight, self.num_classes = head, float(weight), head.num_classes

    def term(self, labels, embeddings, training):
        """What is added to the loss.

        Args:
            labels: `(batch,)` int32 in [0, num_classes).
            embeddings: `(batch, dim)` float32, not normalized; NaN where a label was out of range.
            training: whether this is a batch of a training.

        Returns:
            `(batch,)` float32.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement term(labels, embeddings, training).")

    @property
    def centers(self):
        return self.head.centers

    @property
    def sub_centers(self):
        return getattr(self.head, "sub_centers", 1)

    def __repr__(self):
        return parts.describe(self, "head", "weight")

    def build(self, embeddings_shape, labels_shape=None):
        if not self.head.built:
            self.head.build(embeddings_shape)

    def call(self, embeddings, labels=None):
        if labels is not None:
            return self.head(embeddings, labels)
        # The model knows only this head, so the inner one cannot see that the model has labels.
        return self.head(embeddings, training=False) if parts.takes_labels_in_a_model(self) else self.head(embeddings)

    def loss(self, labels, embeddings):
        """As `MarginProduct.loss`, with the term."""
        return self.loss_and_stats(labels, embeddings)[0]

    def loss_and_stats(self, labels, embeddings, training=False):
        """As `MarginProduct.loss_and_stats`, with the term."""
        losses, target_cosines, hits = self.head.loss_and_stats(labels, embeddings, training=training)
        labels, embeddings, _ = parts.checked_batch(self, labels, embeddings)
        term = self.term(labels, embeddings, training)
        return losses + self.weight * term, target_cosines, hits

    def get_config(self):
        return {
            **super().get_config(),
            "head": keras.saving.serialize_keras_object(self.head),
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "head": keras.saving.deserialize_keras_object(config["head"])})


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithCenterLoss(JoinedHead):
    """Center loss: half the squared distance of each embedding to the mean place of its class.

    The places are no trainable weight. Those of a training batch's classes move after the loss was taken, by
    `alpha * sum(x - place) / (1 + n)` over the class's `n` embeddings in the batch, that of all replicas. They begin at
    0. Embeddings that are not finite move nothing. Each step copies the places once.

    Args:
        head: a head with classes; the paper joins it to plain softmax, `SoftmaxProduct`.
        weight: of the distances, at least 0. The paper takes 0.003, for embeddings that are not normalized.
        alpha: how fast places follow, in [0, 1].

    Attributes:
        places: non-trainable, `(num_classes, dim)`.

    References:
        - [A Discriminative Feature Learning Approach for Deep Face
          Recognition](https://ydwen.github.io/papers/WenECCV16.pdf), equations 2 to 5
    """

    def __init__(self, head, weight=0.003, alpha=0.5, **kwargs):
        parts.check_number("alpha", alpha, lambda alpha: 0 <= alpha <= 1, "in [0, 1]")
        super().__init__(head, weight, **kwargs)
        self.alpha = float(alpha)

    def build(self, embeddings_shape, labels_shape=None):
        super().build(embeddings_shape, labels_shape)
        shape = (self.num_classes, embeddings_shape[-1])
        state = {"trainable": False, "aggregation": "only_first_replica"}
        self.places = self.add_weight(name="places", shape=shape, initializer="zeros", **state)

    def term(self, labels, embeddings, training):
        places = kernels.here().read(self.places)
        distances = ops.sum(ops.square(embeddings - ops.take(places, labels, axis=0)), axis=-1)
        if training:
            self._follow(places, labels, ops.stop_gradient(embeddings))
        return 0.5 * distances

    def _follow(self, places, labels, embeddings):
        kernel = kernels.here()
        labels, embeddings = kernel.of_all_replicas(labels), kernel.of_all_replicas(embeddings)
        before = ops.take(places, labels, axis=0)
        counts = ops.all(ops.isfinite(embeddings), axis=1)
        moves = ops.where(ops.expand_dims(counts, 1), embeddings - before, 0.0)
        # By products and not by adding up at places, which on a GPU comes out otherwise every time.
        same = ops.equal(ops.expand_dims(labels, 1), ops.expand_dims(labels, 0))
        weights = ops.cast(ops.logical_and(same, counts), "float32")
        moves = ops.matmul(weights, moves) / (1.0 + ops.sum(weights, axis=1, keepdims=True))
        first = ops.argmax(ops.cast(same, "int32"), axis=1)  # of each class, so that a place is written once or alike
        after = ops.take(before + self.alpha * moves, first, axis=0)
        self.places.assign(ops.scatter_update(places, ops.expand_dims(labels, 1), after))

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithIntraLoss(JoinedHead):
    """The ArcFace paper's intra-loss: the angle between an embedding and its own center, divided by pi.

    With sub-centers it is the angle to the nearest one.

    Args:
        head: a head with classes; the paper joins it to norm-softmax, `NormSoftmax`.
        weight: of the angles, at least 0.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 5
    """

    def __init__(self, head, weight=1.0, **kwargs):
        super().__init__(head, weight, **kwargs)

    def term(self, labels, embeddings, training):
        own = ops.take(self.centers, labels, axis=0)
        own = ops.reshape(own, (-1, math.prod(own.shape[1:-1]), own.shape[-1]))
        cosines = ops.sum(parts.unit(own) * ops.expand_dims(parts.unit(embeddings), 1), axis=-1)
        return angles_of(ops.max(cosines, axis=-1)) / math.pi


@keras.saving.register_keras_serializable(package="keras_arcface")
class WithInterLoss(JoinedHead):
    """The ArcFace paper's inter-loss: minus the mean angle between the own center and all other centers, over pi.

    It takes the angles of the batch's centers to all in blocks of classes, and as much time as the bare head.

    Args:
        head: a head with one center per class; the paper joins it to norm-softmax, `NormSoftmax`.
        weight: of the angles, at least 0.
        block_size, logits_memory: as of `MarginProduct`.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 6
    """

    def __init__(self, head, weight=1.0, block_size=None, logits_memory=2**28, **kwargs):
        ways.check(block_size, logits_memory, "float32")
        if getattr(head, "sub_centers", 1) != 1:
            raise ValueError(f"The inter-loss is of one center per class. Received: sub_centers={head.sub_centers}")
        super().__init__(head, weight, **kwargs)
        self.block_size, self.logits_memory = block_size, logits_memory

    def term(self, labels, embeddings, training):
        centers = kernels.here().read(self.centers)
        sizes = self.block_size, self.logits_memory
        way = ways.choose(labels.shape[0], centers.shape, 1.0, *sizes, mean=True, angles=True)
        own = parts.unit(ops.take(centers, labels, axis=0))
        return -blocks.others(own, centers, labels, 1.0, way).sum / ((self.num_classes - 1) * math.pi)

    def get_config(self):
        return {**super().get_config(), "block_size": self.block_size, "logits_memory": self.logits_memory}
