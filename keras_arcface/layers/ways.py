"""How the classes are gone through: in blocks of what size, and what is kept of them."""

import math
from typing import NamedTuple

from keras_arcface.layers import kernels
from keras_arcface.layers import parts

# What exponentials are scaled to be at most, so that none overflows and ten million of them do not: exp(60). The least,
# exp(60 - 2 * scale), must not underflow either, which sets the largest scale for which this will do.
LARGEST_EXPONENT, _LARGEST_BOUNDED_SCALE = 60.0, 70.0

# Classes in a block: with fewer, products are slow. Where all cosines are kept anyway, one block of all is quickest.
_SMALLEST_BLOCK, _LARGEST_ONLY_BLOCK = 1024, 2**17

DTYPES = ("float32", "tensorfloat32", "bfloat16")


class Way(NamedTuple):
    """How the classes are gone through.

    Attributes:
        size: classes in a block, of each shard.
        ignored_above: other classes with a cosine above this do not count in the sum.
        bounded: whether the scale is small enough for exponentials to be summed as they are.
        mean: whether the sum of the cosines is wanted.
        angles: whether that sum is of the angles instead.
        keep: whether the cosines of all blocks, `(batch, classes)`, are kept for the gradient, which saves a product.
        dtype: of `DTYPES`, what the entries of the three products are rounded to; sums are float32.
        shards: parts of equally many classes in which the centers lie on devices, to be gone through side by side.
        negatives: what the sum sees instead of the other cosines, see `negatives.py`; None for themselves.
        binary: whether each class is a question of its own, yes or no, instead of one among all.
        normalized: whether centers count as of norm 1.
    """

    size: int
    keep: bool = False
    dtype: str = "float32"
    shards: int = 1
    ignored_above: float = 1.0
    bounded: bool = False
    mean: bool = False
    angles: bool = False
    negatives: object = None
    binary: bool = False
    normalized: bool = True


def check(block_size, logits_memory, products):
    """Raises a ValueError for what a head was asked for, out of range."""
    if block_size is not None:
        parts.check_integer("block_size", block_size, 1)
    parts.check_number("logits_memory", logits_memory, lambda size: size >= 0, "at least 0 bytes")
    if products not in DTYPES:
        raise ValueError(f"products must be one of {', '.join(DTYPES)}. Received: products={products!r}")


def choose(batch, centers_shape, scale, size=None, memory=2**28, shards=1, **choices):
    """Chooses a `Way`.

    Args:
        batch: rows, or None where that is not known yet.
        centers_shape: `(classes, dim)` or `(classes, sub-centers, dim)`.
        scale: the largest scale; `math.inf` where cosines are logits that have no bound.
        size: classes in a block, or None to choose.
        memory: bytes up to which cosines are kept.
        shards: equal parts in which the classes lie on devices.
        **choices: what else `Way` takes.
    """
    shard, subs = centers_shape[0] // shards, math.prod(centers_shape[1:-1])
    row_bytes = 4 * (batch or 512) * subs
    keep = row_bytes * shard <= memory
    if size is None and keep and shard <= _LARGEST_ONLY_BLOCK:
        size = shard
    elif size is None:
        size, most = kernels.here().block_limits()
        size = min(max(size // row_bytes // 256 * 256, _SMALLEST_BLOCK), most)
    bounded = scale <= _LARGEST_BOUNDED_SCALE and choices.get("negatives") is None
    return Way(min(size, shard), keep, shards=shards, bounded=bounded, **choices)
