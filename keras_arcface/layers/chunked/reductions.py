"""Reductions: what a loss needs to know of the cosines between an example and all classes, one number each.

A reduction sees the cosines of some classes at a time. It knows nothing of chunks, shards of classes, caching,
precision or backends, and the engine that calls it knows nothing of losses. A new loss over all classes is a new
reduction.
"""

import math
from typing import NamedTuple

import keras
from keras import ops

from keras_arcface.margins.base import angle_derivatives
from keras_arcface.margins.base import angles_of

# Finite stand-in for -inf, below every cosine and every logit.
LOWEST = -1e30

# With a constant shift, exponentials are scaled to be at most exp(60), so that the sum of ten million of them does not
# overflow. The least, exp(60 - 2 * scale), must not underflow, which limits the scale.
_LARGEST_EXPONENT, _LARGEST_SCALE_WITH_CONSTANT_SHIFT = 60.0, 70.0


class Chunk(NamedTuple):
    """The cosines to some of the classes.

    Attributes:
        cosines: `(..., classes)` float32; logits, for heads whose logits are not bounded.
        is_target: bool, broadcasts to `cosines`: whether the class is the example's own.
        inputs: what the head gave to the engine, by name: scalars, and tensors with one value per example that
            broadcast to `cosines`.
    """

    cosines: keras.KerasTensor
    is_target: keras.KerasTensor
    inputs: dict


class Reduction:
    """Base class: reduces the cosines of each example over its classes to one number.

    The state is a tuple of tensors of the shape of `cosines` without the last axis.

    Attributes:
        has_gradient: whether the result has a gradient. If not, `gradient` is not called.
    """

    has_gradient = True

    def init(self, zeros, inputs):
        """Returns the state before any class, from zeros of its shape."""
        raise NotImplementedError

    def update(self, state, chunk):
        """Returns the state after the classes of another `Chunk`."""
        raise NotImplementedError

    def merge(self, state, inputs):
        """Returns the state with the last axis reduced: states of different classes become one."""
        raise NotImplementedError

    def finish(self, state, inputs):
        """Returns the result of a state."""
        (result,) = state
        return result

    def gradient(self, chunk, result, upstream):
        """Returns `upstream` times the derivative of the result with respect to `chunk.cosines`.

        `result` and `upstream` broadcast to `chunk.cosines`. The targets' own entry counts only if it has an influence
        on the result.
        """
        raise NotImplementedError

    def extrapolate(self, result, factor):
        """Returns the result to expect of `factor` times as many classes with cosines of the same distribution."""
        return result


class SumReduction(Reduction):
    """Base class of sums over classes: `values` says what is summed, `derivatives` its slope."""

    def values(self, chunk):
        raise NotImplementedError

    def derivatives(self, chunk):
        raise NotImplementedError

    def init(self, zeros, inputs):
        return (zeros,)

    def update(self, state, chunk):
        return (state[0] + ops.sum(self.values(chunk), axis=-1),)

    def merge(self, state, inputs):
        return (ops.sum(state[0], axis=-1),)

    def gradient(self, chunk, result, upstream):
        return upstream * self.derivatives(chunk)

    def extrapolate(self, result, factor):
        return factor * result


class TargetCosine(SumReduction):
    """The cosine to the example's own class, unclipped."""

    def values(self, chunk):
        return ops.where(chunk.is_target, chunk.cosines, 0.0)

    def gradient(self, chunk, result, upstream):
        return ops.where(chunk.is_target, upstream, 0.0)

    def extrapolate(self, result, factor):
        return result


class HighestCosine(Reduction):
    """The highest cosine to another class, without gradient."""

    has_gradient = False

    def init(self, zeros, inputs):
        return (zeros + LOWEST,)

    def update(self, state, chunk):
        cosines = ops.where(chunk.is_target, LOWEST, chunk.cosines)
        return (ops.maximum(state[0], ops.max(cosines, axis=-1)),)

    def merge(self, state, inputs):
        return (ops.max(state[0], axis=-1),)


class CosineSum(SumReduction):
    """The sum of the cosines to all other classes."""

    def values(self, chunk):
        return ops.where(chunk.is_target, 0.0, chunk.cosines)

    def gradient(self, chunk, result, upstream):
        return ops.where(chunk.is_target, 0.0, upstream)


class AngleSum(SumReduction):
    """The sum of the angles to all other classes, in radians."""

    def values(self, chunk):
        return ops.where(chunk.is_target, 0.0, angles_of(chunk.cosines))

    def derivatives(self, chunk):
        return ops.where(chunk.is_target, 0.0, angle_derivatives(chunk.cosines))


