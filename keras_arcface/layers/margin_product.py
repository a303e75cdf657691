"""The head: scaled cosines between embeddings and class centers, with a margin on the target."""

import keras
from keras import ops

from keras_arcface.layers import blocks
from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers import sampling
from keras_arcface.layers import statistics
from keras_arcface.layers import ways
from keras_arcface.layers.negatives import Negatives
from keras_arcface.layers.spread_classes import SpreadClasses

_OBJECTS = ("margin", "negatives")


@keras.saving.register_keras_serializable(package="keras_arcface")
class MarginProduct(SpreadClasses):
    """Classification head on the hypersphere: `scale * cos(theta)`, with a margin on the target class.

    Embeddings and class centers are L2-normalized here, so their product is the cosine of the angle between them.
    Given labels, the target's cosine becomes `psi(cosine)`, which asks the embedding to be closer to its own center
    than is needed to be classified; without labels the head gives plain scaled cosines.

    Everything is computed in float32, under mixed precision policies too. A label outside `[0, num_classes)` makes
    its row, and so the loss, NaN on every backend. (JAX cuts integers to 32 bits before a head sees them; `fit` and
    `evaluate` of `RecognitionModel` check arrays before.)

    Alone, in a functional model:

    >>> embeddings = keras.Input((8,))
    >>> labels = keras.Input((), dtype="int32")
    >>> head = MarginProduct(10, margin=CombinedMargin(m2=0.5))
    >>> model = keras.Model([embeddings, labels], head(embeddings, labels))
    >>> model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    In most cases `keras_arcface.RecognitionModel(embedder, head)` is the better place for it: there no label is ever
    an input of the model.

    Args:
        num_classes: number of classes, at least 2.
        margin: a `keras_arcface.margins.Margin`, or None for none (norm-softmax).
        scale: the radius `s` of the hypersphere, above 0. The papers use 64, and 30 or so for few classes.
        centers_initializer: of the centers; N(0, 0.01) by default.
        centers_regularizer: of the centers; none by default.
        warmup_steps: over so many training batches `strength` rises from 0 to 1, where the whole margin from the start
            leaves a loss that does not fall (large margins, little data). The batches are counted in the graph.
        initial_scale: the scale at the start of the warm-up, to rise with it; `scale` from the start by default.
        label_smoothing: share of the target's probability that the loss asks to be spread over all classes evenly, in
            [0, 1). The published recipes use none.
        block_size: how many classes the loss takes at once, by default a number chosen for the batch. The
            `(batch, num_classes)` logits never exist; the loss and its gradient are the exact ones all the same.
        logits_memory: up to so many bytes the loss keeps its cosines, `4 * batch * num_classes`, for the gradient, and
            takes some three times that. Beyond it they are computed again, a fourth matrix product where there are
            three.
        products: what the loss rounds the entries of its matrix products to, "float32", "tensorfloat32" or "bfloat16";
            their sums and all else are float32. TensorFloat-32 is of GPUs, and of JAX: TensorFlow and PyTorch have
            switches of their own for float32.
        sub_centers: how many centers a class has. Its cosine is that to the nearest of them, so that noisy images can
            gather at another one than the clean images do.
        ignored_above: other classes whose cosine is above this do not count in the loss, as they may be the same person
            under another label; 1 for none.
        straight_through: whether gradients go through the margin as if it were not there, as in arcface_torch, and not
            with the slope of its formula. Then none goes through a margin to the embedding's norm either.
        negatives: a `keras_arcface.layers.Negatives`, which makes hard negatives count for more; None for none.
        sample_rate: share of the classes that a training step looks at, in (0, 1]: those of the batch, and others drawn
            anew in each step. Below 1 only the centers drawn are updated, and a step of `RecognitionModel.fit` costs
            what they cost (TensorFlow and JAX). The loss is that over the classes drawn, as published.
        sample_slots: with a `sample_rate` below 1, how many slots the optimizer has for a weight, which the head keeps
            for all centers: 1 for SGD with momentum, 2 for Adam.
        sample_seed: what is drawn, classes and random margins, is a function of it and of `steps`.
        **kwargs: `name`, `trainable` and the like. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`, not normalized; or `[embeddings, labels]`.
        labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
        training: whether this is a batch of a training, to be counted.

    Returns:
        `(batch, num_classes)` float32 logits: penalized with labels, plain without.

    Attributes:
        centers: the weight, `(num_classes, dim)` or `(num_classes, sub_centers, dim)`, not normalized. With a
            `sample_rate` below 1 it is no trainable weight: those of a step are, in `sample`.
        strength: non-trainable scalar in [0, 1], how much of the penalty `cos - psi(cos)` applies; without a warm-up it
            is 1 and yours to set.
        steps: non-trainable integer, the training batches seen so far.

    Raises:
        ValueError: for arguments out of range, another dtype than float32, embeddings that are not `(batch, dim)`,
            labels that are not integers or do not have one entry per embedding; or for `training=True` without labels,
            as in `keras.Sequential([embedder, head])`, which would train without the margin.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698)
        - [CosFace](https://arxiv.org/abs/1801.09414)
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf)
        - [Partial FC](https://arxiv.org/abs/2203.15565)
    """

    binary = False  # whether every class is a question of its own

    def __init__(
        self,
        num_classes,
        *,
        margin=None,
        scale=64.0,
        centers_initializer=None,
        centers_regularizer=None,
        warmup_steps=0,
        initial_scale=None,
        label_smoothing=0.0,
        block_size=None,
        logits_memory=2**28,
        products="float32",
        sub_centers=1,
        ignored_above=1.0,
        straight_through=False,
        negatives=None,
        sample_rate=1.0,
        sample_slots=1,
        sample_seed=0,
        **kwargs,
    ):
        parts.check_integer("num_classes", num_classes, 2)
        parts.check_number("scale", scale, lambda scale: scale > 0, "above 0")
        if negatives is not None and not isinstance(negatives, Negatives):
            raise ValueError(
                "negatives must be None or a keras_arcface.layers.Negatives, such as MisclassifiedNegatives(). "
                f"Received: negatives={negatives!r}"
            )
        if negatives is not None and label_smoothing:
            raise ValueError(
                "label_smoothing wants the plain cosines to all classes. Expected: 0 with negatives. "
                f"Received: label_smoothing={label_smoothing}, negatives={negatives!r}"
            )
        if margin is not None and not callable(margin):
            raise ValueError(
                "margin must be None or a callable such as keras_arcface.margins.CombinedMargin(m2=0.5). "
                f"Received: margin={margin!r}"
            )
        parts.check_integer("warmup_steps", warmup_steps, 0)
        if initial_scale is not None:
            parts.check_number("initial_scale", initial_scale, lambda scale: scale > 0, "None or above 0")
        if initial_scale is not None and warmup_steps == 0:
            raise ValueError(
                "initial_scale needs warmup_steps, over which it becomes scale. "
                f"Received: initial_scale={initial_scale}, warmup_steps=0"
            )
        parts.check_number("label_smoothing", label_smoothing, lambda share: 0 <= share < 1, "in [0, 1)")
        ways.check(block_size, logits_memory, products)
        parts.check_integer("sub_centers", sub_centers, 1)
        parts.check_number("ignored_above", ignored_above, lambda cosine: -1 < cosine <= 1, "a cosine in (-1, 1]")
        parts.check_number("sample_rate", sample_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
        parts.check_integer("sample_slots", sample_slots, 0)
        parts.check_integer("sample_seed", sample_seed, 0)
        if sample_rate < 1 and centers_regularizer is not None:
            raise ValueError(
                "centers_regularizer looks at all centers in each step. Expected: None with a sample_rate below 1. "
                f"Received: centers_regularizer={centers_regularizer!r}, sample_rate={sample_rate}"
            )
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        if centers_initializer is None:
            centers_initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.num_classes = int(num_classes)
        self.margin = margin
        self.scale = float(scale)
        self.warmup_steps = int(warmup_steps)
        self.label_smoothing = float(label_smoothing)
        self.block_size = None if block_size is None else int(block_size)
        self.logits_memory = logits_memory
        self.products = products
        self.sub_centers = int(sub_centers)
        self.ignored_above = float(ignored_above)
        self.straight_through = bool(straight_through)
        self.negatives = negatives
        self.sample_rate = float(sample_rate)
        self.sample_slots = int(sample_slots)
        self.sample_seed = int(sample_seed)
        self.initial_scale = None if initial_scale is None else float(initial_scale)
        self.centers_initializer = keras.initializers.get(centers_initializer)
        self.centers_regularizer = keras.regularizers.get(centers_regularizer)

    def __new__(cls, *args, **kwargs):
        parts.check_positions(cls, args)
        return super().__new__(cls, *args, **kwargs)

    def __repr__(self):
        return parts.describe(self, "num_classes", "margin", "scale")

    def build(self, embeddings_shape, labels_shape=None):
        if isinstance(embeddings_shape[0], (tuple, list)):  # called with [embeddings, labels]
            embeddings_shape = embeddings_shape[0]
        if len(embeddings_shape) != 2 or embeddings_shape[-1] is None:
            raise ValueError(
                f"{self.name} expects embeddings of shape (batch, dim) with a known dim. "
                f"Received: embeddings of shape {tuple(embeddings_shape)}"
            )
        center_shape = (embeddings_shape[-1],) if self.sub_centers == 1 else (self.sub_centers, embeddings_shape[-1])
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_classes, *center_shape),
            initializer=self.centers_initializer,
            regularizer=self.centers_regularizer,
            trainable=not self.samples,
        )
        state = {"shape": (), "trainable": False, "aggregation": "only_first_replica"}
        start = "ones" if self.warmup_steps == 0 else "zeros"
        self.strength = self.add_weight(name="strength", initializer=start, **state)
        self.steps = self.add_weight(name="steps", initializer="zeros", dtype="int", **state)
        self.statistics = statistics.make(self, state)
        if self.samples:
            self._make_room_for_samples()

    def call(self, embeddings, labels=None, training=None):
        if isinstance(embeddings, (list, tuple)):
            embeddings, labels = parts.split_pair(self, embeddings, labels)
        if self.margin is not None or self.negatives is not None:
            parts.check_labels_are_given(self, labels, training)
        embeddings = self._beside_centers(embeddings)
        if labels is None:
            return self._scale_now() * self._cosines(embeddings)
        labels, valid = parts.check_labels(self, self._beside_centers(labels), embeddings)
        embeddings = parts.nan_where_not(valid, embeddings)
        cosines = self._cosines(embeddings)
        own = parts.take_column(cosines, labels)
        self._begin_batch(training)
        penalized = self._penalized(own, statistics.of_batch(self, labels, embeddings, own, training))
        if self.negatives is not None:
            targets = ops.stop_gradient(ops.expand_dims(penalized, 1))
            cosines = self.negatives(cosines, targets, statistics.hardness(self))
        return self._scale_now() * parts.put_column(cosines, labels, penalized)

    def loss(self, labels, embeddings):
        """Cross-entropy of the penalized softmax.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`.

        Returns:
            `(batch,)` float32, one loss per example.
        """
        return self.loss_and_stats(labels, embeddings)[0]

    def loss_and_stats(self, labels, embeddings, training=False):
        """The loss, and what one wants to watch beside it, in one pass.

        Args:
            labels: integer tensor `(batch,)`.
            embeddings: float tensor `(batch, dim)`.
            training: whether this is a batch of a training, to be counted.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 cross-entropies of the penalized softmax; `(batch,)`
            float32 plain cosines to the own center; `(batch,)` bool, whether every other center is farther.
        """
        embeddings = ops.cast(embeddings, "float32")
        if not self.built:
            self.build(tuple(embeddings.shape))
        embeddings = self._beside_centers(embeddings)
        labels, valid = parts.check_labels(self, self._beside_centers(ops.convert_to_tensor(labels)), embeddings)
        self._begin_batch(training)
        centers, places, shards = self.centers, labels, self._shards()
        if training and self.samples:
            centers, places = self.sample, sampling.places(self.sampled_ids, labels)
            valid = ops.logical_and(valid, ops.equal(ops.take(self.sampled_ids, places), labels))
        embeddings = parts.nan_where_not(valid, embeddings)
        unit, scale = parts.unit(embeddings), self._scale_now()
        way = ways.choose(
            embeddings.shape[0],
            centers.shape,
            max(self.scale, self.initial_scale or 0.0),
            self.block_size,
            self.logits_memory,
            shards,
            dtype=self.products,
            ignored_above=self.ignored_above,
            mean=self.label_smoothing > 0,
            negatives=self.negatives,
            binary=self.binary,
        )
        values, own = kernels.here().read(centers), None
        if self.negatives is not None:  # they are hard or not by the target's cosine, which must be known before
            own = ops.clip(ops.stop_gradient(blocks.own_cosines(unit, values, places, shards)), -1.0, 1.0)
        batch = statistics.of_batch(self, labels, embeddings, own, training)
        others = blocks.others(unit, values, places, scale, way, self._terms(own, batch))
        target_cosines = ops.clip(others.own, -1.0, 1.0)
        target_logits = scale * self._penalized(target_cosines, batch)
        losses = self._losses_of(others, target_logits, scale, centers.shape[0])
        extra = self.margin.regularizer(batch) if hasattr(self.margin, "regularizer") else None
        losses = losses if extra is None else losses + extra
        hits = ops.logical_and(valid, others.own > others.highest)
        return losses, target_cosines, hits

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "margin": keras.saving.serialize_keras_object(self.margin),
            "scale": self.scale,
            "centers_initializer": keras.initializers.serialize(self.centers_initializer),
            "centers_regularizer": keras.regularizers.serialize(self.centers_regularizer),
            "warmup_steps": self.warmup_steps,
            "initial_scale": self.initial_scale,
            "label_smoothing": self.label_smoothing,
            "block_size": self.block_size,
            "logits_memory": self.logits_memory,
            "products": self.products,
            "sub_centers": self.sub_centers,
            "ignored_above": self.ignored_above,
            "straight_through": self.straight_through,
            "negatives": keras.saving.serialize_keras_object(self.negatives),
            "sample_rate": self.sample_rate,
            "sample_slots": self.sample_slots,
            "sample_seed": self.sample_seed,
        }

    @classmethod
    def from_config(cls, config):
        objects = {n: keras.saving.deserialize_keras_object(v) for n, v in config.items() if n in _OBJECTS and v}
        return cls(**{**config, **objects})

    def _begin_batch(self, training):
        if not training:
            return
        if self.warmup_steps > 0:
            self.strength.assign(ops.minimum(ops.cast(self.steps, "float32") / self.warmup_steps, 1.0))
        self.steps.assign_add(1)

    def _scale_now(self):
        if self.initial_scale is None:
            return self.scale
        return self.initial_scale + (self.scale - self.initial_scale) * self.strength

    def _terms(self, target_cosines, batch):
        """What the loss in blocks is to know beside the cosines."""
        if self.negatives is None:
            return None
        return blocks.Terms(self._penalized(target_cosines, batch), statistics.hardness(self), ops.zeros(()))

    def _losses_of(self, others, target_logits, scale, classes):
        losses = ops.softplus(others.log_sum - target_logits)
        if self.label_smoothing > 0:
            # Instead of the target's logit, a part of it is wanted, and a part of the mean of all.
            mean = (scale * others.sum + target_logits) / classes
            losses = losses + self.label_smoothing * (target_logits - mean)
        return losses

    def _penalized(self, target_cosines, batch):
        if self.margin is None:
            return target_cosines
        margin = self.margin.for_batch(batch) if hasattr(self.margin, "for_batch") else self.margin
        penalty = self.strength * (target_cosines - margin(target_cosines))
        return target_cosines - (ops.stop_gradient(penalty) if self.straight_through else penalty)

    def _cosines(self, embeddings):
        """`(batch, classes)`, each to the nearest sub-center."""
        centers = ops.reshape(parts.unit(self.centers), (-1, self.centers.shape[-1]))
        cosines = ops.matmul(parts.unit(embeddings), ops.transpose(centers))
        if self.sub_centers == 1:
            return cosines
        return ops.max(ops.reshape(cosines, (-1, self.num_classes, self.sub_centers)), axis=2)
