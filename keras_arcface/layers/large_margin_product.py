"""L-Softmax and the published SphereFace, with angular margins on logits that include the norms of the embeddings."""

import keras
from keras import ops

from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.layers import validation
from keras_arcface.layers import vectors
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.inner_product import InnerProductHead
from keras_arcface.margins.base import check_factor
from keras_arcface.margins.base import cosine_of_shifted_angle


@keras.saving.register_keras_serializable(package="keras_arcface")
class LSoftmax(InnerProductHead):
    """Large-margin softmax head, which replaces the target logit `|w| |x| cos(theta)` by `|w| |x| psi(theta)`.

    With `k = floor(margin * theta / pi)`, `psi(theta) = (-1)**k * cos(margin * theta) - 2 * k`. The head has no bias
    and no scale, and normalizes neither embeddings nor centers. It was published before `SphereFace` and
    `ArcFace`; use it for comparisons.

    Training fails with the penalized logit from the start, so the target logit is `(annealing * |w| |x| cos(theta) +
    |w| |x| psi(theta)) / (1 + annealing)`, where `annealing = max(minimum, base * (1 + gamma * steps)**-power)`
    decreases with the number of training batches. The defaults are those of the published code, for about ten thousand
    steps: after a thousand steps the penalized logit has a weight of 0.2%. For a shorter training, increase `gamma` in
    proportion.

    The head computes in float32, and the loss in chunks of classes, as in `MarginProduct`. A zero embedding has the
    gradient of plain softmax.

    Args:
        num_classes: number of classes, at least 2.
        margin: integer factor on the angle, in [1, 10]; 1 for no margin.
        base: initial value of the annealing, at least 0; 0 for no annealing.
        gamma: rate of decrease of the annealing, at least 0.
        power: exponent of the decrease of the annealing, at least 0.
        minimum: minimum of the annealing, at least 0.
        **kwargs: `chunk_size`, `max_cache_bytes` and `matmul_dtype` of `MarginProduct`; `name`, `trainable` and other
            arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Attributes:
        centers: weight `(num_classes, dim)`.
        steps: non-trainable integer, number of training batches so far.

    Raises:
        ValueError: if an argument is out of its range, or for a call whose labels are not one integer per embedding, or
            are missing with `training=True`.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        Without annealing, the first logit decreases from 8 to `10 * psi(theta)`, where `cos(theta) = 0.8`:

        >>> head = LSoftmax(num_classes=2, margin=4, base=0.0)
        >>> head.build((None, 2))
        >>> head.set_weights([np.eye(2), np.array(0)])  # centers and steps
        >>> embeddings = np.array([[8.0, 6.0]])
        >>> print(np.round(head(embeddings), 2), np.round(head(embeddings, np.array([0])), 2))
        [[8. 6.]] [[-8.43  6.  ]]

    References:
        - [Large-Margin Softmax Loss](https://arxiv.org/abs/1612.02295), equations 4 to 6 and section 5.1
    """

    def __init__(self, num_classes, *, margin=4, base=1000.0, gamma=0.000025, power=35.0, minimum=0.0, **kwargs):
        check_integer("margin", margin, 1)
        check_factor("margin", margin)
        for name, value in (("base", base), ("gamma", gamma), ("power", power), ("minimum", minimum)):
            check_number(name, value, lambda value: value >= 0, "at least 0")
        super().__init__(num_classes, **kwargs)
        self.margin = int(margin)
        self.base, self.gamma, self.power, self.minimum = float(base), float(gamma), float(power), float(minimum)

    def __repr__(self):
        return self.describe("num_classes", "margin")

    def build(self, embeddings_shape, labels_shape=None):
        shape = (self.num_classes, self.embedding_dim(embeddings_shape, labels_shape))
        self.centers = self.add_weight(name="centers", shape=shape, initializer="glorot_uniform")
        state = {"trainable": False, "aggregation": "only_first_replica"}
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", dtype="int", **state)

    @property
    def annealing(self):
        """Weight of the plain target logit relative to the penalized one, a scalar float32 tensor."""
        steps = ops.cast(self.steps, "float32")
        return ops.maximum(self.base * (1.0 + self.gamma * steps) ** -self.power, self.minimum)

    def call(self, embeddings, labels=None, training=None):
        """Computes the logits.

        Args:
            embeddings: float tensor `(batch, dim)`, or `[embeddings, labels]`.
            labels: integer tensor `(batch,)` or `(batch, 1)`, or None.
            training: if true, the call is a training step, which updates `steps`.

        Returns:
            `(batch, num_classes)` float32 logits, with the margin if labels are given. The row of a label outside `[0,
            num_classes)` is NaN.

        Raises:
            ValueError: if labels are not one integer per embedding, or are missing with `training=True`.
        """
        embeddings, labels = validation.split_pair(self, embeddings, labels)
        self.check_call(embeddings, labels, training, needs_labels=self.margin > 1)
        centers = vectors.unit(self.centers) if self.normalizes_centers else self.centers
        logits = ops.matmul(embeddings, ops.transpose(centers))
        if labels is None:
            return logits
        labels, valid = validation.check_labels(self, ops.convert_to_tensor(labels), embeddings)
        penalties, _ = self._penalties(labels, embeddings, training)
        targets = vectors.take_column(logits, labels) - penalties
        return vectors.nan_where_not(valid, vectors.put_column(logits, labels, targets))

    def loss_and_stats(self, labels, embeddings, training=False):
        """Computes the loss and training statistics in one pass, in chunks of classes.

        Args:
            labels: integer tensor `(batch,)` or `(batch, 1)`.
            embeddings: float tensor `(batch, dim)`, not normalized.
            training: if true, the call is a training step, which updates `steps`.

        Returns:
            `(losses, target_cosines, hits)`: `(batch,)` float32 losses; `(batch,)` float32 cosines to the center of the
            target class; `(batch,)` bool mask of the examples whose target logit, without the margin, is above all
            others.

        Raises:
            ValueError: if labels are not one integer per embedding, or labels and embeddings are in the wrong order.
        """
        labels, embeddings, valid = self.check_batch(labels, embeddings)
        results = self._reduce(embeddings, backends.current().read(self.centers), labels)
        penalties, cosines = self._penalties(labels, embeddings, training)
        losses = ops.softplus(results["log_sum_exp"] - results["target"] + penalties)
        hits = ops.logical_and(valid, results["target"] > results["highest"])
        return losses, ops.stop_gradient(cosines), hits

    def _penalties(self, labels, embeddings, training):
        """Returns the `(batch,)` penalties to subtract from the target logits, and the `(batch,)` target cosines."""
        if training:
            self.steps.assign_add(1)
        cosines, target_centers = self._target_cosines(labels, embeddings)
        norms = vectors.norms(embeddings)
        if not self.normalizes_centers:
            norms = norms * vectors.norms(target_centers)
        return norms * (cosines - cosine_of_shifted_angle(cosines, self.margin, 0.0)) / (1.0 + self.annealing), cosines

    def get_config(self):
        names = ("margin", "base", "gamma", "power", "minimum")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_arcface")