class LogSumExp(Reduction):
    """`log(sum(exp(scale * cosine)))` over all other classes: what a softmax needs of them.

    Inputs: `scale`, a scalar. With `negatives` also `penalized_targets`, `(batch,)` target cosines with their margin,
    and `hardness`, a scalar; both count as constants.

    Args:
        largest_scale: the largest scale that is used. Up to 70, cosines need no running maximum.
        ignored_above: other classes with a cosine above this do not count.
        negatives: a `Negatives`, which maps the cosines to other classes before they are summed; None for none.
    """

    def __init__(self, largest_scale=float("inf"), ignored_above=1.0, negatives=None):
        self.has_constant_shift = largest_scale <= _LARGEST_SCALE_WITH_CONSTANT_SHIFT and negatives is None
        self.ignored_above, self.negatives = ignored_above, negatives

    def init(self, zeros, inputs):
        shift = 1.0 - _LARGEST_EXPONENT / inputs["scale"] if self.has_constant_shift else LOWEST
        return zeros + shift, zeros

    def update(self, state, chunk):
        (shift, total), scale = state, chunk.inputs["scale"]
        counts, cosines = negative_mask(chunk, self.ignored_above), chunk.cosines
        if self.negatives is not None:
            cosines = self.negatives(cosines, chunk.inputs["penalized_targets"], chunk.inputs["hardness"])
        if not self.has_constant_shift:
            cosines = ops.where(counts, cosines, LOWEST)
            old, shift = shift, ops.maximum(shift, ops.max(cosines, axis=-1))
            total = total * ops.exp(scale * (old - shift))
        exponentials = ops.exp(scale * (cosines - ops.expand_dims(shift, -1)))
        return shift, total + ops.sum(ops.where(counts, exponentials, 0.0), axis=-1)

    def merge(self, state, inputs):
        shifts, totals = state
        shift = ops.max(shifts, axis=-1)
        factors = ops.exp(inputs["scale"] * (shifts - ops.expand_dims(shift, -1)))
        return shift, ops.sum(totals * factors, axis=-1)

    def finish(self, state, inputs):
        shift, total = state
        return inputs["scale"] * shift + ops.log(total)

    def gradient(self, chunk, result, upstream):
        scale, cosines, slopes = chunk.inputs["scale"], chunk.cosines, 1.0
        if self.negatives is not None:
            arguments = cosines, chunk.inputs["penalized_targets"], chunk.inputs["hardness"]
            cosines, slopes = self.negatives(*arguments), self.negatives.derivatives(*arguments)
        gradients = (upstream * scale) * ops.exp(scale * cosines - result) * slopes
        return ops.where(negative_mask(chunk, self.ignored_above), gradients, 0.0)

    def extrapolate(self, result, factor):
        return result + math.log(factor)


class SoftplusSum(SumReduction):
    """The sum of `softplus(scale * cosine - bias)` over all other classes: a one-vs-rest loss for each of them.

    Inputs: `scale` and `bias`, scalars that count as constants.

    Args:
        ignored_above: other classes with a cosine above this do not count.
    """

    def __init__(self, ignored_above=1.0):
        self.ignored_above = ignored_above

    def values(self, chunk):
        logits = chunk.inputs["scale"] * chunk.cosines - chunk.inputs["bias"]
        return ops.where(negative_mask(chunk, self.ignored_above), ops.softplus(logits), 0.0)

    def derivatives(self, chunk):
        scale = chunk.inputs["scale"]
        slopes = scale * ops.sigmoid(scale * chunk.cosines - chunk.inputs["bias"])
        return ops.where(negative_mask(chunk, self.ignored_above), slopes, 0.0)


class SigmoidSum(SoftplusSum):
    """The sum of `sigmoid(scale * cosine - bias)` over all other classes, without gradient.

    It is minus the derivative of `SoftplusSum` with respect to the bias.
    """

    has_gradient = False

    def values(self, chunk):
        logits = chunk.inputs["scale"] * chunk.cosines - chunk.inputs["bias"]
        return ops.where(negative_mask(chunk, self.ignored_above), ops.sigmoid(logits), 0.0)


def negative_mask(chunk, ignored_above):
    """Returns which entries of a chunk are of another class and not above a cosine."""
    is_other = ops.logical_not(chunk.is_target)
    return is_other if ignored_above >= 1 else ops.logical_and(is_other, chunk.cosines <= ignored_above)
