"""The loss of an alpha-divergence over all classes, most of which have no probability.

The forward pass multiplies embeddings and centers once, in chunks of classes, and lists the pairs of an embedding and a
class that may have a probability. All further computations, such as the gradients, use these pairs only. If there are
too many, they process all classes in chunks.
"""

import functools
import math

from keras import ops

from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked import pairs as class_pairs
from keras_arcface.layers.chunked.divergence import DivergenceLoss
from keras_arcface.layers.chunked.divergence import DivergenceSum
from keras_arcface.layers.chunked.divergence import moments_of_chunk
from keras_arcface.layers.chunked.engine import ChunkedReductions
from keras_arcface.layers.chunked.engine import Chunks
from keras_arcface.layers.chunked.engine import nearest
from keras_arcface.layers.chunked.engine import target_cosines
from keras_arcface.layers.chunked.reductions import LOWEST
from keras_arcface.layers.chunked.reductions import Chunk
from keras_arcface.layers.chunked.reductions import HighestCosine
from keras_arcface.layers.chunked.reductions import TargetCosine

# Maximum size of the cosines that are cached while the threshold is computed from all classes.
_MAX_CACHE_BYTES = 2**28

# Number of steps of Newton's method with the classes of a chunk, before pairs are listed.
_STEPS = 2

# Fraction of all pairs up to which the gradients of pairs are faster than those of all classes, measured on a CPU.
_FASTER_UP_TO = 2**-7


