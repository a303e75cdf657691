"""Margins: maps of the target cosine, applied before the softmax.

A margin knows nothing of classes, batches or layers. It receives the cosine between an embedding and the centre of
its own class and returns the smaller cosine that the network is asked to beat.
"""

import math
import numbers

import keras
from keras import ops

# Below this, sin^2(theta) counts as zero: no two float32 cosines other than +-1 itself are that close to the end.
_SMALLEST_SIN_SQUARED = 1e-14


class Margin:
    """Base class of margins: `psi(cosine) -> penalised cosine`.

    To make your own, implement `__call__` with `keras.ops` and `get_config`, and decorate the class with
    `keras.saving.register_keras_serializable`, so that models that hold it can be loaded.

    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class Halfway(Margin):
    ...     def __call__(self, cosines):
    ...         return cosines - 0.5 * (cosines + 1)
    ...     def get_config(self):
    ...         return {}
    """

    def __call__(self, cosines):
        """Maps target cosines to penalised ones.

        Args:
            cosines: float tensor of any shape with values in [-1, 1].

        Returns:
            A tensor of the same shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__(cosines).")

    def for_batch(self, labels):
        """The margin of a batch; one that does not depend on the classes is the same for every batch.

        Args:
            labels: `(batch,)` int32.

        Returns:
            A function of the `(batch,)` target cosines, such as a margin.
        """
        return self

    def get_config(self):
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    # Keras saves any object with `get_config`, but loads it only where there is a `from_config`.
    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_arcface")
class CombinedMargin(Margin):
    """The one formula behind SphereFace, ArcFace and CosFace: `cos(m1 * theta + m2) - m3`.

    | margin     | m1   | m2  | m3   |
    |------------|------|-----|------|
    | SphereFace | 1.35 | 0   | 0    |
    | ArcFace    | 1    | 0.5 | 0    |
    | CosFace    | 1    | 0   | 0.35 |

    Past `m1 * theta + m2 = pi` the plain cosine would rise again and reward embeddings for moving away from their
    centre. Here psi keeps falling: with `k = floor((m1 * theta + m2) / pi)` it is
    `(-1)**k * cos(m1 * theta + m2) - 2 * k - m3`, SphereFace's own continuation used for every margin. It is
    continuous, has a continuous slope and falls on the whole of [0, pi]. (InsightFace instead switches to
    `cos(theta) - m2 * sin(m2)` there, which falls too but jumps at the switch; with its `easy_margin` it applies no
    margin there.)

    Gradients are those of the formula, and finite at the ends, where the formula's own slope is not.

    Args:
        m1: factor on the angle, above 0. Below 1 only together with an `m2` of at least `(1 - m1) * pi`, as otherwise
            large angles would be rewarded.
        m2: angle added, in radians, at least 0.
        m3: amount subtracted from the cosine, at least 0.

    Raises:
        ValueError: for values outside these ranges.

    >>> arcface = CombinedMargin(m2=0.5)
    >>> float(arcface(keras.ops.convert_to_tensor(0.0)))  # cos(pi / 2 + 0.5)
    -0.479...

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), equation 4
        - [CosFace](https://arxiv.org/abs/1801.09414)
        - [SphereFace](https://arxiv.org/abs/1704.08063)
    """

    def __init__(self, m1=1.0, m2=0.0, m3=0.0):
        for name, value in (("m1", m1), ("m2", m2), ("m3", m3)):
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number. Received: {name}={value!r}")
        if m1 <= 0:
            raise ValueError(f"m1 must be above 0. Received: m1={m1}")
        if m2 < 0 or m3 < 0:
            raise ValueError(f"m2 (radians) and m3 must be at least 0. Received: m2={m2}, m3={m3}")
        if m1 * math.pi + m2 < math.pi:
            raise ValueError(
                "m1 * theta + m2 must not be below theta anywhere up to theta = pi: with m1 < 1, m2 must be at least "
                f"(1 - m1) * pi = {(1 - m1) * math.pi:.4f}. Received: m1={m1}, m2={m2}"
            )
        self.m1 = float(m1)
        self.m2 = float(m2)
        self.m3 = float(m3)

    def __call__(self, cosines):
        if self.m1 == 1.0 and self.m2 == 0.0:
            return ops.clip(cosines, -1.0, 1.0) - self.m3
        return _penalised(cosines, self.m1, self.m2) - self.m3

    def get_config(self):
        return {"m1": self.m1, "m2": self.m2, "m3": self.m3}

    def __repr__(self):
        return f"CombinedMargin(m1={self.m1}, m2={self.m2}, m3={self.m3})"


@keras.saving.register_keras_serializable(package="keras_arcface")
class ClassSizeMargin(Margin):
    """ArcFace with a margin of its own for each class: the fewer images a class has, the larger.

    Of a class with n images it is `smallest + (largest - smallest) * f(n)`, where `f(n) = n**-power`, scaled so that it
    is 1 for the smallest class and 0 for the largest. With the default values, the recipe of the landmark competitions'
    third places, for data where some classes have a few images and others thousands.

    Args:
        class_sizes: the number of images of each class, all at least 1; `num_classes` of them.
        smallest: margin of the largest class, in radians, at least 0.
        largest: margin of the smallest class, in radians.
        power: how fast the margin falls with the size, above 0.

    Raises:
        ValueError: for values outside these ranges.

    >>> margin = ClassSizeMargin([1, 16, 10_000])
    >>> [round(m, 3) for m in margin.margins]
    [0.5, 0.25, 0.05]

    References:
        - [Google Landmark Recognition 2020 Competition Third Place Solution](https://arxiv.org/abs/2010.05350)
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf)
    """

    def __init__(self, class_sizes, smallest=0.05, largest=0.5, power=0.25):
        class_sizes = [int(size) for size in class_sizes]
        if len(class_sizes) < 2 or min(class_sizes) < 1:
            few = min(range(len(class_sizes)), key=class_sizes.__getitem__, default=None)
            received = f"{len(class_sizes)} classes" + ("" if few is None else f", class {few} with {class_sizes[few]}")
            raise ValueError(f"class_sizes must be at least 2 numbers of images of at least 1. Received: {received}")
        if not 0 <= smallest <= largest <= math.pi:
            raise ValueError(
                "The margins must be radians with 0 <= smallest <= largest <= pi. "
                f"Received: smallest={smallest}, largest={largest}"
            )
        if not power > 0:
            raise ValueError(f"power must be above 0. Received: power={power}")
        self.class_sizes, self.smallest, self.largest, self.power = class_sizes, smallest, largest, power

    @property
    def margins(self):
        """The margin of each class, in radians."""
        most, least = min(self.class_sizes) ** -self.power, max(self.class_sizes) ** -self.power
        factor = (self.largest - self.smallest) / ((most - least) or 1.0)
        return [self.smallest + factor * (size**-self.power - least) for size in self.class_sizes]

    def for_batch(self, labels):
        margins = ops.take(ops.convert_to_tensor(self.margins, "float32"), labels)
        return lambda cosines: _penalised(cosines, 1.0, margins)

    def __call__(self, cosines):
        raise TypeError("ClassSizeMargin depends on the classes: margin.for_batch(labels)(cosines)")

    def get_config(self):
        names = ("class_sizes", "smallest", "largest", "power")
        return {name: getattr(self, name) for name in names}

    def __repr__(self):
        sizes = f"[{len(self.class_sizes)} classes of {min(self.class_sizes)} to {max(self.class_sizes)}]"
        return f"ClassSizeMargin({sizes}, smallest={self.smallest}, largest={self.largest}, power={self.power})"


def _penalised(cosines, m1, m2):
    """`cos(m1 * theta + m2)`, falling on the whole of [0, pi]."""
    cosines = ops.clip(cosines, -1.0, 1.0)
    # arctan2(sin, cos) is accurate at both ends, where arccos loses half of the digits; the lower bound keeps the
    # slope of the root finite at cos = +-1.
    sines = ops.sqrt(ops.maximum((1.0 - cosines) * (1.0 + cosines), _SMALLEST_SIN_SQUARED))
    angles = m1 * ops.arctan2(sines, cosines) + m2
    # The half turns are a constant of the step: no gradient is defined, or wanted, through a floor.
    half_turns = ops.stop_gradient(ops.floor(angles / math.pi))
    signs = 1.0 - 2.0 * (half_turns - 2.0 * ops.floor(half_turns / 2.0))
    return signs * ops.cos(angles) - 2.0 * half_turns
