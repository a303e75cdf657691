"""Reductions of the cosines between an example and all classes to one number, such as the log-sum-exp.

A reduction processes the cosines to some of the classes at a time. It does not depend on the size of chunks, shards,
caching, precision or the backend, and the engine does not depend on the loss. A new loss over all classes is a new
reduction.
"""

import math
from typing import NamedTuple

import keras
from keras import ops

from keras_arcface.layers.chunked import backends
from keras_arcface.margins.base import angle_derivatives
from keras_arcface.margins.base import angles_of

# Finite replacement for -inf, below every cosine and every logit.
LOWEST = -1e30

# With a constant shift, exponentials are scaled to at most exp(60), so that the sum of ten million of them does not
# overflow. The smallest, exp(60 - 2 * scale), must not underflow, which limits the scale.
_LARGEST_EXPONENT, _LARGEST_SCALE_WITH_CONSTANT_SHIFT = 60.0, 70.0


class Chunk(NamedTuple):
    """Cosines to some of the classes.

    Attributes:
        cosines: `(..., classes)` float32. They are logits in heads that do not normalize.
        is_target: bool mask of the target classes, in a shape that broadcasts to `cosines`.
        inputs: inputs from the head by name: scalars, and tensors with one value per example, in a shape that
            broadcasts to `cosines`.
    """

    cosines: keras.KerasTensor
    is_target: keras.KerasTensor
    inputs: dict


class Reduction:
    """Base class of reductions of the cosines between an example and all classes to one number.

    The state is a tuple of tensors with the shape of `cosines` without the last axis.

    Attributes:
        has_gradient: true if the result has a gradient. If false, `gradient` is not called.
    """

    has_gradient = True

    def init(self, zeros, inputs):
        """Returns the initial state, from zeros of its shape."""
        raise NotImplementedError

    def update(self, state, chunk):
        """Returns the state updated with a `Chunk`."""
        raise NotImplementedError

    def merge(self, state, inputs):
        """Returns the state merged over its last axis, which contains states of different classes."""
        raise NotImplementedError

    def finish(self, state, inputs):
        """Returns the result of a state."""
        (result,) = state
        return result

    def gradient(self, chunk, result, upstream):
        """Returns `upstream` times the derivative of the result with respect to `chunk.cosines`.

        `result` and `upstream` broadcast to `chunk.cosines`. The derivative is 0 for classes that do not affect the
        result.
        """
        raise NotImplementedError

    def extrapolate(self, result, factor):
        """Returns the expected result for `factor` times as many classes, with the same distribution of cosines."""
        return result


class SumReduction(Reduction):
    """Base class of sums over classes of a function of the cosine."""

    def values(self, chunk):
        """Returns the terms of the sum, `(..., classes)`."""
        raise NotImplementedError

    def derivatives(self, chunk):
        """Returns the derivatives of `values` with respect to `chunk.cosines`."""
        raise NotImplementedError

    def init(self, zeros, inputs):
        return (zeros,)

    def update(self, state, chunk):
        return (state[0] + backends.current().row_sums(self.values(chunk)),)

    def merge(self, state, inputs):
        return (ops.sum(state[0], axis=-1),)

    def gradient(self, chunk, result, upstream):
        return upstream * self.derivatives(chunk)

    def extrapolate(self, result, factor):
        return factor * result


class TargetCosine(SumReduction):
    """Cosine to the target class, not clipped."""

    def values(self, chunk):
        return ops.where(chunk.is_target, chunk.cosines, 0.0)

    def gradient(self, chunk, result, upstream):
        return ops.where(chunk.is_target, upstream, 0.0)

    def extrapolate(self, result, factor):
        return result


class HighestCosine(Reduction):
    """Highest cosine to another class, without gradient.

    Args:
        ignored_above: cosine above which other classes are excluded.
    """

    has_gradient = False

    def __init__(self, ignored_above=1.0):
        self.ignored_above = ignored_above

    def init(self, zeros, inputs):
        return (zeros + LOWEST,)

    def update(self, state, chunk):
        cosines = ops.where(negative_mask(chunk, self.ignored_above), chunk.cosines, LOWEST)
        return (ops.maximum(state[0], ops.max(cosines, axis=-1)),)

    def merge(self, state, inputs):
        return (ops.max(state[0], axis=-1),)


class CosineSum(SumReduction):
    """Sum of the cosines to all other classes."""

    def values(self, chunk):
        return ops.where(chunk.is_target, 0.0, chunk.cosines)

    def gradient(self, chunk, result, upstream):
        return ops.where(chunk.is_target, 0.0, upstream)


class AngleSum(SumReduction):
    """Sum of the angles to all other classes, in radians."""

    def values(self, chunk):
        return ops.where(chunk.is_target, 0.0, angles_of(chunk.cosines))

    def derivatives(self, chunk):
        return ops.where(chunk.is_target, 0.0, angle_derivatives(chunk.cosines))


class LogSumExp(Reduction):
    """Log-sum-exp for a softmax, `log(sum(exp(scale * cosine)))` over all other classes.

    The input is the scalar `scale`. With `negatives`, further inputs are `penalized_targets`, the `(batch,)` target
    cosines with the margin, and the scalar `hardness`, both without gradient.

    Args:
        max_scale: maximum of the scale. Up to 70, a constant shift replaces the running maximum.
        ignored_above: cosine above which other classes are excluded.
        negatives: a `Negatives` that maps the cosines before the sum, or None.
    """

    def __init__(self, max_scale=float("inf"), ignored_above=1.0, negatives=None):
        self.has_constant_shift = max_scale <= _LARGEST_SCALE_WITH_CONSTANT_SHIFT and negatives is None
        self.ignored_above, self.negatives = ignored_above, negatives

    def init(self, zeros, inputs):
        shift = 1.0 - _LARGEST_EXPONENT / inputs["scale"] if self.has_constant_shift else LOWEST
        return zeros + shift, zeros

    def update(self, state, chunk):
        (shift, total), scale = state, chunk.inputs["scale"]
        mask, cosines = negative_mask(chunk, self.ignored_above), chunk.cosines
        if self.negatives is not None:
            cosines = self.negatives(cosines, chunk.inputs["penalized_targets"], chunk.inputs["hardness"])
        if not self.has_constant_shift:
            cosines = ops.where(mask, cosines, LOWEST)
            old, shift = shift, ops.maximum(shift, ops.max(cosines, axis=-1))
            total = total * ops.exp(scale * (old - shift))
        exponentials = ops.exp(scale * (cosines - ops.expand_dims(shift, -1)))
        return shift, total + ops.sum(ops.where(mask, exponentials, 0.0), axis=-1)

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
    """Sum of the one-vs-rest losses `softplus(scale * cosine - bias)` over all other classes.

    The inputs are the scalars `scale` and `bias`, without gradient.

    Args:
        ignored_above: cosine above which other classes are excluded.
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
    """Sum of `sigmoid(scale * cosine - bias)` over all other classes, without gradient.

    It is the negative derivative of `SoftplusSum` with respect to the bias.
    """

    has_gradient = False

    def values(self, chunk):
        logits = chunk.inputs["scale"] * chunk.cosines - chunk.inputs["bias"]
        return ops.where(negative_mask(chunk, self.ignored_above), ops.sigmoid(logits), 0.0)


def negative_mask(chunk, ignored_above):
    """Returns a mask of the other classes in a chunk whose cosine is at most `ignored_above`."""
    is_other = ops.logical_not(chunk.is_target)
    return is_other if ignored_above >= 1 else ops.logical_and(is_other, chunk.cosines <= ignored_above)
