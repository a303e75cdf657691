"""Pairs of a row and a class: the search for those with a high cosine, and their embeddings and centers."""

import functools
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
        """Returns `BLOCK` pairs, or less at the end of the list."""
        row, class_id = (backends.current().slice_rows(ids, start, BLOCK) for ids in (self.row, self.class_id))
        return Pairs(row, class_id, self.count)

    def map(self, function):
        """Returns the `(n,)` values of a function of pairs, which is called for one block at a time."""
        backend, empty = backends.current(), ops.zeros((0,))

        def add(start, values):
            return start + BLOCK, backend.extend(values, function(self.block(start)), start)

        carry = ops.zeros((), "int32"), backend.new_list(empty, ops.shape(self.row)[0])
        _, values = ops.while_loop(lambda start, _: start < self.count, add, carry)
        return backend.as_array(values, empty)


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
        return Gathered(rows, centers, inverse_norms, ops.sum(rows * centers, axis=2))

    def cosines(self, pairs):
        """Returns the `(n,)` cosines to the nearest sub-center."""
        return ops.max(self(pairs).cosines, axis=1)

    def chunk(self, chunks, start, size):
        """Returns the centers of a chunk and their inverse norms, with zeros after them to complete a tile."""
        missing = (-size % _TILE) * self.sub_centers
        block, inverse = chunks.slice(self.centers, start, size), chunks.slice(self.inverse_norms, start, size)[:, 0]
        return (ops.pad(block, ((0, missing), (0, 0))), ops.pad(inverse, (0, missing))) if missing else (block, inverse)


def find_pairs(chunks, gather, labels, targets, lowest_of, ignored_above):
    """Lists the pairs of the target classes, and all other pairs whose cosine may be higher than a lower limit.

    The cosines are approximate: they may be wrong by `approximation_error` of the backend.

    Args:
        chunks: division of the centers into chunks.
        gather: a `Gather`.
        labels: `(batch,)` int32 labels.
        targets: `(batch,)` cosines to the target classes.
        lowest_of: function that returns the `(batch,)` lower limit, given a lower bound of the highest cosine to
            another class.
        ignored_above: cosine above which other classes do not count for the highest cosine.

    Returns:
        `(pairs, cosines, highest)`: the `Pairs`, their approximate cosines (those of the target classes are exact), and
        a lower bound of the highest cosine to another class.
    """
    backend, error = backends.current(), backends.current().approximation_error()
    batch = ops.shape(gather.rows)[0]
    of_all, of_chunk = backend.list_fractions()
    limit = _limit(batch, of_all * chunks.classes)
    limit_of_chunk = _minimum(limit, _limit(batch, of_chunk * chunks.size))
    maxima_of = backend.fuse(functools.partial(_tile_maxima, chunks.sub_centers))

    def add(index, start, size, highest, count, rows, class_ids, listed):
        block, inverse = gather.chunk(chunks, start, size)
        products = backend.approximate_matmul(gather.rows, block)
        maxima = maxima_of(products, inverse, labels, *map(ops.convert_to_tensor, (start, start + size)))
        counts = maxima if ignored_above >= 1 else ops.where(maxima < ignored_above - error, maxima, LOWEST)
        highest = ops.maximum(highest, ops.max(counts, axis=1) - error)
        lowest = ops.expand_dims(lowest_of(highest) - error, 1)

        tiles_per_row = maxima.shape[1]
        is_open = ops.logical_and(maxima > lowest, count < TOO_LONG)
        tiles, num_tiles = backend.find(ops.reshape(is_open, (-1,)), limit_of_chunk)
        row, tile = tiles // tiles_per_row, tiles % tiles_per_row
        cosines = ops.take(ops.reshape(products, (-1, _TILE * chunks.sub_centers)), tiles, axis=0)
        cosines = ops.cast(cosines, "float32") * ops.take(ops.reshape(inverse, (tiles_per_row, -1)), tile, axis=0)
        cosines, _ = nearest(cosines, chunks.sub_centers)
        ids = start + _TILE * ops.expand_dims(tile, 1) + ops.arange(_TILE, dtype="int32")
        is_found = ops.expand_dims(ops.arange(ops.shape(tiles)[0]) < num_tiles, 1)
        is_found = ops.logical_and(is_found, _is_other(ids, ops.expand_dims(ops.take(labels, row), 1), start + size))
        is_found = ops.logical_and(is_found, cosines > ops.take(lowest, row, axis=0))
        found, num_found = backend.find(ops.reshape(is_found, (-1,)), limit_of_chunk)

        total = count + num_found
        is_complete = ops.logical_and(num_tiles <= ops.shape(tiles)[0], num_found <= ops.shape(found)[0])
        is_complete = ops.logical_and(is_complete, total <= batch + limit)  # false once `count` is `TOO_LONG`
        new = ops.take(row, found // _TILE), *(ops.take(ops.reshape(a, (-1,)), found) for a in (ids, cosines))
        position = ops.minimum(count, batch + limit)
        lists = (backend.extend(old, rows, position) for old, rows in zip((rows, class_ids, listed), new, strict=True))
        return highest, ops.where(is_complete, total, TOO_LONG), *lists

    length = -(-(batch + limit + limit_of_chunk) // BLOCK) * BLOCK
    own = ops.arange(batch, dtype="int32"), ops.cast(labels, "int32"), targets
    carry = ops.full_like(targets, LOWEST), ops.convert_to_tensor(batch, "int32")
    lists = (backend.new_list(values, length) for values in own)
    highest, count, *lists = chunks.loop(backend, add, (*carry, *lists))
    rows, class_ids, cosines = (backend.as_array(values, like) for values, like in zip(lists, own, strict=True))
    return Pairs(rows, class_ids, count), cosines, highest


def _tile_maxima(sub_centers, products, inverse, labels, start, end):
    """Returns the `(batch, tiles)` highest cosine to another class in each tile of the classes [start, end)."""
    cosines, _ = nearest(ops.cast(products, "float32") * inverse, sub_centers)
    ids = start + ops.arange(cosines.shape[1], dtype="int32")
    cosines = ops.where(_is_other(ids, ops.expand_dims(labels, 1), end), cosines, LOWEST)
    return ops.max(ops.reshape(cosines, (-1, cosines.shape[1] // _TILE, _TILE)), axis=2)


def _is_other(ids, labels, end):
    """Returns a mask of the classes other than the labels. Those from `end` on only complete a tile."""
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
