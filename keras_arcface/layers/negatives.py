"""Hard negatives: other classes that get more weight in the softmax.

A negative is hard where its cosine is above the target's penalized cosine. The softmax then uses `negatives(cosine)` in
its place, and the cosine itself for all other negatives.
"""

import keras
from keras import ops

from keras_arcface._arguments import check_number
from keras_arcface.margins.base import repr_of_config


class Negatives:
    """Base class: maps the cosines to other classes to those that the softmax uses.

    To make your own, implement `hard` and `hard_derivatives` with `keras.ops`, and `get_config`, and decorate the class
    with `keras.saving.register_keras_serializable`, so that models with it can be loaded. The chunked loss keeps no
    tape, so it needs the derivatives.

    Attributes:
        start: the weight at the start.
        learns: whether `next_weight` changes the weight; then the head keeps and saves it.
    """

    start = 0.0
    learns = False

    def __call__(self, cosines, targets, weight):
        """Maps cosines to other classes.

        Args:
            cosines: float tensor, in [-1, 1].
            targets: penalized target cosines, of a shape that broadcasts.
            weight: scalar.

        Returns:
            A tensor of the shape of `cosines`, with values above -2.
        """
        return ops.where(cosines > targets, self.hard(cosines, weight), cosines)

    def derivatives(self, cosines, targets, weight):
        """Returns the derivatives with respect to the cosines; targets are constants."""
        return ops.where(cosines > targets, self.hard_derivatives(cosines, weight), 1.0)

    def hard(self, cosines, weight):
        """Maps the cosines of hard negatives."""
        raise NotImplementedError(f"{type(self).__name__} does not implement hard(cosines, weight).")

    def hard_derivatives(self, cosines, weight):
        """Returns the derivatives of `hard` with respect to the cosines."""
        raise NotImplementedError(f"{type(self).__name__} does not implement hard_derivatives(cosines, weight).")

    def next_weight(self, weight, target_cosines):
        """Returns the weight of a training step.

        Args:
            weight: weight of the step before.
            target_cosines: `(batch,)` cosines without the margin, of all replicas.
        """
        return weight

    def get_config(self):
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Negatives)


def get(identifier):
    """Resolves negatives: a `Negatives`, its serialized config, or None, which stays None."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is not None and not isinstance(identifier, Negatives):
        raise ValueError(
            "negatives must be None or a keras_arcface.layers.Negatives, such as MisclassifiedNegatives(). "
            f"Received: negatives={identifier!r}"
        )
    return identifier


@keras.saving.register_keras_serializable(package="keras_arcface")
class CurricularNegatives(Negatives):
    """The hard negatives of CurricularFace: their cosines become `cosine * (t + cosine)`.

    `t` is a running mean of the target cosines that starts at 0: hard negatives have less weight at first, and more as
    embeddings come closer to their centers. Cosines that are not finite are left out.

    Args:
        momentum: weight of the old mean in each step, in [0, 1).

    References:
        - [CurricularFace](https://arxiv.org/abs/2004.00288), equations 5, 6 and 9
    """

    learns = True

    def __init__(self, momentum=0.99):
        check_number("momentum", momentum, lambda share: 0 <= share < 1, "in [0, 1)")
        self.momentum = float(momentum)

    def hard(self, cosines, weight):
        return cosines * (weight + cosines)

    def hard_derivatives(self, cosines, weight):
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
    """The hard negatives of MV-softmax: their cosines become `t * cosine + t - 1`, or `cosine + t - 1`.

    Args:
        weight: `t`, at least 1; 1 changes nothing. The paper uses 1.2.
        fixed: if true, all hard negatives gain the same, `t - 1`; if false, closer ones gain more.

    References:
        - [Mis-classified Vector Guided Softmax Loss](https://arxiv.org/abs/1912.00833), equations 8 and 9
    """

    def __init__(self, weight=1.2, fixed=False):
        check_number("weight", weight, lambda weight: weight >= 1, "at least 1")
        self.weight, self.fixed = float(weight), bool(fixed)

    @property
    def start(self):
        return self.weight

    def hard(self, cosines, weight):
        return cosines + weight - 1.0 if self.fixed else weight * cosines + weight - 1.0

    def hard_derivatives(self, cosines, weight):
        return ops.ones_like(cosines) * (1.0 if self.fixed else weight)

    def get_config(self):
        return {"weight": self.weight, "fixed": self.fixed}