class SparseDivergence(ChunkedReductions):
    """Computes the loss of an alpha-divergence between a batch and all class centers.

    The results are `loss`, `target` (the cosine to the target class) and `highest` (the highest cosine to another
    class, if it may have a probability). The inputs are the scalars `scale` and `margin`, a cosine.

    Args:
        divergence: an `AlphaDivergence`.
        ignored_above: cosine above which other classes have no probability.
    """

    has_dynamic_shapes = True

    def __init__(self, divergence, ignored_above=1.0):
        cosines = {"target": TargetCosine(), "highest": HighestCosine()}
        super().__init__({"loss": DivergenceLoss(divergence, ignored_above), **cosines})
        self.divergence, self.ignored_above = divergence, ignored_above
        self._highest = ChunkedReductions({"highest": HighestCosine(ignored_above)})
        sums = {f"moment {index}": DivergenceSum(divergence, index, ignored_above) for index in range(3)}
        self._sums = ChunkedReductions({**sums, **cosines})

    def __reduce__(self):
        return type(self), (self.divergence, self.ignored_above)

    def of_cosines(self, cosines, is_target, inputs, factor=1.0):
        others = ops.where(is_target, LOWEST, cosines)
        target, highest = ops.sum(ops.where(is_target, cosines, 0.0), axis=-1), ops.max(others, axis=-1)
        counted = ops.where(others <= self.ignored_above, others, LOWEST)
        reference = ops.maximum(ops.max(counted, axis=-1), target - inputs["margin"])
        weights = ops.where(is_target, 1.0, factor)
        by_row = {**inputs, "reference": ops.expand_dims(reference, 1)}

        def sums_at(threshold):
            chunk = Chunk(cosines, is_target, {**by_row, "threshold": ops.expand_dims(threshold, 1)})
            moments = moments_of_chunk(self.divergence, chunk, self.ignored_above)
            return tuple(ops.sum(weights * values, axis=-1) for values in moments)

        start = ops.zeros_like(target)
        threshold, weighted = self.divergence.solve(sums_at, start, sums_at(start))
        results = self._results(reference, threshold, weighted, target, highest, inputs)
        return dict(zip(self.reductions, ops.unstack(results, axis=1), strict=True))

    def _forward(self, chunking, rows, centers, labels, inputs):
        """Returns the `(batch, 3)` results, and the thresholds and pairs for the backward pass."""
        inverse_norms = self._inverse_norms(backends.current(), centers)
        # A center with a NaN or an infinite norm makes all losses NaN, although its class would not be found.
        rows = ops.where(ops.isnan(ops.sum(inverse_norms)), float("nan"), rows)
        chunks, targets = Chunks(centers.shape, chunking), target_cosines(rows, centers, labels, chunking.shards)
        solve_all = functools.partial(self._solve_all, chunking, rows, centers, labels, inputs)
        limits = _Limits(self.divergence, inputs, targets)
        if chunking.shards > 1:  # the centers of pairs would be gathered from all devices
            highest, _ = self._highest._forward(chunking, rows, centers, labels, inputs)
            results, reference, threshold = solve_all(ops.maximum(limits.start, limits.of_highest(highest[:, 0])))
            return results, (reference, threshold)

        gather = class_pairs.Gather(rows, centers, inverse_norms, chunks.sub_centers)
        found = class_pairs.find_pairs(chunks, gather, labels, targets, limits, self.ignored_above)
        results, reference, threshold, *pairs = ops.cond(
            found.pairs.count < class_pairs.TOO_LONG,
            lambda: self._solve_pairs(gather, labels, inputs, found),
            lambda: (*backends.current().fuse(solve_all)(found.lowest), *found.pairs),
        )
        return results, (reference, threshold, inverse_norms, *pairs)

    def _backward(self, chunking, rows, centers, labels, inputs, results, residuals, upstream):
        """Returns the gradients with respect to the rows and the centers."""
        reference, threshold, *residuals = residuals
        inputs = {**inputs, "reference": reference, "threshold": threshold}
        backend = backends.current()
        inverse_norms = residuals[0] if residuals else self._inverse_norms(backend, centers)
        of_all_classes = functools.partial(
            super()._backward, chunking, rows, centers, labels, inputs, results, (inverse_norms, ()), upstream
        )
        if not residuals:
            return of_all_classes()
        chunks, pairs = Chunks(centers.shape, chunking), class_pairs.Pairs(*residuals[1:])
        gather = class_pairs.Gather(rows, centers, inverse_norms, chunks.sub_centers)
        most = _FASTER_UP_TO * chunks.classes * ops.cast(ops.shape(rows)[0], "float32")
        is_fast = ops.cast(pairs.count, "float32") <= ops.maximum(most, class_pairs.SHORTEST_LIMIT)
        by_rows, by_centers = ops.cond(
            ops.logical_and(pairs.count < class_pairs.TOO_LONG, is_fast),
            lambda: self._backward_of_pairs(gather, labels, inputs, pairs, upstream, centers.shape),
            backend.fuse(of_all_classes),
        )
        return by_rows, by_centers

    def _results(self, reference, threshold, weighted, target, highest, inputs):
        scale = inputs["scale"]
        losses = self.divergence.losses(threshold, scale * (target - reference), scale * inputs["margin"], weighted)
        return ops.stack([losses, target, highest], axis=1)

    def _solve_all(self, chunking, rows, centers, labels, inputs, lowest):
        """Returns the results, the reference and the threshold, from all classes, given lower limits of `_Limits`."""
        reference = lowest + self.divergence.width / inputs["scale"]
        inputs = {**inputs, "reference": reference}

        start, cache_bytes = ops.zeros_like(lowest), 4 * (rows.shape[0] or 512) * math.prod(centers.shape[:-1])
        chunking = chunking._replace(cached=cache_bytes <= _MAX_CACHE_BYTES * chunking.shards)

        def sums_at(threshold, residuals=None):
            by_row = {**inputs, "threshold": threshold}
            sums, residuals = self._sums._forward(chunking, rows, centers, labels, by_row, residuals)
            return tuple(ops.unstack(sums, axis=1)), residuals

        sums, residuals = sums_at(start)
        threshold, *sums = self.divergence.solve(lambda threshold: sums_at(threshold, residuals)[0], start, sums)
        return self._results(reference, threshold, *sums, inputs), reference, threshold

    def _solve_pairs(self, gather, labels, inputs, found):
        """Returns the results, the reference, the threshold, and the `Pairs` with a gradient."""
        reference = found.lowest + self.divergence.width / inputs["scale"]
        start, upper = ops.zeros_like(reference), found.cosines + found.errors
        sums = _SumsOverClasses(self.divergence, self.ignored_above, inputs, labels, found.pairs)
        # Cosines that are too low give a threshold that is too low, so that no pair with a probability is lost.
        start, _ = sums.solve(found.cosines - found.errors, upper, reference, start)
        may_have_probability = sums.excess(upper, reference, start) > -self.divergence.width
        pairs = found.pairs.where(ops.logical_or(sums.is_target, may_have_probability))

        cosines = pairs.map(gather.cosines)
        sums = _SumsOverClasses(self.divergence, self.ignored_above, inputs, labels, pairs)
        threshold, weighted = sums.solve(cosines, cosines, reference, start)
        target = sums.add(ops.where(sums.is_target, cosines, 0.0))
        highest = sums.max(ops.where(sums.is_other, cosines, LOWEST))
        results = self._results(reference, threshold, weighted, target, highest, inputs)
        probabilities, _, _ = sums.moments(cosines, cosines, reference, threshold)
        return results, reference, threshold, *pairs.where(ops.logical_or(sums.is_target, probabilities > 0))

    def _backward_of_pairs(self, gather, labels, inputs, pairs, upstream, shape):
        """Returns the gradients with respect to the rows and the centers, from pairs."""
        backend, sub_centers = backends.current(), gather.sub_centers
        by_centers = backend.zeros((shape[0] * sub_centers, shape[-1]), gather.rows)

        def gradients(block, is_listed, by_rows):
            gathered = gather(block)
            cosines, share = nearest(gathered.cosines, sub_centers)
            by_row = {name: ops.take(inputs[name], block.row) for name in ("reference", "threshold")}
            is_target = ops.equal(block.class_id, ops.take(labels, block.row))
            chunk = Chunk(cosines[:, 0], is_target, {**inputs, **by_row})
            slopes = sum(
                reduction.gradient(chunk, None, ops.take(upstream[:, column], block.row))
                for column, reduction in enumerate(self.reductions.values())
                if reduction.has_gradient
            )
            slopes = ops.reshape(ops.where(is_listed, slopes, 0.0), (-1, 1, 1))
            slopes = slopes if share is None else slopes * ops.reshape(share, (-1, sub_centers, 1))
            tangents = gathered.rows - ops.expand_dims(gathered.cosines, 2) * gathered.centers
            tangents = ops.reshape(slopes * gathered.inverse_norms * tangents, (-1, shape[-1]))
            by_block = ops.segment_sum(ops.sum(slopes * gathered.centers, axis=1), block.row, ops.shape(labels)[0])
            return by_rows + by_block, tangents

        fused = backend.fuse(gradients)

        def add(start, by_rows, by_centers):
            block = pairs.block(start)
            by_rows, tangents = fused(block, block.is_listed(start), by_rows)
            index = ops.expand_dims(block.class_id * sub_centers, 1) + ops.arange(sub_centers, dtype="int32")
            by_centers = backend.add_rows(by_centers, ops.reshape(index, (-1,)), tangents)
            return start + class_pairs.BLOCK, by_rows, by_centers

        carry = ops.zeros((), "int32"), ops.zeros_like(gather.rows), by_centers
        _, by_rows, by_centers = ops.while_loop(lambda start, *_: start < pairs.count, add, carry)
        return by_rows, ops.reshape(by_centers, shape)


