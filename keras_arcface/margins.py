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
        cosines = ops.clip(cosines, -1.0, 1.0)
        if self.m1 == 1.0 and self.m2 == 0.0:
            return cosines - self.m3
        # arctan2(sin, cos) is accurate at both ends, where arccos loses half of the digits; the lower bound keeps the
        # slope of the root finite at cos = +-1.
        sines = ops.sqrt(ops.maximum((1.0 - cosines) * (1.0 + cosines), _SMALLEST_SIN_SQUARED))
        angles = self.m1 * ops.arctan2(sines, cosines) + self.m2
        # The half turns are a constant of the step: no gradient is defined, or wanted, through a floor.
        half_turns = ops.stop_gradient(ops.floor(angles / math.pi))
        signs = 1.0 - 2.0 * (half_turns - 2.0 * ops.floor(half_turns / 2.0))
        return signs * ops.cos(angles) - 2.0 * half_turns - self.m3

    def get_config(self):
        return {"m1": self.m1, "m2": self.m2, "m3": self.m3}

    def __repr__(self):
        return f"CombinedMargin(m1={self.m1}, m2={self.m2}, m3={self.m3})"
