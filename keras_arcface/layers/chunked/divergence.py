"""Probabilities and losses of the alpha-divergence, which are exactly zero for most classes.

With a prior `q`, the probabilities of logits `z` are `p_j = q_j * max(1 + (alpha - 1) * (z_j - tau), 0)**width`, where
`width = 1 / (alpha - 1)` and the threshold `tau` makes their sum 1. The prior is 1, and `(1 + margin / width)**-width`
for the target class, so that its probability is 1 as soon as its logit exceeds all others by `margin + width`. As
`alpha` approaches 1, the probabilities approach a softmax whose target logit is reduced by the margin.
"""

from keras import ops

from keras_arcface.layers.chunked.reductions import Reduction
from keras_arcface.layers.chunked.reductions import SumReduction
from keras_arcface.layers.chunked.reductions import negative_mask

# Newton's method stops when the sum of the probabilities differs from 1 by less than this. The next step leaves about a
# quarter of the square of the difference if the probability of a class is at least quadratic where it begins, up to
# alpha 1.5. For a larger alpha, the difference must become as small as rounding errors.
_SMALLEST_ERROR, _SMALLEST_ERROR_ABOVE_1_5, _MAX_STEPS = 1e-3, 5e-6, 100

# Largest power that is computed by multiplications. Rounding errors grow with the power.
_LARGEST_POWER = 16


class AlphaDivergence:
    """Probabilities and losses of the alpha-divergence.

    Args:
        alpha: parameter of the divergence, in (1, 2].

    Attributes:
        width: a class whose logit is lower than the highest logit by more than `width` has no probability.
    """

    def __init__(self, alpha):
        self.alpha, self.width = alpha, 1 / (alpha - 1)
        power = round(self.width)
        self._power = power if abs(power - self.width) < 1e-9 and power <= _LARGEST_POWER else None

    def moments(self, excess, is_target, margin):
        """Returns `(p, p / w, p * w)` for classes with logits `excess` above the threshold.

        `p` is the probability and `w = 1 + excess / width`. `-p / w` is the derivative of `p` by the threshold.

        Args:
            excess: differences of logits and the threshold.
            is_target: mask of the target classes.
            margin: margin of target classes, in logits.
        """
        margin = ops.convert_to_tensor(margin, "float32")
        if self._power:
            w = ops.maximum(1 + excess / self.width, 0.0)
            lower = _power(w, self._power - 1) if self._power > 1 else ops.cast(w > 0, "float32")
            p_by_w = lower * ops.where(is_target, _power(1 + margin / self.width, self._power) ** -1, 1.0)
            return p_by_w * w, p_by_w, p_by_w * ops.square(w)
        has_probability = excess > -self.width
        log_w = ops.log1p(ops.where(has_probability, excess / self.width, 0.0))
        p = ops.exp(self.width * (log_w - ops.where(is_target, ops.log1p(margin / self.width), 0.0)))
        w = ops.where(has_probability, 1 + excess / self.width, 1.0)
        return tuple(ops.where(has_probability, values, 0.0) for values in (p, p / w, p * w))

    def solve(self, sums_at, start, sums):
        """Finds the threshold at which the probabilities sum to 1, by Newton's method.

        The method is applied to `sum(p)**(1 / width)`, which is convex and almost linear. It approaches the solution
        from below. Where rounding errors make the sum smaller than 1 at the start, the first step goes back.

        Args:
            sums_at: function of the thresholds that returns the sums of `moments` over all classes, and other tensors.
            start: `(batch,)` thresholds at which the probabilities sum to 1 or more.
            sums: `sums_at(start)`.

        Returns:
            `(threshold, weighted, *others)`: the `(batch,)` thresholds, the sums of `p * w`, and the other tensors.
        """
        smallest_error = _SMALLEST_ERROR if self.alpha <= 1.5 else _SMALLEST_ERROR_ABOVE_1_5

        def step(threshold, mass, slope, weighted, *others):
            change = self.step(mass, slope)
            # The derivative of the sum of `p * w` by the threshold is `-alpha` times the sum of `p`.
            return ops.abs(mass - 1), threshold + change, weighted - self.alpha * mass * change, *others

        _, *results = ops.while_loop(
            lambda error, *_: ops.any(error > smallest_error),
            lambda error, threshold, *_: step(threshold, *sums_at(threshold)),
            step(start, *sums),
            maximum_iterations=_MAX_STEPS,
        )
        return tuple(results)

    def step(self, mass, slope):
        """Returns how much Newton's method raises a threshold, at which `mass` and `slope` are sums of `moments`."""
        return -self.width * mass * ops.expm1(-ops.log(mass) / self.width) / slope

    def losses(self, threshold, target, margin, weighted):
        """Returns the `(batch,)` losses.

        Args:
            threshold: `(batch,)` threshold `tau`, relative to any logit.
            target: `(batch,)` target logit, relative to the same logit.
            margin: margin in logits.
            weighted: `(batch,)` sums of `p * w` over all classes.
        """
        return ops.maximum(threshold - target + (weighted + margin - 1) / self.alpha, 0.0)


class DivergenceSum(SumReduction):
    """One of the sums of `AlphaDivergence.moments` over all classes, without gradient.

    The inputs are the scalars `scale` and `margin` (a cosine), and the `(batch,)` tensors `reference`, a cosine, and
    `threshold`, the threshold in logits above the logit of `reference`.

    Args:
        divergence: an `AlphaDivergence`.
        index: index of the moment.
        ignored_above: cosine above which other classes have no probability.
    """

    has_gradient = False

    def __init__(self, divergence, index, ignored_above):
        self.divergence, self.index, self.ignored_above = divergence, index, ignored_above

    def values(self, chunk):
        return moments_of_chunk(self.divergence, chunk, self.ignored_above)[self.index]


class DivergenceLoss(Reduction):
    """Gradient of the loss of an `AlphaDivergence`, with the inputs of `DivergenceSum`.

    The loss itself needs the threshold, which depends on all classes.

    Args:
        divergence: an `AlphaDivergence`.
        ignored_above: cosine above which other classes have no probability.
    """

    def __init__(self, divergence, ignored_above):
        self.divergence, self.ignored_above = divergence, ignored_above

    def gradient(self, chunk, result, upstream):
        probabilities, _, _ = moments_of_chunk(self.divergence, chunk, self.ignored_above)
        return upstream * chunk.inputs["scale"] * (probabilities - ops.cast(chunk.is_target, "float32"))


def moments_of_chunk(divergence, chunk, ignored_above):
    """Returns `AlphaDivergence.moments` of the classes in a `Chunk`, with the inputs of `DivergenceSum`."""
    inputs = chunk.inputs
    excess = inputs["scale"] * (chunk.cosines - inputs["reference"]) - inputs["threshold"]
    moments = divergence.moments(excess, chunk.is_target, inputs["scale"] * inputs["margin"])
    if ignored_above >= 1:
        return moments
    counts = ops.logical_or(chunk.is_target, negative_mask(chunk, ignored_above))
    return tuple(ops.where(counts, values, 0.0) for values in moments)


def _power(base, exponent):
    """Returns a power with an integer exponent of at least 1, by multiplications."""
    if exponent == 1:
        return base
    square = ops.square(_power(base, exponent // 2))
    return square * base if exponent % 2 else square
