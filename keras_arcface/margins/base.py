"""The base class of margins, how a margin is resolved, and the cosine of an angle with a margin."""

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

# Large numbers are usually embedding lengths, which the heads of other libraries take as an argument.
_NOT_A_MARGIN = "the length of the embeddings is not an argument: a head takes it from the embeddings"

# Below this, sin^2(theta) counts as zero: no two float32 cosines other than +-1 itself are that close to the end.
_SMALLEST_SIN_SQUARED = 1e-14


class Batch(NamedTuple):
    """What a margin can use besides the cosine.

    Attributes:
        labels: `(batch,)` int32.
        norms: `(batch,)` float32, L2 norms of the embeddings before normalization, with gradient.
        normals: `(batch,)` float32 from N(0, 1), different in each training step; None outside of training and for
            margins that are not `random`.
        gather: function `(batch,)` of this replica -> `(all,)` of all replicas, the same on every replica.
        local: function `(all,)` of all replicas -> `(batch,)` of this replica.
        state: the margin's statistics, by name.
    """

    labels: keras.KerasTensor
    norms: keras.KerasTensor
    normals: keras.KerasTensor | None
    gather: Callable
    local: Callable
    state: Mapping


class Margin:
    """Base class of margins: `psi(cosine) -> penalized cosine`.

    `psi` must fall with the angle on the whole of [0, pi]; otherwise it rewards embeddings far from their center.

    To make your own, implement `__call__` with `keras.ops` and `get_config`, and decorate the class with
    `keras.saving.register_keras_serializable`, so that models with it can be loaded. `angles_of` and
    `cosine_of_shifted_angle` of this module have finite derivatives at both ends, where `keras.ops.arccos` has none.

    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class Halfway(Margin):
    ...     def __call__(self, cosines):
    ...         return cosines - 0.5 * (cosines + 1)
    ...     def get_config(self):
    ...         return {}

    A margin that depends on more than the cosine implements `for_batch` instead.

    Attributes:
        random: if true, the margin gets `Batch.normals` in training.
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
        """Returns the margin of a batch, a function of the `(batch,)` target cosines.

        A margin that depends on the cosine alone is the same for every batch.

        Args:
            batch: a `Batch`.
        """
        return self

    def next_state(self, batch):
        """Returns the statistics after another training step: `{name: scalar}`.

        Args:
            batch: a `Batch` with the statistics before the step.
        """
        return {}

    def regularizer(self, batch):
        """Returns what is added to the `(batch,)` losses of a `Batch`, or None."""
        return None

    def get_config(self):
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    # Keras saves any object with `get_config`, but loads it only where there is a `from_config`.
    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Margin)


class NoMargin(Margin):
    """The identity: norm-softmax. Heads take and save it as None."""

    def __call__(self, cosines):
        return cosines

    def get_config(self):
        return {}

    def __repr__(self):
        return "None"


class FunctionMargin(Margin):
    """A plain function of the cosines as a margin. Heads take and save it as the function.

    Args:
        function: maps target cosines to penalized ones.
    """

    def __init__(self, function):
        self.function = function

    def __call__(self, cosines):
        return self.function(cosines)

    def get_config(self):
        return {"function": keras.saving.serialize_keras_object(self.function)}

    def __repr__(self):
        return repr(self.function)


def get(identifier):
    """Resolves a margin.

    Args:
        identifier: a `Margin`, a function of the cosines, a config from `serialize`, or None for no margin.

    Returns:
        A `Margin`.

    Raises:
        ValueError: for anything else.

    >>> get({"class_name": "keras_arcface>CombinedMargin", "config": {"m2": 0.5}})
    CombinedMargin(m1=1.0, m2=0.5, m3=0.0)
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is None:
        return NoMargin()
    if isinstance(identifier, Margin):
        return identifier
    if not callable(identifier) or isinstance(identifier, type):
        raise ValueError(
            "margin must be None or a callable such as keras_arcface.margins.CombinedMargin(m2=0.5). "
            f"Received: margin={identifier!r}"
        )
    return FunctionMargin(identifier)


def serialize(margin):
    """Returns the config of a `Margin`, from which `get` makes it again."""
    if isinstance(margin, NoMargin):
        return None
    return keras.saving.serialize_keras_object(margin.function if isinstance(margin, FunctionMargin) else margin)


def repr_of_config(instance, base):
    """Returns a call of the class with the config as arguments, or without if `get_config` is the base class's."""
    config = {} if type(instance).get_config is base.get_config else instance.get_config()
    return f"{type(instance).__name__}({', '.join(f'{name}={value!r}' for name, value in config.items())})"


def angles_of(cosines):
    """Returns the angles of cosines, in radians, with derivatives that are finite at the ends."""
    cosines = ops.clip(cosines, -1.0, 1.0)
    # arctan2(sin, cos) is accurate at both ends, where arccos loses half of the digits. The lower bound keeps the
    # derivative of the root finite at cos = +-1.
    sines = ops.sqrt(ops.maximum((1.0 - cosines) * (1.0 + cosines), _SMALLEST_SIN_SQUARED))
    return ops.arctan2(sines, cosines)


def angle_derivatives(cosines):
    """Returns the derivatives of `angles_of` with respect to the cosines."""
    squared = (1.0 - cosines) * (1.0 + cosines)
    is_finite = squared > _SMALLEST_SIN_SQUARED
    return ops.where(is_finite, -ops.rsqrt(ops.where(is_finite, squared, 1.0)), 0.0)


def cosine_of_shifted_angle(cosines, m1, m2):
    """Returns `cos(m1 * theta + m2)`, continued so that it falls on the whole of [0, pi]."""
    angles = m1 * angles_of(cosines) + m2
    angles = ops.where(angles < 0.0, 0.0, angles)  # with negative margins
    # The number of half turns is a constant: a floor has no gradient.
    half_turns = ops.stop_gradient(ops.floor(angles / math.pi))
    signs = 1.0 - 2.0 * (half_turns - 2.0 * ops.floor(half_turns / 2.0))
    return signs * ops.cos(angles) - 2.0 * half_turns


def check_angle(name, value, largest=math.pi / 2):
    """Returns an angular margin as a float, or raises a ValueError that tells the likely mistake.

    Args:
        name: name of the argument.
        value: the margin, in radians.
        largest: the largest margin. Beyond a right angle an embedding at its own center has a negative logit.
    """
    value = _non_negative(name, value, "an angle in radians")
    if value > largest:
        meant = f"{value:g} degrees are {math.radians(value):.4f} radians" if value <= 90 else _NOT_A_MARGIN
        raise ValueError(
            f"{name} must be an angle in radians of at most {largest:.4f}. Received: {name}={value:g} ({meant})"
        )
    return value


def check_cosine(name, value):
    """Returns an additive cosine margin as a float, or raises a ValueError that tells the likely mistake."""
    value = _non_negative(name, value, "a cosine")
    if value > 1:
        meant = f"{value:g} percent are {value / 100:g}" if value <= 100 else _NOT_A_MARGIN
        raise ValueError(f"{name} must be a cosine of at most 1. Received: {name}={value:g} ({meant})")
    return value


def check_factor(name, value, least=1.0):
    """Returns a factor on the angle as a float, or raises a ValueError that tells the likely mistake."""
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
