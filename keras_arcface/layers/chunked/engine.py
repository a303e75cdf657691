"""Iterates over chunks of class centers, forward and backward, and applies reductions to their cosines.

Forward, for each chunk `W` of the centers: `cosines = unit(rows) @ unit(W).T`, and every reduction updates its state.
Backward, for each chunk: the cosines again, or as cached; `G`, the sum of the reductions' gradients; then
`rows' gradient += G @ W` and `W's gradient = tangential(G.T @ rows)`.
"""

import functools
import math

from keras import ops

from keras_arcface.layers import vectors
from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked.reductions import Chunk

# The index of the chunk that is smaller than the others, or the only one.
_LAST = "last"

# XLA on a CPU adds the terms of a sum one after another: longer sums would lose digits.
_LARGEST_SUM = 4096


class ChunkedReductions:
    """Reduces the cosines between a batch and all class centers, without holding them all.

    The compiled functions belong to the object and are freed with it.

    Args:
        reductions: `Reduction` objects by name.
        normalize: if true, the centers are L2-normalized; the rows are taken as they are.
    """

    def __init__(self, reductions, normalize=True):
        self.reductions, self.normalize = dict(reductions), normalize
        self._compiled = {}

    def __call__(self, rows, centers, labels, chunking, **inputs):
        """Returns the result of each reduction, with gradients for rows and centers.

        Args:
            rows: `(batch, dim)` float32.
            centers: `(classes, dim)` float32, or `(classes, sub_centers, dim)`: the cosine to a class is the one to its
                nearest sub-center.
            labels: `(batch,)` int32 in [0, classes).
            chunking: a `Chunking`.
            **inputs: scalars and `(batch,)` tensors for the reductions; no gradient flows to them.

        Returns:
            `(batch,)` float32 results by name.
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

    def __reduce__(self):
        # A copy compiles its own functions.
        return type(self), (self.reductions, self.normalize)

    def _functions(self, chunking):
        if chunking not in self._compiled:
            jit = backends.current().jit
            self._compiled[chunking] = tuple(
                jit(functools.partial(function, chunking), chunking.matmul_dtype)
                for function in (self._forward, self._backward)
            )
        return self._compiled[chunking]

    def _forward(self, chunking, rows, centers, labels, inputs):
        """Returns `(batch, reductions)` results, and what the backward pass needs of the centers."""
        backend, chunks = backends.current(), _Chunks(centers.shape, chunking)
        inverse_norms = self._inverse_norms(backend, centers)
        update = backend.fuse(functools.partial(self._update, chunks))
        zeros = ops.zeros((ops.shape(labels)[0], chunking.shards))
        states = tuple(reduction.init(zeros, inputs) for reduction in self.reductions.values())
        cache, last = _new_cache(backend, chunks, chunking, rows), []

        def add(index, start, size, cache, states):
            block, inverse = chunks.slice(centers, start, size), chunks.slice(inverse_norms, start, size)[:, 0]
            products = backend.matmul(rows, block, chunking.matmul_dtype, transpose_second=True)
            if chunking.cached and index is _LAST:
                last.append(products)
            elif chunking.cached:
                cache = backend.cache_put(cache, index, products)
            return cache, update(products, inverse, chunks.class_ids(start, size), labels, inputs, states)

        cache, states = chunks.loop(backend, add, (cache, states))
        pairs = zip(self.reductions.values(), states, strict=True)
        results = [reduction.finish(reduction.merge(state, inputs), inputs) for reduction, state in pairs]
        return ops.stack(results, axis=1), (inverse_norms, cache, *last)

    def _backward(self, chunking, rows, centers, labels, inputs, results, residuals, upstream):
        """Returns the gradients of rows and centers."""
        backend, chunks = backends.current(), _Chunks(centers.shape, chunking)
        inverse_norms, cache, *last = residuals
        gradient, tangential = backend.fuse(functools.partial(self._gradient, chunks)), backend.fuse(_remove_radial_part)

        def add(index, start, size, by_rows, by_centers):
            block, inverse = chunks.slice(centers, start, size), chunks.slice(inverse_norms, start, size)[:, 0]
            if not chunking.cached:
                products = backend.matmul(rows, block, chunking.matmul_dtype, transpose_second=True)
            elif index is _LAST:
                (products,) = last
            else:
                products = backend.cache_get(cache, index, (ops.shape(rows)[0], chunks.rows_of(size)))
            slopes = gradient(products, inverse, chunks.class_ids(start, size), labels, inputs, results, upstream)
            by_block = backend.matmul(slopes, rows, chunking.matmul_dtype, transpose_first=True)
            if self.normalize:
                by_block = tangential(by_block, block, inverse)
            by_block = ops.reshape(by_block, (chunking.shards, -1, chunks.dim))
            by_centers = backend.write_rows(by_centers, start * chunks.sub_centers, by_block)
            return by_rows + _matmul_by_shard(backend, slopes, block, chunking), by_centers

        by_rows = ops.zeros((chunking.shards, *ops.shape(rows)))
        by_centers = backend.empty((chunking.shards, chunks.classes * chunks.sub_centers, chunks.dim), rows)
        by_rows, by_centers = chunks.loop(backend, add, (by_rows, by_centers))
        return ops.sum(by_rows, axis=0), ops.reshape(by_centers, centers.shape)

    def _inverse_norms(self, backend, centers):
        """`(rows, 1)` the factor that normalizes each row of the centers."""
        rows = ops.reshape(centers, (-1, centers.shape[-1]))
        return backend.fuse(vectors.inverse_norms)(rows) if self.normalize else ops.ones_like(rows[:, :1])

    def _update(self, chunks, products, inverse, class_ids, labels, inputs, states):
        """Updates the states of all reductions with the products of a chunk."""
        shards, subs = chunks.shards, chunks.sub_centers
        products, inverse, class_ids = (
            ops.reshape(array, (-1, shards, array.shape[-1] // shards)) for array in (products, inverse, class_ids)
        )
        labels, inputs = ops.reshape(labels, (-1, 1, 1)), _broadcast(inputs, 2)

        def update_part(start, size, *states):
            part = functools.partial(_slice_last, start=start, size=size)
            rows = functools.partial(_slice_last, start=start * subs, size=size * subs)
            cosines, _ = _nearest(rows(products) * rows(inverse), subs)
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
        """The gradient of all results with respect to the products of a chunk."""
        cosines, share = _nearest(products * inverse, chunks.sub_centers)
        chunk = Chunk(cosines, ops.equal(ops.expand_dims(labels, 1), class_ids), _broadcast(inputs, 1))
        slopes = sum(
            reduction.gradient(chunk, results[:, column : column + 1], upstream[:, column : column + 1])
            for column, reduction in enumerate(self.reductions.values())
            if reduction.has_gradient
        )
        if share is not None:
            slopes = ops.reshape(ops.expand_dims(slopes, 2) * share, (-1, inverse.shape[0]))
        return slopes * inverse


class _Chunks:
    """Cuts class centers into chunks; each shard of the classes gives an equal part of a chunk."""

    def __init__(self, centers_shape, chunking):
        self.shards = chunking.shards
        self.classes = centers_shape[0] // chunking.shards  # of a shard
        self.sub_centers, self.dim = math.prod(centers_shape[1:-1]), centers_shape[-1]
        self.size = min(chunking.size, self.classes)
        self.count, self.last_size = divmod(self.classes, self.size)
        if (self.count, self.last_size) == (1, 0):
            self.count, self.last_size = 0, self.size

    def loop(self, backend, body, carry):
        """`carry = body(index, start, size, *carry)` for every chunk."""
        if self.last_size:  # first, as XLA copies what is written after a loop
            carry = body(_LAST, self.count * self.size, self.last_size, *carry)
        if self.count:
            carry = backend.repeat(
                self.count, lambda index, *carry: body(index, index * self.size, self.size, *carry), carry
            )
        return carry

    def rows_of(self, size):
        """The number of rows of a chunk with `size` classes per shard."""
        return self.shards * size * self.sub_centers

    def slice(self, array, start, size):
        """The rows of a chunk, of an array with one row per center."""
        # Every shard slices its own part: a slice across shards would gather them.
        by_shard = ops.reshape(array, (self.shards, self.classes * self.sub_centers, -1))
        shape = self.shards, size * self.sub_centers, by_shard.shape[2]
        return ops.reshape(ops.slice(by_shard, (0, start * self.sub_centers, 0), shape), (-1, shape[2]))

    def class_ids(self, start, size):
        """`(shards * size,)` int32, the classes of a chunk."""
        within = start + ops.tile(ops.arange(size, dtype="int32"), self.shards)
        return within + self.classes * ops.repeat(ops.arange(self.shards, dtype="int32"), size)


def target_cosines(unit_rows, centers, labels, shards=1):
    """Returns the cosines to the examples' own centers, `(batch,)`; arguments as of `ChunkedReductions`."""
    classes, subs, dim = centers.shape[0] // shards, math.prod(centers.shape[1:-1]), centers.shape[-1]
    if shards == 1:
        own = ops.reshape(ops.take(centers, labels, axis=0), (1, -1, subs, dim))
        is_here = ops.ones_like(labels, dtype="bool")[None]
    else:  # each shard indexes its own part: an index across shards would gather them
        within = labels - classes * ops.expand_dims(ops.arange(shards, dtype="int32"), 1)
        is_here = ops.logical_and(within >= 0, within < classes)
        by_shard = ops.reshape(centers, (shards, classes, subs * dim))
        rows = ops.clip(within, 0, classes - 1)
        own = ops.vectorized_map(lambda pair: ops.take(pair[0], pair[1], axis=0), (by_shard, rows))
        own = ops.reshape(own, (shards, -1, subs, dim))
    cosines = ops.max(ops.sum(vectors.unit(own) * ops.expand_dims(unit_rows, 1), axis=-1), axis=-1)
    return ops.sum(ops.where(is_here, cosines, 0.0), axis=0)


