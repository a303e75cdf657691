"""Choice of the chunk size and of caching cosines for the backward pass."""

import functools
import logging
import math
from typing import NamedTuple

from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.layers.chunked import backends

# Matrix products with fewer classes are slow.
_SMALLEST_CHUNK = 1024

# Up to this number of classes, a single chunk is fastest if the cosines are cached.
_LARGEST_SINGLE_CHUNK = 2**17

_log = logging.getLogger(__name__)

DTYPES = ("float32", "tensorfloat32", "bfloat16")


class Chunking(NamedTuple):
    """Division of the class centers into chunks, and options of the computation.

    Attributes:
        size: number of classes per chunk, in each shard.
        cached: if true, the backward pass reuses the `(batch, classes)` cosines of all chunks, which saves a matrix
            product.
        matmul_dtype: dtype of `DTYPES` to which the inputs of matrix products are rounded; sums are float32.
        shards: number of equal shards of the centers on devices.
    """

    size: int
    cached: bool = False
    matmul_dtype: str = "float32"
    shards: int = 1


def check(chunk_size, max_cache_bytes, matmul_dtype):
    """Raises a ValueError if an argument of a head is out of range."""
    if chunk_size is not None:
        check_integer("chunk_size", chunk_size, 1)
    check_number("max_cache_bytes", max_cache_bytes, lambda size: size >= 0, "at least 0 bytes")
    check_choice("matmul_dtype", matmul_dtype, DTYPES)


def choose(batch, centers_shape, chunk_size=None, max_cache_bytes=2**28, matmul_dtype="float32", shards=1):
    """Chooses a `Chunking`.

    Args:
        batch: number of rows, or None if unknown.
        centers_shape: `(classes, dim)` or `(classes, sub_centers, dim)`.
        chunk_size: number of classes per chunk, or None for a default.
        max_cache_bytes: maximum size of cached cosines.
        matmul_dtype: dtype of `DTYPES` for the inputs of matrix products.
        shards: number of equal shards of the centers on devices.

    Returns:
        A `Chunking`. Its `matmul_dtype` is float32 if the device is slower with the given one.
    """
    classes, sub_centers = centers_shape[0] // shards, math.prod(centers_shape[1:-1])
    class_bytes = 4 * (batch or 512) * sub_centers
    cached = class_bytes * classes <= max_cache_bytes
    if chunk_size is None and cached and classes <= _LARGEST_SINGLE_CHUNK:
        chunk_size = classes
    elif chunk_size is None:
        chunk_bytes, most = backends.current().chunk_limits()
        chunk_size = min(max(chunk_bytes // class_bytes // 256 * 256, _SMALLEST_CHUNK), most)
    if not backends.current().is_fast(matmul_dtype):
        _warn_of_float32(matmul_dtype)
        matmul_dtype = "float32"
    return Chunking(min(chunk_size, classes), cached, matmul_dtype, shards)


@functools.cache  # once in a process
def _warn_of_float32(matmul_dtype):
    _log.warning(
        "matmul_dtype=%r is slower than float32 on this CPU, which has no instructions for it. The head multiplies in "
        "float32.",
        matmul_dtype,
    )
