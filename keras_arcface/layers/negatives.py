"""Maps of the cosines to other classes: hard negatives count for more than they are.

A negative is hard where its cosine is above the target's, the margin taken off. The softmax sees `negatives(cosine)` of
it instead, and the cosine itself of all others.
"""

import keras
from keras import ops

from keras_arcface.layers import parts
from keras_arcface.margins.base import repr_of_config


class Negatives:
    """Base class: `negatives(cosines, targets, weight) -> cosines` that the softmax is to see.

    To make your own, implement `hard` and `slope_of_hard` with `keras.ops`, and `get_config`, and decorate the class
    with `keras.saving.register_keras_serializable`, so that models that hold it can be loaded. The loss in blocks keeps
    no tape, so it asks for the slope.

    Attributes:
        start: the weight in the beginning.
        learns: whether `next_weight` changes it; then the head keeps and saves it.
    """

    start = 0.0
    learns = False

    def __call__(self, cosines, targets, weight):
        """Maps cosines to other classes.

        Args:
            cosines: float tensor, in [-1, 1].
            targets: the own cosines with their margin, of a shape that fits.
            weight: scalar.

        Returns:
            A tensor of the shape of `cosines`, with values above -2.
        """
        return ops.where(cosines > targets, self.hard(cosines, weight), cosines)

    def slope(self, cosines, targets, weight):
        """The derivative by the cosines; the targets count as given."""
        return ops.where(cosines > targets, self.slope_of_hard(cosines, weight), 1.0)

    def hard(self, cosines, weight):
        raise NotImplementedError(f"{type(self).__name__} does not implement hard(cosines, weight).")

    def slope_of_hard(self, cosines, weight):
        raise NotImplementedError(f"{type(self).__name__} does not implement slope_of_hard(cosines, weight).")

    def next_weight(self, weight, target_cosines):
        """The weight of a training step.

        Args:
            weight: that of the step before.
            target_cosines: `(batch,)`, plain, of the whole batch.
        """
        return weight

    def get_config(self):
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Negatives)


@keras.saving.register_keras_serializable(package="keras_arcface")
class CurricularNegatives(Negatives):
    """CurricularFace's: a hard negative becomes `cosine * (t + cosine)`.

    `t` is a running mean of the target cosines, from 0 on: hard negatives count for less in the beginning, and for more
    as embeddings come closer to their centers. Cosines that are not finite do not count.

    Args:
        momentum: the share of the old mean that is kept in each step, in [0, 1).

    References:
        - [CurricularFace](https://arxiv.org/abs/2004.00288), equations 5, 6 and 9
    """

    learns = True

    def __init__(self, momentum=0.99):
        parts.check_number("momentum", momentum, lambda share: 0 <= share < 1, "in [0, 1)")
        self.momentum = float(momentum)

    def hard(self, cosines, weight):
        return cosines * (weight + cosines)

    def slope_of_hard(self, cosines, weight):
        return weight + 2.0 * cosines

    def next_weight(self, weight, target_cosines):
        finite = ops.isfinite(target_cosines)
        count = ops.sum(ops.cast(finite, "float32"))
        mean = ops.sum(ops.where(finite, target_cosines, 0.0)) / ops.maximum(count, 1.0)
        return ops.where(count > 0, self.momentum * weight + (1.0 - self.momentum) * mean, weight)

    def get_config(self):
        return {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_arcface")
class MisclassifiedNegatives(Negatives):
    """MV-softmax's: a hard negative becomes `t * cosine + t - 1`, or `cosine + t - 1`.

    Args:
        weight: `t`, at least 1; 1 changes nothing. The paper takes 1.2.
        fixed: whether hard negatives all gain the same, `t - 1`, and not more the closer they are.

    References:
        - [Mis-classified Vector Guided Softmax Loss](https://arxiv.org/abs/1912.00833), equations 8 and 9
    """

    def __init__(self, weight=1.2, fixed=False):
        parts.check_number("weight", weight, lambda weight: weight >= 1, "at least 1")
        self.weight, self.fixed = float(weight), bool(fixed)

    @property
    def start(self):
        return self.weight

    def hard(self, cosines, weight):
        return cosines + weight - 1.0 if self.fixed else weight * cosines + weight - 1.0

    def slope_of_hard(self, cosines, weight):
        return ops.ones_like(cosines) * (1.0 if self.fixed else weight)

    def get_config(self):
        return {"weight": self.weight, "fixed": self.fixed}
