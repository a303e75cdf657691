"""Random numbers that depend only on a seed and a step, the same on every backend, device and replica."""

import math
import random

from keras import ops

LOW_BITS = 0xFFFF


def keys(seed, step, count):
    """Returns `count` triples of 16-bit numbers.

    Args:
        seed: Python integer.
        step: int32 scalar, at least 0.
        count: number of triples.
    """
    generator = random.Random(seed)
    high, low = step // (LOW_BITS + 1), step % (LOW_BITS + 1)
    numbers = []
    for _ in range(3 * count):
        constants = [generator.randrange(LOW_BITS + 1) for _ in range(3)]
        high, low = low, ops.bitwise_xor(high, ops.bitwise_and(mix(low, *constants), LOW_BITS))
        numbers.append(low)
    return [numbers[i : i + 3] for i in range(0, len(numbers), 3)]


def mix(numbers, first, second, third):
    """Hashes 16-bit numbers to 30 bits with a key of three 16-bit numbers. No product exceeds 31 bits."""
    mixed = ops.bitwise_xor(numbers, first) * _odd(second)
    mixed = ops.bitwise_and(ops.bitwise_xor(mixed, ops.right_shift(mixed, 11)), LOW_BITS) * _odd(third)
    return ops.bitwise_and(ops.bitwise_xor(mixed, ops.right_shift(mixed, 13)), 0x3FFFFFFF)


def normal(count, seed, step):
    """Returns `(count,)` float32 samples of N(0, 1)."""
    numbers = ops.bitwise_and(ops.arange(count, dtype="int32"), LOW_BITS)
    high, low = (mix(numbers, *key) for key in keys(seed, step, 2))
    # 16 + 7 bits: with more than 23 bits, the largest number would round to 1.
    bits = ops.bitwise_and(high, LOW_BITS) * 128 + ops.bitwise_and(low, 127)
    return math.sqrt(2.0) * ops.erfinv((ops.cast(bits, "float32") + 0.5) / 2.0**22 - 1.0)


def _odd(key):
    return ops.bitwise_or(ops.bitwise_and(key, 0x7FFF), 1)
