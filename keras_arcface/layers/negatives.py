"""Hard negatives: other classes that get more weight in the softmax.

A negative is hard if its cosine is above the penalized target cosine. For hard negatives, the softmax uses
`negatives(cosine)` instead of the cosine.
"""

import keras
from keras import ops

from keras_arcface._arguments import check_number
from keras_arcface.margins.base import repr_of_config


class Negatives:
    """Base class of functions that increase the cosines to hard negatives.

    A negative is a class other than the target class. It is hard if its cosine is above the target cosine with the
    margin. Pass an object to the argument `negatives` of `MarginProduct` or of a preset.

    A custom class implements `hard` and `hard_derivatives` with `keras.ops`, and `get_config`. Decorate it with
    `keras.saving.register_keras_serializable`, so that models with it can be loaded. The chunked loss requires the
    derivatives because it uses no automatic differentiation.

    Attributes:
        initial_weight: weight before the first training step.
        updates_weight: true if `next_weight` changes the weight. In this case, the head stores the weight.

    Raises:
        NotImplementedError: for a call, if a subclass does not implement one of these methods.

    Examples:
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class ShiftedNegatives(Negatives):
        ...     def hard(self, cosines, weight):
        ...         return cosines + 0.1
        ...
        ...     def hard_derivatives(self, cosines, weight):
        ...         return keras.ops.ones_like(cosines)
        ...
        ...     def get_config(self):
        ...         return {}
        >>> head = ArcFace(num_classes=3, scale=10.0, negatives=ShiftedNegatives(), centers_initializer="identity")
        >>> print(np.round(head(np.array([[0.8, 0.6, 0.0]]), np.array([0])), 2))  # 6 becomes 7
        [[4.14 7.   0.  ]]
    """

    initial_weight = 0.0
    updates_weight = False

    def __call__(self, cosines, targets, weight):
        """Maps the cosines to other classes to those of the softmax.

        Args:
            cosines: float tensor with values in [-1, 1].
            targets: penalized target cosines, in a shape that broadcasts to `cosines`.
            weight: weight of the hard negatives, a scalar.

        Returns:
            A tensor of the shape of `cosines`, with values above -2.
        """
        return ops.where(cosines > targets, self.hard(cosines, weight), cosines)

    def derivatives(self, cosines, targets, weight):
        """Returns the derivatives of a call with respect to the cosines, with constant targets.

        Args:
            cosines: float tensor with values in [-1, 1].
            targets: penalized target cosines, in a shape that broadcasts to `cosines`.
            weight: weight of the hard negatives, a scalar.

        Returns:
            A tensor of the shape of `cosines`.
        """
        return ops.where(cosines > targets, self.hard_derivatives(cosines, weight), 1.0)

    def hard(self, cosines, weight):
        """Maps the cosines of hard negatives.

        Args:
            cosines: float tensor with values in [-1, 1].
            weight: weight of the hard negatives, a scalar.

        Returns:
            A tensor of the same shape, with values above -2.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement hard(cosines, weight).")

    def hard_derivatives(self, cosines, weight):
        """Returns the derivatives of `hard` with respect to the cosines.

        Args:
            cosines: float tensor with values in [-1, 1].
            weight: weight of the hard negatives, a scalar.

        Returns:
            A tensor of the shape of `cosines`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement hard_derivatives(cosines, weight).")

    def next_weight(self, weight, target_cosines):
        """Returns the weight for a training step. By default, it does not change.

        Args:
            weight: weight of the previous step.
            target_cosines: `(batch,)` target cosines of all replicas, without the margin.

        Returns:
            The weight, a scalar.
        """
        return weight

    def get_config(self):
        """Returns the constructor arguments as a dictionary, for saving."""
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    @classmethod
    def from_config(cls, config):
        """Creates an object from the result of `get_config`.

        Args:
            config: constructor arguments by name.

        Returns:
            An object of this class.
        """
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Negatives)


def get(identifier):
    """Converts a `Negatives`, its serialized config or None to a `Negatives` or None."""
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
    """Hard negatives of CurricularFace, with the cosines `cosine * (t + cosine)`.

    `t` is the running mean of the target cosines, starting at 0. Therefore the weight of hard negatives is low at first
    and increases as embeddings approach their centers. The mean excludes cosines that are not finite. `CurricularFace`
    combines these negatives with the margin of ArcFace.

    Args:
        momentum: weight of the previous mean in each training step, in [0, 1).

    Raises:
        ValueError: if `momentum` is out of its range.

    Examples:
        >>> head = CosFace(num_classes=1000, negatives=CurricularNegatives())

        A hard negative with cosine 0.6, for `t` of 0 and of 0.5:

        >>> negatives, cosines = CurricularNegatives(), np.array([0.6])
        >>> print(negatives.hard(cosines, 0.0), negatives.hard(cosines, 0.5))
        [0.36] [0.66]

    References:
        - [CurricularFace](https://arxiv.org/abs/2004.00288), equations 5, 6 and 9
    """

    updates_weight = True

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
    """Hard negatives of MV-softmax, with the cosines `t * cosine + t - 1` or `cosine + t - 1`.

    `MVSoftmax` combines them with the margin of ArcFace or CosFace.

    Args:
        weight: weight `t`, at least 1. With 1, the cosines stay the same. The paper uses 1.2.
        fixed: if true, all cosines increase by `t - 1`; if false, larger cosines increase more.

    Raises:
        ValueError: if `weight` is below 1.

    Examples:
        >>> cosines = np.array([0.0, 0.6])
        >>> print(np.round(MisclassifiedNegatives(weight=1.2).hard(cosines, 1.2), 2))
        [0.2  0.92]
        >>> print(np.round(MisclassifiedNegatives(weight=1.2, fixed=True).hard(cosines, 1.2), 2))
        [0.2 0.8]

    References:
        - [Mis-classified Vector Guided Softmax Loss](https://arxiv.org/abs/1912.00833), equations 8 and 9
    """

    def __init__(self, weight=1.2, fixed=False):
        check_number("weight", weight, lambda weight: weight >= 1, "at least 1")
        self.weight, self.fixed = float(weight), bool(fixed)

    @property
    def initial_weight(self):
        """Weight of the hard negatives, the argument `weight`."""
        return self.weight

    def hard(self, cosines, weight):
        return cosines + weight - 1.0 if self.fixed else weight * cosines + weight - 1.0

    def hard_derivatives(self, cosines, weight):
        return ops.ones_like(cosines) * (1.0 if self.fixed else weight)

    def get_config(self):
        return {"weight": self.weight, "fixed": self.fixed}
