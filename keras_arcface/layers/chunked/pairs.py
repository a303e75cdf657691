"""Pairs of a row and a class: the search for those with a high cosine, and their embeddings and centers."""

import math
from typing import NamedTuple

import keras
from keras import ops

from keras_arcface.layers.chunked import backends
from keras_arcface.layers.chunked.engine import nearest
from keras_arcface.layers.chunked.reductions import LOWEST

# Number of classes whose highest cosine is compared first.
_TILE = 8

# Number of pairs whose embeddings and centers are gathered at a time.
BLOCK = 2**12

# Limits of the maximum number of pairs, which is a fraction of all pairs.
SHORTEST_LIMIT, _LONGEST_LIMIT = 2**12, 2**23

# Maximum error of the sums of float32 in a cosine.
_ERROR_OF_SUMS = 1e-5

# Count of a list that is not complete.
TOO_LONG = 2**30


class Pairs(NamedTuple):
    """A list of pairs.

    Attributes:
        row: `(n,)` int32 row of the batch.
        class_id: `(n,)` int32 class.
        count: number of valid pairs, which come first. It is `TOO_LONG` if pairs are missing.
    """

    row: keras.KerasTensor
    class_id: keras.KerasTensor
    count: keras.KerasTensor

    def is_listed(self, start=0):
        """Returns a mask of the valid pairs, of which the first has the number `start`."""
        return start + ops.arange(ops.shape(self.row)[0]) < self.count

    def where(self, mask):
        """Returns the valid pairs for which a mask is true."""
        kept, count = backends.current().find(ops.logical_and(mask, self.is_listed()), ops.shape(self.row)[0])
        return Pairs(ops.take(self.row, kept), ops.take(self.class_id, kept), count)

    def block(self, start):
        """Returns `BLOCK` pairs. Those after the end of the list are not valid."""
        row, class_id = (backends.current().slice_rows(ids, start, BLOCK) for ids in (self.row, self.class_id))
        return Pairs(row, class_id, self.count)

    def map(self, function):
        """Returns the `(n,)` values of a function of pairs, which is called for one block at a time."""
        backend, empty, function = backends.current(), ops.zeros((0,)), backends.current().fuse(function)

        def add(start, values):
            return start + BLOCK, backend.extend(values, function(self.block(start)), start)

        carry = ops.zeros((), "int32"), backend.new_list(empty, ops.shape(self.row)[0])
        _, values = ops.while_loop(lambda start, _: start < self.count, add, carry)
        return backend.as_array(values, empty)[: ops.shape(self.row)[0]]


class Gathered(NamedTuple):
    """Embeddings and centers of `n` pairs.

    Attributes:
        rows: `(n, 1, dim)` embeddings, normalized.
        centers: `(n, sub_centers, dim)` centers, normalized.
        inverse_norms: `(n, sub_centers, 1)` factors that normalize the centers.
        cosines: `(n, sub_centers)` cosines.
    """

    rows: keras.KerasTensor
    centers: keras.KerasTensor
    inverse_norms: keras.KerasTensor
    cosines: keras.KerasTensor


class Gather:
    """Gathers the embeddings and centers of pairs.

    Args:
        rows: `(batch, dim)` embeddings, normalized.
        centers: centers of a head.
        inverse_norms: factors that normalize the rows of the centers.
        sub_centers: number of centers per class.
    """

    def __init__(self, rows, centers, inverse_norms, sub_centers):
        self.rows, self.sub_centers = rows, sub_centers
        self.centers = ops.reshape(centers, (-1, sub_centers, centers.shape[-1]))
        self.inverse_norms = ops.reshape(inverse_norms, (-1, sub_centers, 1))

    def __call__(self, pairs):
        rows = ops.expand_dims(ops.take(self.rows, pairs.row, axis=0), 1)
        inverse_norms = ops.take(self.inverse_norms, pairs.class_id, axis=0)
        centers = ops.take(self.centers, pairs.class_id, axis=0) * inverse_norms
        return Gathered(rows, centers, inverse_norms, backends.current().row_sums(rows * centers))

    def cosines(self, pairs):
        """Returns the `(n,)` cosines to the nearest sub-center."""
        return ops.max(self(pairs).cosines, axis=1)

    def chunk(self, chunks, start, size):
        """Returns the centers of a chunk and their inverse norms, with zeros after them to complete a tile."""
        missing = (-size % _TILE) * self.sub_centers
        block, inverse = chunks.slice(self.centers, start, size), chunks.slice(self.inverse_norms, start, size)[:, 0]
        return (ops.pad(block, ((0, missing), (0, 0))), ops.pad(inverse, (0, missing))) if missing else (block, inverse)