class ASoftmax(LSoftmax):
    """A-Softmax head, the published form of SphereFace: an `LSoftmax` with normalized centers.

    The logits are `|x| cos(theta_j)`. `SphereFace` is the form with normalized embeddings and a fixed scale. Attributes
    and calls are those of `LSoftmax`. The annealing decreases faster, to a minimum of 5 after 1,659 steps.

    Args:
        num_classes: number of classes, at least 2.
        margin: integer factor on the angle, in [1, 10]; 1 for no margin.
        base: initial value of the annealing, at least 0; 0 for no annealing.
        gamma: rate of decrease of the annealing, at least 0.
        power: exponent of the decrease of the annealing, at least 0.
        minimum: minimum of the annealing, at least 0.
        **kwargs: `chunk_size`, `max_cache_bytes` and `matmul_dtype` of `MarginProduct`; `name`, `trainable` and other
            arguments of `keras.layers.Layer`. `dtype` may only be float32.

    Raises:
        ValueError: if an argument is out of its range, or for a call that `LSoftmax` refuses.
        TypeError: if an argument other than `num_classes` is positional.

    Examples:
        At the start, the plain target logit has 1000 times the weight of the penalized one:

        >>> head = ASoftmax(num_classes=2)
        >>> head.build((None, 2))
        >>> head.set_weights([np.eye(2), np.array(0)])  # centers and steps
        >>> float(head.annealing)
        1000.0
        >>> print(np.round(head(np.array([[8.0, 6.0]]), np.array([0])), 2))
        [[7.98 6.  ]]

    References:
        - [SphereFace: Deep Hypersphere Embedding for Face Recognition](https://arxiv.org/abs/1704.08063), equation 7
    """

    normalizes_centers = True

    def __init__(self, num_classes, *, margin=4, base=1000.0, gamma=0.12, power=1.0, minimum=5.0, **kwargs):
        super().__init__(num_classes, margin=margin, base=base, gamma=gamma, power=power, minimum=minimum, **kwargs)
