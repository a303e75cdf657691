"""The head: scaled cosines between embeddings and class centres, with a margin on the target."""

import numbers

import keras
from keras import ops

from keras_arcface.layers import parts


@keras.saving.register_keras_serializable(package="keras_arcface")
class MarginProduct(keras.layers.Layer):
    """Classification head on the hypersphere: `scale * cos(theta)`, with a margin on the target class.

    Embeddings and class centres are L2-normalised here, so their product is the cosine of the angle between them.
    Given labels, the target's cosine becomes `psi(cosine)`, which asks the embedding to be closer to its own centre
    than is needed to be classified; without labels the head gives plain scaled cosines.

    Everything is computed in float32, under mixed precision policies too. A label outside `[0, num_classes)` makes
    its row, and so the loss, NaN on every backend.

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
        centers_initializer: of the centres; N(0, 0.01) by default.
        centers_regularizer: of the centres; none by default.
        warmup_steps: over so many training batches `strength` rises from 0 to 1, where the whole margin from the start
            leaves a loss that does not fall (large margins, little data). The batches are counted in the graph.
        initial_scale: the scale at the start of the warm-up, to rise with it; `scale` from the start by default.
        label_smoothing: share of the target's probability that the loss asks to be spread over all classes evenly, in
            [0, 1). The published recipes use none.
        **kwargs: `name`, `trainable` and the like. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`, not normalised; or `[embeddings, labels]`.
        labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
        training: whether this is a batch of a training, to be counted.

    Returns:
        `(batch, num_classes)` float32 logits: penalised with labels, plain without.

    Attributes:
        centers: the weight, `(num_classes, dim)`, not normalised.
        strength: non-trainable scalar in [0, 1], how much of the penalty `cos - psi(cos)` applies; without a warm-up it
            is 1 and yours to set.
        steps: non-trainable integer, the training batches seen so far.

    Raises:
        ValueError: for arguments out of range, another dtype than float32, embeddings that are not `(batch, dim)`,
            labels that are not integers or do not have one entry per embedding.

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698)
        - [CosFace](https://arxiv.org/abs/1801.09414)
    """

    def __init__(
        self,
        num_classes,
        margin=None,
        scale=64.0,
        centers_initializer=None,
        centers_regularizer=None,
        warmup_steps=0,
        initial_scale=None,
        label_smoothing=0.0,
        **kwargs,
    ):
        if not isinstance(num_classes, numbers.Integral) or num_classes < 2:
            raise ValueError(f"num_classes must be an integer of at least 2. Received: num_classes={num_classes!r}")
        if not isinstance(scale, numbers.Real) or not scale > 0:
            raise ValueError(f"scale must be above 0. Received: scale={scale!r}")
        if margin is not None and not callable(margin):
            raise ValueError(
                "margin must be None or a callable such as keras_arcface.margins.CombinedMargin(m2=0.5). "
                f"Received: margin={margin!r}"
            )
        if not isinstance(warmup_steps, numbers.Integral) or warmup_steps < 0:
            raise ValueError(f"warmup_steps must be an integer of at least 0. Received: warmup_steps={warmup_steps!r}")
        if initial_scale is not None and not (isinstance(initial_scale, numbers.Real) and initial_scale > 0):
            raise ValueError(f"initial_scale must be None or above 0. Received: initial_scale={initial_scale!r}")
        if initial_scale is not None and warmup_steps == 0:
            raise ValueError(
                "initial_scale needs warmup_steps, over which it becomes scale. "
                f"Received: initial_scale={initial_scale}, warmup_steps=0"
            )
        if not isinstance(label_smoothing, numbers.Real) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1). Received: label_smoothing={label_smoothing!r}")
        super().__init__(dtype=parts.float32_policy(kwargs.pop("dtype", None)), **kwargs)
        if centers_initializer is None:
            centers_initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.num_classes = int(num_classes)
        self.margin = margin
        self.scale = float(scale)
        self.warmup_steps = int(warmup_steps)
        self.label_smoothing = float(label_smoothing)
        self.initial_scale = None if initial_scale is None else float(initial_scale)
        self.centers_initializer = keras.initializers.get(centers_initializer)
        self.centers_regularizer = keras.regularizers.get(centers_regularizer)

    def build(self, embeddings_shape, labels_shape=None):
        if isinstance(embeddings_shape[0], (tuple, list)):  # called with [embeddings, labels]
            embeddings_shape = embeddings_shape[0]
        if len(embeddings_shape) != 2 or embeddings_shape[-1] is None:
            raise ValueError(
                f"{self.name} expects embeddings of shape (batch, dim) with a known dim. "
                f"Received: embeddings of shape {tuple(embeddings_shape)}"
            )
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_classes, embeddings_shape[-1]),
            initializer=self.centers_initializer,
            regularizer=self.centers_regularizer,
        )
        state = {"shape": (), "trainable": False, "aggregation": "only_first_replica"}
        start = "ones" if self.warmup_steps == 0 else "zeros"
        self.strength = self.add_weight(name="strength", initializer=start, **state)
        self.steps = self.add_weight(name="steps", initializer="zeros", dtype="int", **state)

    def call(self, embeddings, labels=None, training=None):
        if isinstance(embeddings, (list, tuple)):
            embeddings, labels = self._split_pair(embeddings, labels)
        embeddings = self._beside_centers(embeddings)
        if labels is None:
            return self._scale_now() * self._cosines(embeddings)
        labels, valid = parts.check_labels(self, self._beside_centers(labels), embeddings)
        cosines = self._cosines(parts.nan_where_not(valid, embeddings))
        self._begin_batch(training)
        return self._scale_now() * parts.put_column(
            cosines, labels, self._penalised(parts.take_column(cosines, labels))
        )

    def loss(self, labels, embeddings):
        """Cross-entropy of the penalised softmax.

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
            `(losses, target_cosines, hits)`: `(batch,)` float32 cross-entropies of the penalised softmax; `(batch,)`
            float32 plain cosines to the own centre; `(batch,)` bool, whether the own centre is the closest.
        """
        embeddings = ops.cast(embeddings, "float32")
        if not self.built:
            self.build(tuple(embeddings.shape))
        embeddings = self._beside_centers(embeddings)
        labels, valid = parts.check_labels(self, self._beside_centers(ops.convert_to_tensor(labels)), embeddings)
        self._begin_batch(training)
        cosines, scale = self._cosines(parts.nan_where_not(valid, embeddings)), self._scale_now()
        target_cosines = ops.clip(parts.take_column(cosines, labels), -1.0, 1.0)
        target_logits = scale * self._penalised(target_cosines)
        logits = parts.put_column(scale * cosines, labels, target_logits)
        wanted = target_logits
        if self.label_smoothing > 0:
            wanted = (1 - self.label_smoothing) * wanted + self.label_smoothing * ops.mean(logits, axis=-1)
        losses = ops.logsumexp(logits, axis=-1) - wanted
        nearest = ops.cast(ops.argmax(cosines, axis=-1), "int32")
        hits = ops.logical_and(valid, ops.equal(nearest, labels))
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
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("margin"), dict):
            config = {**config, "margin": keras.saving.deserialize_keras_object(config["margin"])}
        return cls(**config)

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

    def _penalised(self, target_cosines):
        if self.margin is None:
            return target_cosines
        return target_cosines - self.strength * (target_cosines - self.margin(target_cosines))

    def _cosines(self, embeddings):
        return ops.matmul(parts.unit(embeddings), ops.transpose(parts.unit(self.centers)))

    def _beside_centers(self, tensor):
        """Lays out embeddings or labels over devices as a `keras.distribution.LayoutMap` says for `PATH/batch`, if so.

        Where the same devices share both the batch and the classes, one of them must be gathered. It must be the batch;
        XLA, left to choose, takes the centres.
        """
        distribution = keras.distribution.distribution()
        layout = None if distribution is None else distribution.get_tensor_layout(f"{self.path}/batch")
        if layout is None:
            return tensor
        # The gradient takes the same way back: split here, so that not every device goes through the embedder with all.
        tensor = keras.distribution.distribute_tensor(tensor, distribution.get_data_layout(tensor.shape))
        return keras.distribution.distribute_tensor(tensor, layout)

    def _split_pair(self, pair, labels):
        if labels is not None or len(pair) != 2:
            raise ValueError(
                f"{self.name} is called as head(embeddings), head(embeddings, labels) or head([embeddings, labels]). "
                f"Received: a {type(pair).__name__} of {len(pair)}" + (" and labels" if labels is not None else "")
            )
        return pair
