"""Reductions of cosines over chunks of class centers, forward and backward.

The forward pass computes `cosines = rows @ unit(W).T` for each chunk `W` of the centers and updates the state of every
reduction. The backward pass reads the cosines from the cache or computes them again. With the sum `G` of the gradients
of the reductions, it adds `G @ unit(W)` to the gradient of the rows, and the gradient of `W` is `G.T @ rows` without
its component along each center, divided by the norm of the center.
"""

import functools
import math

from keras import ops

from keras_arcface.layers import vectors
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked.reductions import Chunk

# Index of the chunk outside of the loop: a smaller last chunk, or the only chunk.
_LAST = "last"

# XLA on a CPU adds the terms of a sum sequentially, so longer sums would lose precision.
_LARGEST_SUM = 4096


class ChunkedReductions:
    """Computes reductions of the cosines between a batch and all class centers, chunk by chunk.

    The object owns its compiled functions, which are freed with it.

    Args:
        reductions: dictionary of `Reduction` objects by name.
        normalize: if true, the centers are L2-normalized. The rows are never normalized.
    """

    has_dynamic_shapes = False

    def __init__(self, reductions, normalize=True):
        self.reductions, self.normalize = dict(reductions), normalize
        self._compiled = {}

    def __call__(self, rows, centers, labels, chunking, **inputs):
        """Returns the result of each reduction, with gradients for rows and centers.

        Args:
            rows: `(batch, dim)` float32.
            centers: `(classes, dim)` or `(classes, sub_centers, dim)` float32. The cosine to a class is that to its
                nearest sub-center.
            labels: `(batch,)` int32 in [0, classes).
            chunking: a `Chunking`.
            **inputs: scalars and `(batch,)` tensors for the reductions, without gradient.

        Returns:
            Dictionary of the `(batch,)` float32 results by name.
        """
        forward, backward = self._functions(chunking)
        inputs = {n: ops.stop_gradient(ops.convert_to_tensor(value, dtype="float32")) for n, value in inputs.items()}

        @ops.custom_gradient
        def reduce(rows, centers):
            results, residuals = forward(rows, centers, labels, inputs)

            def gradients(*arguments, upstream=None):
                if upstream is None:
                    (upstream,) = arguments
                return backward(rows, centers, labels, inputs, results, residuals, upstream)

            return results, gradients

        results = reduce(rows, centers)
        columns = {name: results[:, column] for column, name in enumerate(self.reductions)}
        return {n: c if self.reductions[n].has_gradient else ops.stop_gradient(c) for n, c in columns.items()}

    def of_cosines(self, cosines, is_target, inputs, factor=1.0):
        """Returns the result of each reduction for given cosines.

        Args:
            cosines: `(batch, classes)` float32 cosines.
            is_target: `(1, classes)` bool mask of the target classes.
            inputs: inputs of the reductions.
            factor: number of other classes that each of the given other classes represents.

        Returns:
            Dictionary of the `(batch,)` float32 results by name.
        """
        inputs = {name: ops.convert_to_tensor(value, "float32") for name, value in inputs.items()}
        chunk = Chunk(ops.expand_dims(cosines, 1), ops.expand_dims(is_target, 1), _broadcast(inputs, 2))
        results = {}
        for name, reduction in self.reductions.items():
            state = reduction.update(reduction.init(ops.zeros_like(cosines[:, :1]), inputs), chunk)
            result = reduction.finish(reduction.merge(state, inputs), inputs)
            results[name] = reduction.extrapolate(result, factor)
        return results

    def __reduce__(self):
        # Compiled functions cannot be copied, so a copy compiles them again.
        return type(self), (self.reductions, self.normalize)

    def _functions(self, chunking):
        if chunking not in self._compiled:
            jit = backends.current().jit
            self._compiled[chunking] = tuple(
                jit(functools.partial(function, chunking), chunking.matmul_dtype, self.has_dynamic_shapes)
                for function in (self._forward, self._backward)
            )
        return self._compiled[chunking]

    def _forward(self, chunking, rows, centers, labels, inputs, residuals=None):
        """Returns the `(batch, reductions)` results, and the intermediate values for the backward pass.

        With the `residuals` of another forward pass, the cached cosines are used again.
        """
        backend, chunks = backends.current(), Chunks(centers.shape, chunking)
        inverse_norms, *cached = residuals or (self._inverse_norms(backend, centers),)
        update = backend.fuse(functools.partial(self._update, chunks))
        zeros = ops.zeros((ops.shape(labels)[0], chunking.shards))
        states = tuple(reduction.init(zeros, inputs) for reduction in self.reductions.values())
        is_new = chunking.cached and not cached
        cache, last = _new_cache(backend, chunks, chunking, rows) if is_new else (), []

        def add(index, start, size, cache, states):
            inverse = chunks.slice(inverse_norms, start, size)[:, 0]
            products = _products(backend, chunks, chunking, rows, centers, cached, index, start, size)
            if is_new and index is _LAST:
                last.append(products)
            elif is_new:
                cache = backend.cache_put(cache, index, products)
            return cache, update(products, inverse, chunks.class_ids(start, size), labels, inputs, states)

        cache, states = chunks.loop(backend, add, (cache, states))
        pairs = zip(self.reductions.values(), states, strict=True)
        results = [reduction.finish(reduction.merge(state, inputs), inputs) for reduction, state in pairs]
        return ops.stack(results, axis=1), residuals or (inverse_norms, cache, *last)

    def _backward(self, chunking, rows, centers, labels, inputs, results, residuals, upstream):
        """Returns the gradients with respect to the rows and the centers."""
        backend, chunks = backends.current(), Chunks(centers.shape, chunking)
        inverse_norms, *cached = residuals
        gradient = backend.fuse(functools.partial(self._gradient, chunks))
        remove_radial_part = backend.fuse(_remove_radial_part)

        def add(index, start, size, by_rows, by_centers):
            block, inverse = chunks.slice(centers, start, size), chunks.slice(inverse_norms, start, size)[:, 0]
            products = _products(backend, chunks, chunking, rows, centers, cached, index, start, size)
            slopes = gradient(products, inverse, chunks.class_ids(start, size), labels, inputs, results, upstream)
            by_block = backend.matmul(slopes, rows, chunking.matmul_dtype, transpose_first=True)
            if self.normalize:
                by_block = remove_radial_part(by_block, block, inverse)
            by_block = ops.reshape(by_block, (chunking.shards, -1, chunks.dim))
            by_centers = backend.write_rows(by_centers, start * chunks.sub_centers, by_block)
            return by_rows + _matmul_by_shard(backend, slopes, block, chunking), by_centers

        by_rows = ops.zeros((chunking.shards, *ops.shape(rows)))
        by_centers = backend.empty((chunking.shards, chunks.classes * chunks.sub_centers, chunks.dim), rows)
        by_rows, by_centers = chunks.loop(backend, add, (by_rows, by_centers))
        return ops.sum(by_rows, axis=0), ops.reshape(by_centers, centers.shape)

    def _inverse_norms(self, backend, centers):
        """Returns the `(rows, 1)` factors that normalize the rows of the centers, NaN for an infinite norm."""
        rows = ops.reshape(centers, (-1, centers.shape[-1]))
        if not self.normalize:
            return ops.ones_like(rows[:, :1])

        def inverse_norms(rows):
            squared = ops.expand_dims(backend.row_sums(ops.square(rows)), 1)
            return ops.where(ops.isinf(squared), float("nan"), vectors.inverse_roots(squared))

        return backend.fuse(inverse_norms)(rows)

    def _update(self, chunks, products, inverse, class_ids, labels, inputs, states):
        """Returns the states of all reductions, updated with the inner products of a chunk."""
        shards, subs = chunks.shards, chunks.sub_centers
        products, inverse, class_ids = (
            ops.reshape(array, (-1, shards, array.shape[-1] // shards)) for array in (products, inverse, class_ids)
        )
        labels, inputs = ops.reshape(labels, (-1, 1, 1)), _broadcast(inputs, 2)

        def update_part(start, size, *states):
            part = functools.partial(_slice_last, start=start, size=size)
            rows = functools.partial(_slice_last, start=start * subs, size=size * subs)
            cosines, _ = nearest(rows(products) * rows(inverse), subs)
            chunk = Chunk(cosines, ops.equal(labels, part(class_ids)), inputs)
            pairs = zip(self.reductions.values(), states, strict=True)
            return tuple(reduction.update(state, chunk) for reduction, state in pairs)

        # A loop, as XLA would hold the intermediate results of all parts at once.
        count, rest = divmod(class_ids.shape[2], _LARGEST_SUM)
        if rest:
            states = update_part(count * _LARGEST_SUM, rest, *states)
        if count:
            states = backends.current().repeat(
                count, lambda index, *states: update_part(index * _LARGEST_SUM, _LARGEST_SUM, *states), states
            )
        return states

    def _gradient(self, chunks, products, inverse, class_ids, labels, inputs, results, upstream):
        """Returns the gradient of all results with respect to the inner products of a chunk."""
        cosines, share = nearest(products * inverse, chunks.sub_centers)
        chunk = Chunk(cosines, ops.equal(ops.expand_dims(labels, 1), class_ids), _broadcast(inputs, 1))
        slopes = sum(
            reduction.gradient(chunk, results[:, column : column + 1], upstream[:, column : column + 1])
            for column, reduction in enumerate(self.reductions.values())
            if reduction.has_gradient
        )
        if share is not None:
            slopes = ops.reshape(ops.expand_dims(slopes, 2) * share, (-1, inverse.shape[0]))
        return slopes * inverse


class Chunks:
    """Division of class centers into chunks with the same number of classes from each shard."""

    def __init__(self, centers_shape, chunking):
        self.shards = chunking.shards
        self.classes = centers_shape[0] // chunking.shards  # per shard
        self.sub_centers, self.dim = math.prod(centers_shape[1:-1]), centers_shape[-1]
        self.size = min(chunking.size, self.classes)
        self.count, self.last_size = divmod(self.classes, self.size)
        if (self.count, self.last_size) == (1, 0):
            self.count, self.last_size = 0, self.size

    def loop(self, backend, body, carry):
        """Computes `carry = body(index, start, size, *carry)` for every chunk."""
        if self.last_size:  # before the loop, because XLA copies arrays written after it
            carry = body(_LAST, self.count * self.size, self.last_size, *carry)
        if self.count:
            carry = backend.repeat(
                self.count, lambda index, *carry: body(index, index * self.size, self.size, *carry), carry
            )
        return carry

    def num_rows(self, size):
        """Returns the number of rows of a chunk with `size` classes per shard."""
        return self.shards * size * self.sub_centers

    def slice(self, array, start, size):
        """Returns the rows of a chunk from an array with one row per center."""
        if self.shards == 1:  # TensorFlow does not copy a slice of the first axis
            array = ops.reshape(array, (self.classes * self.sub_centers, -1))
            return ops.slice(array, (start * self.sub_centers, 0), (size * self.sub_centers, array.shape[1]))
        # Each shard is sliced separately, because a slice across shards would gather them.
        by_shard = ops.reshape(array, (self.shards, self.classes * self.sub_centers, -1))
        shape = self.shards, size * self.sub_centers, by_shard.shape[2]
        return ops.reshape(ops.slice(by_shard, (0, start * self.sub_centers, 0), shape), (-1, shape[2]))

    def class_ids(self, start, size):
        """Returns the `(shards * size,)` int32 class ids of a chunk."""
        within = start + ops.tile(ops.arange(size, dtype="int32"), self.shards)
        return within + self.classes * ops.repeat(ops.arange(self.shards, dtype="int32"), size)


def target_cosines(unit_rows, centers, labels, shards=1):
    """Returns the `(batch,)` cosines between examples and their target centers.

    Args:
        unit_rows: `(batch, dim)` float32, L2-normalized.
        centers: `(classes, dim)` or `(classes, sub_centers, dim)` float32.
        labels: `(batch,)` int32 in [0, classes).
        shards: number of equal shards of the centers on devices.
    """
    classes, subs, dim = centers.shape[0] // shards, math.prod(centers.shape[1:-1]), centers.shape[-1]
    if shards == 1:
        own = ops.reshape(ops.take(centers, labels, axis=0), (1, -1, subs, dim))
        in_shard = ops.ones_like(labels, dtype="bool")[None]
    else:  # each shard is indexed separately, because indexing across shards would gather them
        within = labels - classes * ops.expand_dims(ops.arange(shards, dtype="int32"), 1)
        in_shard = ops.logical_and(within >= 0, within < classes)
        by_shard = ops.reshape(centers, (shards, classes, subs * dim))
        rows = ops.clip(within, 0, classes - 1)
        own = ops.vectorized_map(lambda pair: ops.take(pair[0], pair[1], axis=0), (by_shard, rows))
        own = ops.reshape(own, (shards, -1, subs, dim))
    cosines = ops.max(ops.sum(vectors.unit(own) * ops.expand_dims(unit_rows, 1), axis=-1), axis=-1)
    return ops.sum(ops.where(in_shard, cosines, 0.0), axis=0)


def _slice_last(array, start, size):
    """Slices the last of three axes."""
    shape = ops.shape(array)
    return ops.slice(array, (0, 0, start), (shape[0], shape[1], size))


def _products(backend, chunks, chunking, rows, centers, cached, index, start, size):
    """Returns the products of the rows with the centers of a chunk, from the cache `cached` if they are there."""
    if not (chunking.cached and cached):
        block = chunks.slice(centers, start, size)
        return backend.matmul(rows, block, chunking.matmul_dtype, transpose_second=True)
    cache, *last = cached
    return last[0] if index is _LAST else backend.cache_get(cache, index, (ops.shape(rows)[0], chunks.num_rows(size)))


def _new_cache(backend, chunks, chunking, rows):
    if not (chunking.cached and chunks.count):
        return ()
    return backend.new_cache((chunks.count, ops.shape(rows)[0], chunks.num_rows(chunks.size)))


def nearest(cosines, sub_centers):
    """Returns the cosines to the nearest sub-center of each class, and the gradients with respect to all sub-centers.

    The gradients, `(batch, classes, sub_centers)`, are None with one center per class.
    """
    if sub_centers == 1:
        return cosines, None
    by_class = ops.reshape(cosines, (-1, *cosines.shape[1:-1], cosines.shape[-1] // sub_centers, sub_centers))
    highest = ops.amax(by_class, axis=-1, keepdims=True)  # `ops.max` refuses empty arrays on PyTorch
    is_nearest = ops.cast(ops.equal(by_class, highest), "float32")
    return ops.squeeze(highest, axis=-1), is_nearest / ops.sum(is_nearest, axis=-1, keepdims=True)


def _broadcast(inputs, axes):
    """Appends axes to the inputs with one value per example."""
    return {n: ops.reshape(v, (-1, *[1] * axes)) if len(v.shape) else v for n, v in inputs.items()}


def _remove_radial_part(by_block, block, inverse):
    """Returns the gradient without its component along each center, because the norm of a center changes no cosine."""
    inverse = ops.expand_dims(inverse, 1)
    return by_block - ops.square(inverse) * ops.sum(by_block * block, axis=1, keepdims=True) * block


def _matmul_by_shard(backend, slopes, block, chunking):
    """Returns one `(batch, dim)` product per shard. Their sum over shards is computed once, after all chunks."""
    if chunking.shards == 1:
        return ops.expand_dims(backend.matmul(slopes, block, chunking.matmul_dtype), 0)
    slopes = ops.reshape(slopes, (-1, chunking.shards, slopes.shape[1] // chunking.shards))
    block = ops.reshape(block, (chunking.shards, -1, block.shape[1]))
    return backend.matmul(ops.transpose(slopes, (1, 0, 2)), block, chunking.matmul_dtype)
