"""Base class of margins, the conversion of arguments to margins, and functions of angles."""

import math
import numbers
from collections.abc import Callable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
from keras import ops

# Published factors on the angle are at most 4.
_LARGEST_FACTOR = 10.0

# A large number is usually an embedding dimension, which is an argument of the heads of other libraries.
_DIMENSION_HINT = "the dimension of the embeddings is not an argument: a head reads it from the embeddings"

# A smaller sin^2(theta) is treated as zero. Among float32 cosines, only +-1 have one.
_SMALLEST_SIN_SQUARED = 1e-14


class Batch(NamedTuple):
    """Inputs of a margin in addition to the cosine.

    A head passes it to `Margin.for_batch`, `Margin.next_state` and `Margin.regularizer`.

    Attributes:
        labels: `(batch,)` int32, in `[0, num_classes)`.
        norms: `(batch,)` float32, L2 norms of the embeddings before normalization, with gradient.
        normal_samples: `(batch,)` float32 samples of N(0, 1), different in each training step; None outside of training
            and for margins that are not `is_random`.
        gather: function that concatenates the `(batch,)` values of all replicas; the result is the same on every
            replica.
        local_part: function that returns the `(batch,)` values of the current replica from the result of `gather`.
        state: statistics of the margin, by name.

    Examples:
        A batch on one device, to try a margin outside of a head:

        >>> labels, norms = np.array([0, 2]), np.array([10.0, 110.0], "float32")
        >>> batch = Batch(labels, norms, None, gather=lambda v: v, local_part=lambda v: v, state={})
        >>> cosines = np.array([0.8, 0.8], "float32")
        >>> print(np.round(MagnitudeMargin().for_batch(batch)(cosines), 2))
        [0.46 0.13]
    """

    labels: keras.KerasTensor
    norms: keras.KerasTensor
    normal_samples: keras.KerasTensor | None
    gather: Callable
    local_part: Callable
    state: Mapping


