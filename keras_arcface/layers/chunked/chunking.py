"""Chooses the chunk size and whether cosines are cached for the backward pass."""

import math
from typing import NamedTuple

from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.layers.chunked import backends

# Matrix products of fewer classes are slow.
_SMALLEST_CHUNK = 1024

# Up to this many classes, one chunk of all is fastest where the cosines are cached anyway.
_LARGEST_SINGLE_CHUNK = 2**17

DTYPES = ("float32", "tensorfloat32", "bfloat16")


class Chunking(NamedTuple):
    """How the class centers are cut into chunks.

    Attributes:
        size: classes per chunk, in each shard.
        cached: whether the cosines of all chunks, `(batch, classes)`, are kept for the backward pass, which saves a
            matrix product.
        matmul_dtype: one of `DTYPES`, to which the entries of the matrix products are rounded; sums are float32.
        shards: number of equal parts in which the centers lie on devices.
    """

    size: int
    cached: bool = False
    matmul_dtype: str = "float32"
    shards: int = 1


def check(chunk_size, max_cache_bytes, matmul_dtype):
    """Raises a ValueError for a head's arguments that are out of range."""
    if chunk_size is not None:
        check_integer("chunk_size", chunk_size, 1)
    check_number("max_cache_bytes", max_cache_bytes, lambda size: size >= 0, "at least 0 bytes")
    check_choice("matmul_dtype", matmul_dtype, DTYPES)


def choose(batch, centers_shape, chunk_size=None, max_cache_bytes=2**28, matmul_dtype="float32", shards=1):
    """Chooses a `Chunking`.

    Args:
        batch: number of rows, or None if unknown.
        centers_shape: `(classes, dim)` or `(classes, sub_centers, dim)`.
        chunk_size: classes per chunk, or None to choose.
        max_cache_bytes: cosines are cached up to this size.
        matmul_dtype: one of `DTYPES`.
        shards: number of equal parts in which the centers lie on devices.
    """
    classes, sub_centers = centers_shape[0] // shards, math.prod(centers_shape[1:-1])
    class_bytes = 4 * (batch or 512) * sub_centers
    cached = class_bytes * classes <= max_cache_bytes
    if chunk_size is None and cached and classes <= _LARGEST_SINGLE_CHUNK:
        chunk_size = classes
    elif chunk_size is None:
        chunk_bytes, most = backends.current().chunk_limits()
        chunk_size = min(max(chunk_bytes // class_bytes // 256 * 256, _SMALLEST_CHUNK), most)
    return Chunking(min(chunk_size, classes), cached, matmul_dtype, shards)