class Found(NamedTuple):
    """Result of `find_pairs`.

    Attributes:
        pairs: a `Pairs`.
        cosines: `(n,)` cosines of the pairs. Those of the target classes are exact, and the others approximate.
        errors: `(n,)` maximum errors of the cosines.
        lowest: `(batch,)` lower limits, which may have been raised since a pair was listed.
    """

    pairs: Pairs
    cosines: keras.KerasTensor
    errors: keras.KerasTensor
    lowest: keras.KerasTensor


def find_pairs(chunks, gather, labels, targets, limits, ignored_above):
    """Lists the pairs of the target classes, and all other pairs whose cosine is above a lower limit.

    The limit of a row rises while more of the classes are known.

    Args:
        chunks: division of the centers into chunks.
        gather: a `Gather`.
        labels: `(batch,)` int32 labels.
        targets: `(batch,)` cosines to the target classes.
        limits: object with the limits `start`, `of_highest(highest)` for a lower bound of the highest cosine to
            another class, and `raised(lowest, cosines, counts)` for lower bounds of the cosines to some of the other
            classes.
        ignored_above: cosine above which other classes do not count for the limits.

    Returns:
        A `Found`.
    """
    backend, batch = backends.current(), ops.shape(gather.rows)[0]
    of_all, of_chunk = backend.list_fractions()
    limit = _limit(batch, of_all * chunks.classes)
    limit_of_chunk = _minimum(limit, _limit(batch, of_chunk * chunks.size))
    approximate = _Approximate(gather.rows, labels, chunks.sub_centers, ignored_above)
    maxima_of, raised = backend.fuse(approximate.tile_maxima), backend.fuse(approximate.raised(limits))

    def add(index, start, size, lowest, count, *lists):
        block, inverse = gather.chunk(chunks, start, size)
        products, errors = approximate.products(block, inverse)
        chunk = _Products(products, inverse, errors, *map(ops.convert_to_tensor, (start, start + size)))
        maxima, highest = maxima_of(chunk)
        lowest = ops.maximum(lowest, limits.of_highest(highest))
        num_open = ops.sum(ops.cast(maxima > ops.expand_dims(lowest, 1), "int32"))
        lowest = ops.cond(num_open > limit_of_chunk // 4, lambda: raised(chunk, lowest), lambda: lowest)

        new, num_found = approximate.find(chunk, maxima, lowest, limit_of_chunk)
        lists = (backend.extend(old, rows, count) for old, rows in zip(lists, new, strict=True))
        return lowest, ops.where(count + num_found <= batch + limit, count + num_found, TOO_LONG), *lists

    def add_if_complete(index, start, size, lowest, count, *lists):
        carry = lowest, count, *lists
        return ops.cond(count < TOO_LONG, lambda: add(index, start, size, *carry), lambda: carry)

    length = -(-(batch + limit + limit_of_chunk) // BLOCK) * BLOCK
    own = ops.arange(batch, dtype="int32"), ops.cast(labels, "int32"), targets, ops.zeros_like(targets)
    lists = (backend.new_list(values, length) for values in own)
    carry = limits.start, ops.convert_to_tensor(batch, "int32"), *lists
    lowest, count, *lists = chunks.loop(backend, add_if_complete, carry)
    row, class_ids, cosines, errors = (backend.as_array(old, like) for old, like in zip(lists, own, strict=True))
    return Found(Pairs(row, class_ids, count), cosines, errors, lowest)


class _Products(NamedTuple):
    """Approximate products of the rows and the centers of the classes [start, end).

    Attributes:
        products: `(batch, centers)` products with the centers, which are not normalized.
        inverse_norms: `(centers,)` factors that normalize the centers.
        errors: `(batch,)` maximum errors of the cosines, except the rounding of the products.
        start, end: int32 class ids. Centers of classes from `end` on only complete a tile.
    """

    products: keras.KerasTensor
    inverse_norms: keras.KerasTensor
    errors: keras.KerasTensor
    start: keras.KerasTensor
    end: keras.KerasTensor


class _Approximate:
    """Search with approximate products, whose maximum errors are known."""

    def __init__(self, rows, labels, sub_centers, ignored_above):
        backend = backends.current()
        self.labels, self.sub_centers, self.ignored_above = labels, sub_centers, ignored_above
        self._rounding_errors = backend.fuse(backend.rounding_errors)
        self.rows, self.errors_of_rows = backend.fast_copy(rows), self._rounding_errors(rows)

    def products(self, centers, inverse_norms):
        """Returns the products with some centers, and the `(batch,)` maximum errors of the cosines before rounding."""
        backend = backends.current()
        products = backend.fast_matmul(self.rows, backend.fast_copy(centers))
        errors = ops.max(ops.maximum(self._rounding_errors(centers) * inverse_norms, 0.0))  # not NaN
        return products, self.errors_of_rows + (1 + self.errors_of_rows) * errors + _ERROR_OF_SUMS

    def cosines(self, products, inverse_norms, errors):
        """Returns the cosines to the nearest sub-center, and the maximum errors of these and of the products."""
        cosines, _ = nearest(ops.cast(products, "float32") * inverse_norms, self.sub_centers)
        is_rounded = keras.backend.standardize_dtype(products.dtype) == "bfloat16"
        return cosines, errors + (1.01 * 2**-8 * ops.abs(cosines) if is_rounded else ops.zeros_like(cosines))

    def tile_maxima(self, chunk):
        """Returns the upper bounds of the `(batch, tiles)` highest cosines to another class in each tile.

        Also returns the `(batch,)` lower bounds of the highest cosine to another class that counts for the limits.
        """
        cosines, errors, is_other = self._all(chunk)
        upper, lower = (ops.where(is_other, bound, LOWEST) for bound in (cosines + errors, cosines - errors))
        if self.ignored_above < 1:
            lower = ops.where(upper <= self.ignored_above, lower, LOWEST)
        upper = ops.max(ops.reshape(upper, (-1, upper.shape[1] // _TILE, _TILE)), axis=2)
        return upper, ops.max(lower, axis=1)

    def raised(self, limits):
        """Returns a function of a chunk and lower limits that raises them."""

        def function(chunk, lowest):
            cosines, errors, counts = self._all(chunk)
            if self.ignored_above < 1:
                counts = ops.logical_and(counts, cosines + errors <= self.ignored_above)
            return limits.raised(lowest, cosines - errors, counts)

        return function

    def find(self, chunk, maxima, lowest, size):
        """Lists at most `size` pairs of a chunk whose cosine may be above the limits.

        Returns:
            The rows, class ids, cosines and maximum errors of the pairs, and their number, `TOO_LONG` if pairs are
            missing.
        """
        backend, tiles_per_row, lowest = backends.current(), maxima.shape[1], ops.expand_dims(lowest, 1)
        tiles, num_tiles = backend.find(ops.reshape(maxima > lowest, (-1,)), size)
        row, tile = tiles // tiles_per_row, tiles % tiles_per_row
        labels, lowest, errors = (
            ops.take(values, row, axis=0)
            for values in (ops.expand_dims(self.labels, 1), lowest, ops.expand_dims(chunk.errors, 1))
        )
        products = ops.take(ops.reshape(chunk.products, (-1, _TILE * self.sub_centers)), tiles, axis=0)
        inverse_norms = ops.take(ops.reshape(chunk.inverse_norms, (tiles_per_row, -1)), tile, axis=0)
        cosines, errors = self.cosines(products, inverse_norms, errors)

        ids = chunk.start + _TILE * ops.expand_dims(tile, 1) + ops.arange(_TILE, dtype="int32")
        is_listed = ops.expand_dims(ops.arange(ops.shape(tiles)[0]) < num_tiles, 1)
        is_found = ops.logical_and(_is_other(ids, labels, chunk.end), cosines + errors > lowest)
        found, num_found = backend.find(ops.reshape(ops.logical_and(is_found, is_listed), (-1,)), size)
        new = ops.take(row, found // _TILE), *(ops.take(ops.reshape(a, (-1,)), found) for a in (ids, cosines, errors))
        is_complete = ops.logical_and(num_tiles <= ops.shape(tiles)[0], num_found <= ops.shape(found)[0])
        return new, ops.where(is_complete, num_found, TOO_LONG)

    def _all(self, chunk):
        """Returns the cosines to all classes of a chunk, their maximum errors, and a mask of other classes."""
        cosines, errors = self.cosines(chunk.products, chunk.inverse_norms, ops.expand_dims(chunk.errors, 1))
        ids = chunk.start + ops.arange(cosines.shape[1], dtype="int32")
        return cosines, errors, _is_other(ids, ops.expand_dims(self.labels, 1), chunk.end)


def _is_other(ids, labels, end):
    """Returns a mask of the classes below `end` other than the labels."""
    return ops.logical_and(ops.not_equal(ids, labels), ids < end)


def _limit(batch, per_row):
    """Returns `batch * per_row` within the limits of a list, for a batch that may be a tensor."""
    per_row = math.ceil(per_row)
    # At most this number of rows, so that the product of int32 tensors does not overflow.
    product = _minimum(batch, _LONGEST_LIMIT // per_row) * per_row
    shortest = max(SHORTEST_LIMIT, 1)
    return max(product, shortest) if isinstance(product, int) else ops.maximum(product, shortest)


def _minimum(first, second):
    return min(first, second) if isinstance(first, int) and isinstance(second, int) else ops.minimum(first, second)