def _slice_last(array, start, size):
    """Slices the last of three axes."""
    shape = ops.shape(array)
    return ops.slice(array, (0, 0, start), (shape[0], shape[1], size))


def _new_cache(backend, chunks, chunking, rows):
    if not (chunking.cached and chunks.count):
        return ()
    return backend.new_cache((chunks.count, ops.shape(rows)[0], chunks.rows_of(chunks.size)))


def _nearest(cosines, sub_centers):
    """Cosines to the nearest sub-center of each class, and `(batch, classes, sub_centers)` shares of their slope."""
    if sub_centers == 1:
        return cosines, None
    by_class = ops.reshape(cosines, (-1, *cosines.shape[1:-1], cosines.shape[-1] // sub_centers, sub_centers))
    highest = ops.max(by_class, axis=-1, keepdims=True)
    is_nearest = ops.cast(ops.equal(by_class, highest), "float32")
    return ops.squeeze(highest, axis=-1), is_nearest / ops.sum(is_nearest, axis=-1, keepdims=True)


def _broadcast(inputs, axes):
    """Appends axes to inputs with one value per example."""
    return {n: ops.reshape(v, (-1, *[1] * axes)) if len(v.shape) else v for n, v in inputs.items()}


def _remove_radial_part(by_block, block, inverse):
    """The gradient without the part along each center: a longer center changes no cosine."""
    inverse = ops.expand_dims(inverse, 1)
    return by_block - ops.square(inverse) * ops.sum(by_block * block, axis=1, keepdims=True) * block


def _matmul_by_shard(backend, slopes, block, chunking):
    """`(shards, batch, dim)`: the sum over shards comes once, after all chunks."""
    if chunking.shards == 1:
        return ops.expand_dims(backend.matmul(slopes, block, chunking.matmul_dtype), 0)
    slopes = ops.reshape(slopes, (-1, chunking.shards, slopes.shape[1] // chunking.shards))
    block = ops.reshape(block, (chunking.shards, -1, block.shape[1]))
    return backend.matmul(ops.transpose(slopes, (1, 0, 2)), block, chunking.matmul_dtype)