class Margin:
    """Base class of margins: `psi(cosine) -> penalized cosine`.

    `psi` must decrease with the angle on all of [0, pi]; otherwise it rewards embeddings far from their center.

    A custom margin implements `__call__` with `keras.ops`, and `get_config`. Decorate the class with
    `keras.saving.register_keras_serializable`, so that models with it can be loaded. A margin that depends on more than
    the cosine implements `for_batch` instead of `__call__`. `angles_of` and `cosine_of_shifted_angle` of
    `keras_arcface.margins.base` have finite derivatives at cosines of +-1, unlike `keras.ops.arccos`.

    Attributes:
        is_random: if true, the margin receives `Batch.normal_samples` in training.
        initial_state: initial values of the statistics of the margin, by name. The head stores the statistics as
            weights.

    Raises:
        NotImplementedError: for a call, if a subclass does not implement `__call__`, and when it is saved, if it does
            not implement `get_config`.

    Examples:
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class Halfway(Margin):
        ...     def __call__(self, cosines):
        ...         return cosines - 0.5 * (cosines + 1)
        ...
        ...     def get_config(self):
        ...         return {}
        >>> head = keras_arcface.MarginProduct(3, margin=Halfway(), scale=10.0, centers_initializer="identity")
        >>> print(np.round(head(np.array([[0.8, 0.6, 0.0]]), np.array([0])), 2))  # 0.8 - 0.5 * 1.8
        [[-1.  6.  0.]]
    """

    is_random = False
    initial_state: Mapping = MappingProxyType({})

    def __call__(self, cosines):
        """Maps target cosines to penalized cosines.

        Args:
            cosines: float tensor of any shape with values in [-1, 1].

        Returns:
            A tensor of the same shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__(cosines).")

    def for_batch(self, batch):
        """Returns the margin for a batch, a function of the `(batch,)` target cosines.

        By default, this is the margin itself.

        Args:
            batch: a `Batch`.

        Returns:
            A function that maps `(batch,)` target cosines to penalized cosines.
        """
        return self

    def next_state(self, batch):
        """Returns the statistics after a training step, scalars by name.

        Args:
            batch: a `Batch`, with the statistics before the step.

        Returns:
            A dictionary with the keys of `initial_state`.
        """
        return {}

    def regularizer(self, batch):
        """Returns a penalty to add to the losses, or None.

        Args:
            batch: a `Batch`.

        Returns:
            A `(batch,)` float32 tensor, or None for no penalty.
        """
        return None

    def get_config(self):
        """Returns the constructor arguments as a dictionary, for saving."""
        raise NotImplementedError(f"{type(self).__name__} does not implement get_config().")

    # Keras saves every object with `get_config`, but loads only objects with `from_config`.
    @classmethod
    def from_config(cls, config):
        """Creates a margin from the result of `get_config`.

        Args:
            config: constructor arguments by name.

        Returns:
            A margin of this class.
        """
        return cls(**config)

    def __repr__(self):
        return repr_of_config(self, Margin)


class NoMargin(Margin):
    """Identity margin, of norm-softmax. Heads accept and save it as None.

    Examples:
        >>> NoMargin()(0.8)
        0.8
        >>> type(keras_arcface.MarginProduct(10, margin=None).margin).__name__
        'NoMargin'
    """

    def __call__(self, cosines):
        return cosines

    def get_config(self):
        return {}

    def __repr__(self):
        return "None"


class FunctionMargin(Margin):
    """Margin that calls a plain function of the cosines. Heads accept and save it as the function.

    Args:
        function: function that maps target cosines to penalized cosines.
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
    """Converts an identifier to a `Margin`.

    Args:
        identifier: a `Margin`, a function of the cosines, a config from `serialize`, or None for no margin.

    Returns:
        A `Margin`.

    Raises:
        ValueError: if the identifier is of another type, such as a number.

    Examples:
        >>> get({"class_name": "keras_arcface>CombinedMargin", "config": {"m2": 0.5}})
        CombinedMargin(m1=1.0, m2=0.5, m3=0.0)
        >>> get(None)(0.8)
        0.8
        >>> get(0.5)
        Traceback (most recent call last):
        ValueError: margin must be None or a callable, such as keras_arcface.margins.CombinedMargin(m2=0.5). ...
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if identifier is None:
        return NoMargin()
    if isinstance(identifier, Margin):
        return identifier
    if not callable(identifier) or isinstance(identifier, type):
        raise ValueError(
            "margin must be None or a callable, such as keras_arcface.margins.CombinedMargin(m2=0.5). "
            f"Received: margin={identifier!r}"
        )
    return FunctionMargin(identifier)


def serialize(margin):
    """Returns the config of a `Margin`, which `get` converts back to the margin.

    Args:
        margin: a `Margin`.

    Returns:
        A dictionary that JSON can represent, or None for no margin.

    Raises:
        NotImplementedError: if the class of the margin does not implement `get_config`.

    Examples:
        >>> serialize(CombinedMargin(m2=0.5))["config"]
        {'m1': 1.0, 'm2': 0.5, 'm3': 0.0}
        >>> get(serialize(CombinedMargin(m2=0.5)))
        CombinedMargin(m1=1.0, m2=0.5, m3=0.0)
    """
    if isinstance(margin, NoMargin):
        return None
    return keras.saving.serialize_keras_object(margin.function if isinstance(margin, FunctionMargin) else margin)


def repr_of_config(instance, base):
    """Returns a repr in the form of a constructor call, with the config as arguments if `get_config` is overridden."""
    config = {} if type(instance).get_config is base.get_config else instance.get_config()
    return f"{type(instance).__name__}({', '.join(f'{name}={value!r}' for name, value in config.items())})"


def angles_of(cosines):
    """Returns the angles of cosines, in radians. Their derivatives are finite at cosines of +-1."""
    cosines = ops.clip(cosines, -1.0, 1.0)
    # arctan2(sin, cos) is accurate near cos = +-1, where arccos loses half of the digits. The lower bound keeps the
    # derivative of the square root finite.
    sines = ops.sqrt(ops.maximum((1.0 - cosines) * (1.0 + cosines), _SMALLEST_SIN_SQUARED))
    return ops.arctan2(sines, cosines)


def angle_derivatives(cosines):
    """Returns the derivatives of `angles_of` with respect to the cosines."""
    squared = (1.0 - cosines) * (1.0 + cosines)
    is_finite = squared > _SMALLEST_SIN_SQUARED
    return ops.where(is_finite, -ops.rsqrt(ops.where(is_finite, squared, 1.0)), 0.0)


def cosine_of_shifted_angle(cosines, m1, m2):
    """Returns `cos(m1 * theta + m2)`, with a continuation that decreases on all of [0, pi]."""
    angles = m1 * angles_of(cosines) + m2
    angles = ops.where(angles < 0.0, 0.0, angles)  # a negative m2 can make an angle negative
    # `floor` has no gradient, so the number of half turns is a constant.
    half_turns = ops.stop_gradient(ops.floor(angles / math.pi))
    signs = 1.0 - 2.0 * (half_turns - 2.0 * ops.floor(half_turns / 2.0))
    return signs * ops.cos(angles) - 2.0 * half_turns


def check_angle(name, value, maximum=math.pi / 2):
    """Returns an angular margin as a float, or raises a ValueError that names the likely mistake.

    Args:
        name: name of the argument.
        value: the margin, in radians.
        maximum: maximum of the margin. With more than pi / 2, an embedding at its target center has a negative logit.
    """
    value = _check_non_negative(name, value, "an angle in radians")
    if value > maximum:
        hint = f"{value:g} degrees are {math.radians(value):.4f} radians" if value <= 90 else _DIMENSION_HINT
        raise ValueError(
            f"{name} must be an angle in radians of at most {maximum:.4f}. Received: {name}={value:g} ({hint})"
        )
    return value


def check_cosine(name, value):
    """Returns an additive cosine margin as a float, or raises a ValueError that names the likely mistake."""
    value = _check_non_negative(name, value, "a cosine")
    if value > 1:
        hint = f"{value:g} percent are {value / 100:g}" if value <= 100 else _DIMENSION_HINT
        raise ValueError(f"{name} must be a cosine of at most 1. Received: {name}={value:g} ({hint})")
    return value


def check_factor(name, value, minimum=1.0):
    """Returns a factor on the angle as a float, or raises a ValueError that names the likely mistake."""
    value = _check_non_negative(name, value, "a factor on the angle")
    if not minimum <= value <= _LARGEST_FACTOR:
        hint = f" ({_DIMENSION_HINT})" if value > 90 else ""
        raise ValueError(
            f"{name} must be a factor on the angle, at least {minimum:g} and at most {_LARGEST_FACTOR:g}. "
            f"Received: {name}={value:g}{hint}"
        )
    return value


def _check_non_negative(name, value, kind):
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number. Received: {name}={value!r}")
    if value < 0:
        raise ValueError(f"{name} must be {kind}, at least 0. Received: {name}={value!r}")
    return float(value)