class _Limits:
    """Lower limits of the cosines of other classes that may have a probability, as `find_pairs` uses them.

    They are lower bounds of the threshold, minus the width of the divergence.

    Attributes:
        start: `(batch,)` limit given by the target class.
    """

    def __init__(self, divergence, inputs, targets):
        self.divergence, self.scale = divergence, inputs["scale"]
        self.start = self.of_highest(targets - inputs["margin"])

    def of_highest(self, highest):
        """Returns the limits given by cosines of classes without margin."""
        return highest - self.divergence.width / self.scale

    def raised(self, lowest, cosines, counts):
        """Returns the limits raised by Newton's method, given lower bounds of the cosines to some other classes."""
        for _ in range(_STEPS):
            excess = self.scale * (cosines - ops.expand_dims(lowest, 1)) - self.divergence.width
            mass, slope, _ = self.divergence.moments(ops.where(counts, excess, -self.divergence.width), False, 0.0)
            mass, slope = (backends.current().row_sums(values) for values in (mass, slope))
            is_low = mass > 1  # the probabilities of all classes sum to more than 1
            step = self.divergence.step(*(ops.where(is_low, sums, 1.0) for sums in (mass, slope)))
            lowest = lowest + ops.where(is_low, step, 0.0) / self.scale
        return lowest


class _SumsOverClasses:
    """Sums over the classes of each row, from a list of pairs.

    Attributes:
        is_target: mask of the pairs of a target class.
        is_other: mask of the other pairs in the list.
    """

    def __init__(self, divergence, ignored_above, inputs, labels, pairs):
        self.divergence, self.ignored_above, self.inputs = divergence, ignored_above, inputs
        self.row, self.batch = pairs.row, ops.shape(labels)[0]
        is_listed, is_own = pairs.is_listed(), ops.equal(pairs.class_id, ops.take(labels, pairs.row))
        self.is_target = ops.logical_and(is_listed, is_own)
        self.is_other = ops.logical_and(is_listed, ops.logical_not(is_own))

    def add(self, values):
        return ops.segment_sum(values, self.row, self.batch)

    def max(self, values):
        return ops.segment_max(values, self.row, self.batch)

    def excess(self, cosines, reference, threshold):
        """Returns the logits above the threshold of the row."""
        return self.inputs["scale"] * (cosines - ops.take(reference, self.row)) - ops.take(threshold, self.row)

    def moments(self, cosines, upper, reference, threshold):
        """Returns `AlphaDivergence.moments` of the pairs.

        Args:
            cosines: cosines, or lower bounds of them.
            upper: upper bounds of the cosines, which decide whether a class is ignored.
            reference, threshold: the `(batch,)` reference cosine, and the threshold in logits above its logit.
        """
        excess = self.excess(cosines, reference, threshold)
        moments = self.divergence.moments(excess, self.is_target, self.inputs["scale"] * self.inputs["margin"])
        return tuple(ops.where(self._counts(upper), values, 0.0) for values in moments)

    def solve(self, cosines, upper, reference, start):
        """Returns the `(batch,)` thresholds, found from `start`, and the sums of `p * w`."""

        def sums_at(threshold):
            return tuple(self.add(values) for values in self.moments(cosines, upper, reference, threshold))

        return self.divergence.solve(sums_at, start, sums_at(start))

    def _counts(self, upper):
        if self.ignored_above >= 1:
            return ops.logical_or(self.is_target, self.is_other)
        return ops.logical_or(self.is_target, ops.logical_and(self.is_other, upper <= self.ignored_above))
