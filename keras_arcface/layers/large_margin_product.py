"""The angular margins before the fixed scale: the lengths of embeddings, and of centers too, stay in the logits."""

import keras
from keras import ops

from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers.unbounded_product import UnboundedProduct
from keras_arcface.margins.base import check_factor
from keras_arcface.margins.base import penalized


@keras.saving.register_keras_serializable(package="keras_arcface")
class LSoftmax(UnboundedProduct):
    """Large-margin softmax: the target's logit `|w| |x| cos(theta)` becomes `|w| |x| psi(theta)`.

    With `k = floor(margin * theta / pi)`, `psi(theta) = (-1)**k * cos(margin * theta) - 2 * k`. There is neither bias
    nor scale, and neither embeddings nor centers are normalized.

    So strict a target is not learned from the start, and is mixed with the plain one:
    `(annealing * |w| |x| cos(theta) + |w| |x| psi(theta)) / (1 + annealing)`, where
    `annealing = max(least, base * (1 + gamma * steps)**-power)` falls with the training batches, which are counted in
    the graph. The defaults are the published code's, for some ten thousand steps: after a thousand the penalized target
    counts 0.2%. Raise `gamma` in proportion where a training is shorter.

    Everything is computed in float32, the loss in blocks of classes, as `MarginProduct`'s. A zero embedding has the
    gradient of plain softmax.

    Args:
        num_classes: number of classes, at least 2.
        margin: `m`, an integer in [1, 10]; 1 for none.
        base: the annealing in the beginning, at least 0; 0 for none.
        gamma: how fast it falls, at least 0.
        power: the exponent of its fall, at least 0.
        least: what it does not fall below, at least 0.
        block_size, logits_memory, products: as of `MarginProduct`.
        **kwargs: `name`, `trainable` and the like. `dtype` may only be float32.

    Call arguments:
        embeddings: float tensor `(batch, dim)`.
        labels: integer tensor `(batch,)`, or None.
        training: whether this is a batch of a training, to be counted.

    Returns:
        `(batch, num_classes)` float32 logits: penalized with labels, plain without.

    Attributes:
        centers: the weight, `(num_classes, dim)`.
        steps: non-trainable integer, the training batches seen so far.

    Raises:
        ValueError: for arguments out of range, labels that are not one integer per embedding, or `training=True`
            without labels. A label outside `[0, num_classes)` makes its row NaN.

    References:
        - [Large-Margin Softmax Loss](https://arxiv.org/abs/1612.02295), equations 4 to 6 and section 5.1
    """

    def __init__(self, num_classes, *, margin=4, base=1000.0, gamma=0.000025, power=35.0, least=0.0, **kwargs):
        parts.check_integer("margin", margin, 1)
        check_factor("margin", margin)
        for name, value in (("base", base), ("gamma", gamma), ("power", power), ("least", least)):
            parts.check_number(name, value, lambda value: value >= 0, "at least 0")
        super().__init__(num_classes, **kwargs)
        self.margin = int(margin)
        self.base, self.gamma, self.power, self.least = float(base), float(gamma), float(power), float(least)

    def __repr__(self):
        return parts.describe(self, "num_classes", "margin")

    def build(self, embeddings_shape, labels_shape=None):
        shape = (self.num_classes, embeddings_shape[-1])
        self.centers = self.add_weight(name="centers", shape=shape, initializer="glorot_uniform")
        state = {"trainable": False, "aggregation": "only_first_replica"}
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", dtype="int", **state)

    @property
    def annealing(self):
        """How much the plain target counts beside the penalized one, a scalar."""
        steps = ops.cast(self.steps, "float32")
        return ops.maximum(self.base * (1.0 + self.gamma * steps) ** -self.power, self.least)

    def call(self, embeddings, labels=None, training=None):
        if self.margin > 1:
            parts.check_labels_are_given(self, labels, training)
        centers = parts.unit(self.centers) if self.normalized else self.centers
        logits = ops.matmul(embeddings, ops.transpose(centers))
        if labels is None:
            return logits
        labels, valid = parts.check_labels(self, ops.convert_to_tensor(labels), embeddings)
        penalties, _ = self._penalties(labels, embeddings, training)
        targets = parts.take_column(logits, labels) - penalties
        return parts.nan_where_not(valid, parts.put_column(logits, labels, targets))

    def loss_and_stats(self, labels, embeddings, training=False):
        """As `MarginProduct.loss_and_stats`; a hit is a plain logit above all others."""
        labels, embeddings, valid = parts.checked_batch(self, labels, embeddings)
        others = self._others(embeddings, kernels.here().read(self.centers), labels)
        penalties, cosines = self._penalties(labels, embeddings, training)
        losses = ops.softplus(others.log_sum - others.own + penalties)
        return losses, ops.stop_gradient(cosines), ops.logical_and(valid, others.own > others.highest)

    def _penalties(self, labels, embeddings, training):
        """`(batch,)` what is taken off the target's logit, and its cosine."""
        if training:
            self.steps.assign_add(1)
        cosines, own = self._target_cosines(labels, embeddings)
        norms = parts.norms(embeddings) if self.normalized else parts.norms(embeddings) * parts.norms(own)
        return norms * (cosines - penalized(cosines, self.margin, 0.0)) / (1.0 + self.annealing), cosines

    def get_config(self):
        names = ("margin", "base", "gamma", "power", "least")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_arcface")
class ASoftmax(LSoftmax):
    """SphereFace as published: `LSoftmax` with normalized centers, so that logits are `|x| cos(theta_j)`.

    `SphereFace` is the form with normalized embeddings and a fixed scale. Arguments, call arguments and attributes are
    those of `LSoftmax`. The annealing falls faster, and to 5 only, which it reaches after 1,659 steps.

    References:
        - [SphereFace: Deep Hypersphere Embedding for Face Recognition](https://arxiv.org/abs/1704.08063), equation 7
    """

    normalized = True

    def __init__(self, num_classes, *, margin=4, base=1000.0, gamma=0.12, power=1.0, least=5.0, **kwargs):
        super().__init__(num_classes, margin=margin, base=base, gamma=gamma, power=power, least=least, **kwargs)
