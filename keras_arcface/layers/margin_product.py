"""Head with scaled cosines between embeddings and class centers, and a margin on the target class."""

import keras
from keras import ops

from keras_arcface import margins
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.layers import batch_statistics
from keras_arcface.layers import class_sharding
from keras_arcface.layers import first_loss
from keras_arcface.layers import negatives as hard_negatives
from keras_arcface.layers import validation
from keras_arcface.layers import vectors
from keras_arcface.layers.base import Head
from keras_arcface.layers.chunked import ChunkedReductions
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import chunking
from keras_arcface.layers.chunked import reductions
from keras_arcface.layers.chunked import target_cosines
from keras_arcface.layers.partial_fc import PartialFC

_STATE = {"shape": (), "trainable": False, "aggregation": "only_first_replica"}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MarginProduct(Head):
    """Classification head with the logits `scale * cos(theta)` and a margin on the target class.

    The head L2-normalizes embeddings and class centers, so their product is the cosine of the angle between them. With
    labels, the target cosine becomes `psi(cosine)`, which requires the embedding to be closer to its target center than
    classification alone would. Without labels, the head returns plain scaled cosines. `ArcFace`, `CosFace` and others
    are presets with the margin of a paper; use this class for other margins and negatives.

    The head computes in float32 under every dtype policy. The row of a label outside `[0, num_classes)`, and therefore
    the loss, is NaN on every backend. (JAX truncates integers to 32 bits before a head receives them; `fit` and
    `evaluate` of `RecognitionModel` check arrays before this.)

    Args:
        num_classes: number of classes, at least 2.
        margin: a `keras_arcface.margins.Margin`, a function of the cosines, or None for no margin (norm-softmax).
        scale: scale `s` of the logits, above 0. The papers use 64, and about 30 for few classes.
        centers_initializer: initializer of the centers; N(0, 0.01) by default.
        centers_regularizer: regularizer of the centers; no regularizer by default.
        warmup_steps: number of training batches over which `strength` increases from 0 to 1. Use a warm-up if the loss
            does not decrease with the full margin from the start (large margins, little data).
        initial_scale: scale at the start of the warm-up, during which it changes linearly to `scale`; `scale` by
            default.
        label_smoothing: fraction of the target probability that is distributed evenly over all classes, in [0, 1). The
            published recipes use 0.
        chunk_size: number of classes per chunk of the loss; chosen for the batch by default. The `(batch, num_classes)`
            logits are never stored; the loss and its gradient are exact.
        max_cache_bytes: maximum size of the cosines, `4 * batch * num_classes` bytes, that the loss caches for the
            backward pass. Caching uses about three times this memory in total. Larger cosines are computed again, which
            takes four matrix products instead of three.
        matmul_dtype: dtype to which the inputs of matrix products are rounded, "float32", "tensorfloat32" or
            "bfloat16"; sums and all other computations are float32. TensorFloat-32 requires a GPU and JAX; TensorFlow
            and PyTorch have global switches for it. On a CPU without instructions for bfloat16 (AVX512-BF16 or AMX),
            where bfloat16 is several times slower, products are float32, with a warning in the log.
        sub_centers: number of centers per class. The cosine to a class is that to its nearest center, so that noisy
            images can use another center than clean images.
        ignored_above: cosine above which other classes are excluded from the loss, because they may be the same person
            under another label; 1 excludes no class.
        straight_through: if true, gradients ignore the margin, as in arcface_torch, instead of following its formula.
            In this case, no gradient flows through a margin to the norm of the embedding.
        negatives: a `keras_arcface.layers.Negatives`, which gives hard negatives more weight, or None.
        sample_rate: fraction of the classes in a training step, in (0, 1]: the classes of the batch and randomly drawn
            others. Below 1, a step of `RecognitionModel.fit` updates only the sampled centers, and its cost depends on
            their number (TensorFlow and JAX). The loss covers the sampled classes only, as in Partial FC.
        sample_groups: number of equal groups of consecutive classes, a divisor of `num_classes`. A step samples the
            same number of classes from each group, and the sample does not depend on the number of devices. Classes
            split over devices with `keras_arcface.training.ClassParallel` require a multiple of its `class_shards`.
        sample_seed: seed of the sampled classes and of random margins, which also depend on `steps`.
        **kwargs: `name`, `trainable` and other arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        centers: weight `(num_classes, dim)` or `(num_classes, sub_centers, dim)`, not normalized. With a `sample_rate`
            below 1 it is not trainable; `partial_fc` has the trainable sample of a step.
        strength: non-trainable scalar in [0, 1], the factor on the penalty `cos - psi(cos)`. It is 1 without a warm-up,
            and can be assigned.
        steps: non-trainable integer, number of training batches so far.

    Raises:
        ValueError: if an argument is out of its range, or arguments exclude each other: `negatives` and
            `label_smoothing`, `initial_scale` without `warmup_steps`, `centers_regularizer` and a `sample_rate` below
            1, `sample_groups` above 1 and a `sample_rate` of 1, or if `sample_groups` does not divide `num_classes`.
            Also for inputs of a call: embeddings that are not `(batch, dim)`, labels that are not one integer per
            embedding, or missing labels with `training=True`, as in `keras.Sequential([embedder, head])`, which would
            train without the margin.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        The margin applies if labels are given, and only to the target class:

        >>> margin = CombinedMargin(m2=0.5)
        >>> head = MarginProduct(3, margin=margin, scale=10.0, centers_initializer="identity")
        >>> embedding = np.array([[0.8, 0.6, 0.0]])
        >>> print(np.round(head(embedding), 2))
        [[8. 6. 0.]]
        >>> print(np.round(head(embedding, np.array([0])), 2))
        [[4.14 6.   0.  ]]

        `RecognitionModel` trains an embedder with a head:

        >>> model = keras_arcface.RecognitionModel(embedder, MarginProduct(1000, margin=margin))

        In a functional model, labels are an input:

        >>> embeddings = keras.Input((8,))
        >>> labels = keras.Input((), dtype="int32")
        >>> model = keras.Model([embeddings, labels], MarginProduct(10, margin=margin)(embeddings, labels))
        >>> model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698)
        - [CosFace](https://arxiv.org/abs/1801.09414)
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf)
        - [Partial FC](https://arxiv.org/abs/2203.15565)
    """

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
        chunk_size=None,
        max_cache_bytes=2**28,
        matmul_dtype="float32",
        sub_centers=1,
        ignored_above=1.0,
        straight_through=False,
        negatives=None,
        sample_rate=1.0,
        sample_groups=1,
        sample_seed=0,
        **kwargs,
    ):
        check_integer("num_classes", num_classes, 2)
        check_number("scale", scale, lambda scale: scale > 0, "above 0")
        check_integer("warmup_steps", warmup_steps, 0)
        if initial_scale is not None:
            check_number("initial_scale", initial_scale, lambda scale: scale > 0, "None or above 0")
        check_number("label_smoothing", label_smoothing, lambda share: 0 <= share < 1, "in [0, 1)")
        chunking.check(chunk_size, max_cache_bytes, matmul_dtype)
        check_integer("sub_centers", sub_centers, 1)
        check_number("ignored_above", ignored_above, lambda cosine: -1 < cosine <= 1, "a cosine in (-1, 1]")
        check_number("sample_rate", sample_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
        check_integer("sample_groups", sample_groups, 1)
        check_integer("sample_seed", sample_seed, 0)
        super().__init__(**kwargs)
        if centers_initializer is None:
            centers_initializer = keras.initializers.RandomNormal(stddev=0.01)
        self.num_classes = int(num_classes)
        self.margin = margins.get(margin)
        self.scale = float(scale)
        self.warmup_steps = int(warmup_steps)
        self.label_smoothing = float(label_smoothing)
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        self.max_cache_bytes = max_cache_bytes
        self.matmul_dtype = matmul_dtype
        self.sub_centers = int(sub_centers)
        self.ignored_above = float(ignored_above)
        self.straight_through = bool(straight_through)
        self.negatives = hard_negatives.get(negatives)
        self.sample_rate = float(sample_rate)
        self.sample_groups = int(sample_groups)
        self.sample_seed = int(sample_seed)
        self.initial_scale = None if initial_scale is None else float(initial_scale)
        self.centers_initializer = keras.initializers.get(centers_initializer)
        self.centers_regularizer = keras.regularizers.get(centers_regularizer)
        self._check_combinations()
        self._engine = self.make_engine()

    def __repr__(self):
        return self.describe("num_classes", "margin", "scale")

    @property
    def centers(self):
        """Class centers, `(num_classes, dim)` or `(num_classes, sub_centers, dim)`, not normalized."""
        return self._centers if self.partial_fc is None else self.partial_fc.centers

    @property
    def is_sampled(self):
        """True if `sample_rate` is below 1."""
        return self.sample_rate < 1

    def build(self, embeddings_shape, labels_shape=None):
        dim = self.embedding_dim(embeddings_shape, labels_shape)
        center_shape = (dim,) if self.sub_centers == 1 else (self.sub_centers, dim)
        if self.is_sampled:
            self.partial_fc = PartialFC(
                self.num_classes,
                center_shape,
                self.sample_rate,
                self.sample_groups,
                self.sample_seed,
                self.centers_initializer,
                dtype=self.dtype_policy,
                name="partial_fc",
            )
            self.partial_fc.build()
        else:
            with class_sharding.class_axis():
                self._centers = self.add_weight(
                    name="centers",
                    shape=(self.num_classes, *center_shape),
                    initializer=self.centers_initializer,
                    regularizer=self.centers_regularizer,
                )
            class_sharding.mark_class_axis(self._centers)
        start = "ones" if self.warmup_steps == 0 else "zeros"
        self.strength = self.add_weight(name="strength", initializer=start, **_STATE)
        self.steps = self.add_weight(name="steps", initializer="zeros", dtype="int", **_STATE)
        self.statistics = batch_statistics.add_weights(self, _STATE)

    def call(self, embeddings, labels=None, training=None):
        """Computes the logits.

        Args:
            embeddings: float tensor `(batch, dim)`, not normalized; or `[embeddings, labels]`.
            labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
            training: if true, the call is a training step, which updates the state of the head.

        Returns:
            `(batch, num_classes)` float32 logits, with the margin if labels are given.

        Raises:
            ValueError: if labels are missing with `training=True`, or for a call with labels in a functional model or
                with `training=True` if the logits do not include the complete loss: `label_smoothing`, a `sample_rate`
                below 1, or a margin with a regularizer. `RecognitionModel` trains these heads.
        """
        embeddings, labels = validation.split_pair(self, embeddings, labels)
        has_penalty = not isinstance(self.margin, margins.NoMargin) or self.negatives is not None
        self.check_call(embeddings, labels, training, needs_labels=has_penalty)
        embeddings = class_sharding.distribute_batch(self.path, embeddings)
        if labels is None:
            return self._current_scale() * self._cosines(embeddings)
        labels = class_sharding.distribute_batch(self.path, labels)
        labels, valid = validation.check_labels(self, labels, embeddings)
        embeddings = vectors.nan_where_not(valid, embeddings)
        cosines = self._cosines(embeddings)
        targets = vectors.take_column(cosines, labels)
        self._update_step(training)
        batch = batch_statistics.make_batch(self, labels, embeddings, targets, training)
        penalized = self._penalized(targets, batch, self.strength)
        ignored = cosines > self.ignored_above
        if self.negatives is not None:
            threshold = ops.stop_gradient(ops.expand_dims(penalized, 1))
            cosines = self.negatives(cosines, threshold, batch_statistics.hardness(self))
        if self.ignored_above < 1:
            cosines = ops.where(ignored, reductions.LOWEST, cosines)
        return self._current_scale() * vectors.put_column(cosines, labels, penalized)

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass, in chunks of classes.

        Args:
            labels: integer tensor `(batch,)` or `(batch, 1)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, the call is a training step, which updates the state of the head.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses, NaN for labels out of range; `(batch,)` float32
            cosines to the target class, without the margin; `(batch,)` bool mask of the examples whose nearest class is
            the target class.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.

        Examples:
            >>> head = ArcFace(num_classes=3, scale=10.0, centers_initializer="identity")
            >>> embeddings = np.array([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])
            >>> losses, cosines, hits = head.loss_and_stats(np.array([0, 0]), embeddings)
            >>> print(np.round(losses, 2), np.asarray(cosines), np.asarray(hits))
            [2.   6.57] [0.8 0.6] [ True False]
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        self._update_step(training)
        centers, positions = self.centers, labels
        if training and self.partial_fc is not None:
            centers = self.partial_fc.sample
            positions, is_drawn = self.partial_fc.locate(labels)
            embeddings, valid = vectors.nan_where_not(is_drawn, embeddings), ops.logical_and(valid, is_drawn)
        chunks = chunking.choose(
            embeddings.shape[0],
            centers.shape,
            self.chunk_size,
            self.max_cache_bytes,
            self.matmul_dtype,
            class_sharding.num_shards(self.centers),
        )
        rows, centers, targets = vectors.unit(embeddings), backends.current().read(centers), None
        if self.negatives is not None:  # the target cosine determines the hard negatives
            targets = ops.stop_gradient(target_cosines(rows, centers, positions, chunks.shards))
            targets = ops.clip(targets, -1.0, 1.0)
        batch = batch_statistics.make_batch(self, labels, embeddings, targets, training)
        inputs = {"scale": ops.convert_to_tensor(self._current_scale(), "float32")}
        if self.negatives is not None:
            inputs["penalized_targets"] = self._penalized(targets, batch, self.strength)
            inputs["hardness"] = batch_statistics.hardness(self)
        inputs |= self.loss_inputs()
        results = self._engine(rows, centers, positions, chunks, **inputs)
        targets = ops.clip(results["target"], -1.0, 1.0)
        losses = self.combine(results, self._penalized(targets, batch, self.strength), inputs, centers.shape[0])
        regularizer = self.margin.regularizer(batch)
        losses = losses if regularizer is None else losses + regularizer
        return losses, targets, ops.logical_and(valid, results["target"] > results["highest"])

    def expected_first_loss(self, dim, seed=0):
        """Returns the expected mean loss of the first training step, for embeddings in random directions.

        A training with a different first loss has an unintended number of classes, scale or margin, or incorrect
        labels. With a warm-up, this is the loss without the margin and with `initial_scale`.

        Args:
            dim: dimension of the embeddings.
            seed: seed of the random directions.

        Returns:
            The mean loss, a float, accurate to about 1%.

        Examples:
            >>> round(ArcFace(num_classes=1000).expected_first_loss(dim=512))
            41
        """
        return first_loss.expected_first_loss(self, dim, seed)

    def missing_from_logits(self):
        if self.is_sampled:
            return "the sample of classes (sample_rate below 1)"
        if self.label_smoothing > 0:
            return "label_smoothing"
        if type(self.margin).regularizer is not margins.Margin.regularizer:
            return f"the regularizer of {self.margin!r}"
        return None

    def check_batch(self, labels, embeddings):
        labels, embeddings = ops.convert_to_tensor(labels), ops.convert_to_tensor(embeddings)
        return super().check_batch(
            class_sharding.distribute_batch(self.path, labels),
            class_sharding.distribute_batch(self.path, embeddings),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "margin": margins.serialize(self.margin),
            "scale": self.scale,
            "centers_initializer": keras.initializers.serialize(self.centers_initializer),
            "centers_regularizer": keras.regularizers.serialize(self.centers_regularizer),
            "warmup_steps": self.warmup_steps,
            "initial_scale": self.initial_scale,
            "label_smoothing": self.label_smoothing,
            "chunk_size": self.chunk_size,
            "max_cache_bytes": self.max_cache_bytes,
            "matmul_dtype": self.matmul_dtype,
            "sub_centers": self.sub_centers,
            "ignored_above": self.ignored_above,
            "straight_through": self.straight_through,
            "negatives": keras.saving.serialize_keras_object(self.negatives),
            "sample_rate": self.sample_rate,
            "sample_groups": self.sample_groups,
            "sample_seed": self.sample_seed,
        }

    def get_build_config(self):
        config = super().get_build_config()
        if config is None or self.partial_fc is None:
            return config
        return {**config, "optimizer_slots": len(self.partial_fc.slots)}

    def build_from_config(self, config):
        slots = config.pop("optimizer_slots", 0) if config else 0
        super().build_from_config(config)
        if slots:
            self.partial_fc.build_slots(slots)

    def _check_combinations(self):
        """Raises a ValueError for arguments that cannot be combined."""
        if self.negatives is not None and self.label_smoothing:
            raise ValueError(
                f"label_smoothing must be 0 with negatives. Received: label_smoothing={self.label_smoothing}, "
                f"negatives={self.negatives!r}"
            )
        if self.initial_scale is not None and self.warmup_steps == 0:
            raise ValueError(
                "initial_scale must be None without warmup_steps, the duration of the change to `scale`. "
                f"Received: initial_scale={self.initial_scale}, warmup_steps=0"
            )
        if self.is_sampled and self.centers_regularizer is not None:
            raise ValueError(
                "centers_regularizer must be None with a sample_rate below 1, because it uses all centers. "
                f"Received: centers_regularizer={self.centers_regularizer!r}, sample_rate={self.sample_rate}"
            )
        if self.sample_groups > 1 and not self.is_sampled:
            raise ValueError(
                "sample_groups must be 1 without a sample_rate below 1. "
                f"Received: sample_groups={self.sample_groups}, sample_rate={self.sample_rate}"
            )
        if self.num_classes % self.sample_groups:
            raise ValueError(
                f"num_classes must be divisible by sample_groups={self.sample_groups} (the last classes may have no "
                f"images). Received: num_classes={self.num_classes}"
            )

    def make_engine(self):
        """Returns the object that computes the results of `make_reductions` from embeddings and centers."""
        return ChunkedReductions(self.make_reductions())

    def make_reductions(self):
        """Returns the reductions of the loss by name, at least `target` and `highest`.

        A subclass with another loss over all classes overrides this method and `combine`.

        Returns:
            A dictionary of reductions. A reduction accumulates one `(batch,)` result over the chunks of classes.
        """
        max_scale = max(self.scale, self.initial_scale or 0.0)
        needed = {
            "log_sum_exp": reductions.LogSumExp(max_scale, self.ignored_above, self.negatives),
            "target": reductions.TargetCosine(),
            "highest": reductions.HighestCosine(),
        }
        if self.label_smoothing > 0:
            needed["cosine_sum"] = reductions.CosineSum()
        return needed

    def loss_inputs(self):
        """Returns additional inputs of the reductions and of `combine`, by name."""
        return {}

    def initial_loss_inputs(self):
        """Returns the value of `loss_inputs` before the first training step."""
        return {}

    def combine(self, results, penalized, inputs, num_classes):
        """Computes the losses from the results of the reductions.

        Args:
            results: results of `make_reductions`, by name.
            penalized: `(batch,)` target cosines with the margin.
            inputs: scalars by name, `scale` and the `loss_inputs`.
            num_classes: number of classes in the reductions.

        Returns:
            `(batch,)` float32 losses.
        """
        target_logits = inputs["scale"] * penalized
        losses = ops.softplus(results["log_sum_exp"] - target_logits)
        if self.label_smoothing > 0:
            # Smoothing replaces a fraction of the target logit by the same fraction of the mean logit.
            mean = (inputs["scale"] * results["cosine_sum"] + target_logits) / num_classes
            losses = losses + self.label_smoothing * (target_logits - mean)
        return losses

    def _penalized(self, cosines, batch, strength):
        """Returns target cosines with `strength` times the penalty of the margin."""
        if isinstance(self.margin, margins.NoMargin):
            return cosines
        penalty = strength * (cosines - self.margin.for_batch(batch)(cosines))
        return cosines - (ops.stop_gradient(penalty) if self.straight_through else penalty)

    def _update_step(self, training):
        if not training:
            return
        if self.warmup_steps > 0:
            self.strength.assign(ops.minimum(ops.cast(self.steps, "float32") / self.warmup_steps, 1.0))
        self.steps.assign_add(1)

    def _current_scale(self):
        if self.initial_scale is None:
            return self.scale
        return self.initial_scale + (self.scale - self.initial_scale) * self.strength

    def _cosines(self, embeddings):
        """Returns the `(batch, classes)` cosines to the nearest sub-center of each class."""
        centers = ops.reshape(vectors.unit(self.centers), (-1, self.centers.shape[-1]))
        cosines = ops.matmul(vectors.unit(embeddings), ops.transpose(centers))
        if self.sub_centers == 1:
            return cosines
        return ops.max(ops.reshape(cosines, (-1, self.num_classes, self.sub_centers)), axis=2)
