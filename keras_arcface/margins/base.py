"""What a margin is, and the cosine of an angle with a margin."""

import math
import numbers
from collections.abc import Callable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
from keras import ops

# Published factors on the angle go up to 4.
_LARGEST_FACTOR = 10.0

# Large numbers are embedding lengths, which the heads of other libraries take as an argument.
_NOT_A_MARGIN = "the length of the embeddings is not an argument: a head takes it from the embeddings"

# Below this, sin^2(theta) counts as zero: no two float32 cosines other than +-1 itself are that close to the end.
_SMALLEST_SIN_SQUARED = 1e-14


class Batch(NamedTuple):
    """What a margin may ask for beside the cosine.

    Attributes:
        labels: `(batch,)` int32.
        norms: `(batch,)` float32, L2 norms of the embeddings before they are normalized, with their gradient.
        normals: `(batch,)` float32 from N(0, 1), others in each training step; None outside of training, and for a
            margin that is not `random`.
        of_all: `(batch,)` of this replica -> `(all,)` of the whole batch, the same on every replica.
        own: the reverse of it.
        state: the margin's statistics, by name.
    """

    labels: keras.KerasTensor
    norms: keras.KerasTensor
    normals: keras.KerasTensor | None
    of_all: Callable
    own: Callable
    state: Mapping


class Margin:
    """Base class of margins: `psi(cosine) -> penalized cosine`.

    To make your own, implement `__call__` with `keras.ops` and `get_config`, and decorate the class with
    `keras.saving.register_keras_serializable`, so that models that hold it can be loaded.

    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class Halfway(Margin):
    ...     def __call__(self, cosines):
    ...         return cosines - 0.5 * (cosines + 1)
    ...     def get_config(self):
    ...         return {}

    A margin that depends on more than the cosine implements `for_batch` instead.

    Attributes:
        random: whether it wants `normals` in training.
        start: statistics that the head keeps for the margin, as weights that are saved: `{name: first value}`.
    """

    random = False
    start: Mapping = MappingProxyType({})

    def __call__(self, cosines):
        """Maps target cosines to penalized ones.

        Args:
            cosines: float tensor of any shape with values in [-1, 1].

        Returns:
            A tensor of the same shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__(cosines).")

    def for_batch(self, batch):
        """The margin of a batch; one that depends on the cosine alone is the same for every batch.

        Args:
            batch: a `Batch`.

        Returns:
            A function of the `(batch,)` target cosines, such as a margin.
        """
        return self

    def next_state(self, batch):
        """The statistics after another training step: `{name: scalar}`, from a `Batch` that has those before it."""
        return {}

    def regularizer(self, batch):
        """What is added to the `(batch,)` losses of a `Batch`, or None."""
        return None

    def get_config(self):
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    # Keras saves any object with `get_config`, but loads it only where there is a `from_config`.
    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Margin)


def repr_of_config(instance, base):
    """A call of the class with the config as arguments; with none if `get_config` is that of the base class."""
    config = {} if type(instance).get_config is base.get_config else instance.get_config()
    return f"{type(instance).__name__}({', '.join(f'{name}={value!r}' for name, value in config.items())})"


def angles_of(cosines):
    """The angles of cosines, in radians, with slopes that are finite at the ends."""
    cosines = ops.clip(cosines, -1.0, 1.0)
    # arctan2(sin, cos) is accurate at both ends, where arccos loses half of the digits; the lower bound keeps the
    # slope of the root finite at cos = +-1.
    sines = ops.sqrt(ops.maximum((1.0 - cosines) * (1.0 + cosines), _SMALLEST_SIN_SQUARED))
    return ops.arctan2(sines, cosines)


def slopes_of_angles(cosines):
    """The derivative of `angles_of` by the cosines."""
    squared = (1.0 - cosines) * (1.0 + cosines)
    has_slope = squared > _SMALLEST_SIN_SQUARED
    return ops.where(has_slope, -ops.rsqrt(ops.where(has_slope, squared, 1.0)), 0.0)


def penalized(cosines, m1, m2):
    """`cos(m1 * theta + m2)`, falling on the whole of [0, pi]."""
    angles = m1 * angles_of(cosines) + m2
    angles = ops.where(angles < 0.0, 0.0, angles)  # of negative margins
    # The half turns are a constant of the step: no gradient is defined, or wanted, through a floor.
    half_turns = ops.stop_gradient(ops.floor(angles / math.pi))
    signs = 1.0 - 2.0 * (half_turns - 2.0 * ops.floor(half_turns / 2.0))
    return signs * ops.cos(angles) - 2.0 * half_turns


def check(name, value, is_right, expected):
    """Raises a ValueError for an argument that is not right."""
    if not is_right:
        raise ValueError(f"{name} must be {expected}. Received: {name}={value!r}")


def check_angle(name, value, largest=math.pi / 2):
    """Returns an angular margin as a float; raises a ValueError if it cannot be meant as one.

    Args:
        name: of the argument.
        value: the margin, in radians.
        largest: a right angle, beyond which an embedding at its own center has a negative logit.
    """
    value = _non_negative(name, value, "an angle in radians")
    if value > largest:
        meant = f"{value:g} degrees are {math.radians(value):.4f} radians" if value <= 90 else _NOT_A_MARGIN
        raise ValueError(
            f"{name} must be an angle in radians of at most {largest:.4f}. Received: {name}={value:g} ({meant})"
        )
    return value


def check_cosine(name, value):
    """Returns an additive cosine margin as a float; raises a ValueError if it cannot be meant as one."""
    value = _non_negative(name, value, "a cosine")
    if value > 1:
        meant = f"{value:g} percent are {value / 100:g}" if value <= 100 else _NOT_A_MARGIN
        raise ValueError(f"{name} must be a cosine of at most 1. Received: {name}={value:g} ({meant})")
    return value


def check_factor(name, value, least=1.0):
    """Returns a factor on the angle as a float; raises a ValueError if it cannot be meant as one."""
    value = _non_negative(name, value, "a factor on the angle")
    if not least <= value <= _LARGEST_FACTOR:
        meant = f" ({_NOT_A_MARGIN})" if value > 90 else ""
        raise ValueError(
            f"{name} must be a factor on the angle, at least {least:g} and at most {_LARGEST_FACTOR:g}. "
            f"Received: {name}={value:g}{meant}"
        )
    return value


def _non_negative(name, value, kind):
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number. Received: {name}={value!r}")
    if value < 0:
        raise ValueError(f"{name} must be {kind}, at least 0. Received: {name}={value!r}")
    return float(value)
