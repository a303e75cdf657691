"""Which classes a step looks at: those of its batch, and others drawn at random, at a cost that does not grow with all.

The others are the beginning of a permutation of all classes that is never written out: a Feistel network, keyed by a
seed and the step, says of each place which class is there. So no class comes twice, and a step can be drawn again.
"""

import math
import random

from keras import ops

_ROUNDS = 8
_LOW_BITS = 0xFFFF


def draw(labels, num_classes, size, seed, step, shards=1):
    """Draws the classes of a step.

    Args:
        labels: `(batch,)` int32 in [0, num_classes), at most `size / shards` different ones of each shard.
        num_classes: number of classes, below 2**31.
        size: how many classes to draw.
        seed: Python integer.
        step: int32 scalar, at least 0.
        shards: equal parts of the classes, of each of which equally many are drawn.

    Returns:
        `(size,)` int32, ascending and all different: every label, and of the other classes each with the same chance.
    """
    shard_classes, size = num_classes // shards, size // shards
    shard = ops.expand_dims(ops.arange(shards, dtype="int32"), 1)

    labels = ops.sort(labels)
    is_first = ops.concatenate([ops.ones_like(labels[:1], dtype="bool"), ops.not_equal(labels[1:], labels[:-1])])
    is_own = ops.cast(ops.logical_and(is_first, ops.equal(labels // shard_classes, shard)), "int32")
    count = ops.sum(is_own, axis=1, keepdims=True)  # of the labels of each shard
    # What has no place among the first `size` of its shard goes to one behind them.
    start, place = shard * (size + 1), ops.minimum(ops.cumsum(is_own, axis=1) - 1, size)
    place = ops.where(is_first, ops.sum(is_own * (start + place), axis=0), size)

    numbers = ops.zeros_like(shard) + ops.arange(size, dtype="int32")
    others = permuted(numbers, shard_classes, seed, step * shards + shard) + shard * shard_classes
    others = ops.reshape(others, (-1,))
    is_other = ops.not_equal(ops.take(labels, places(labels, others)), others)
    is_other = ops.reshape(is_other, (shards, size))
    place_of_other = count - 1 + ops.cumsum(ops.cast(is_other, "int32"), axis=1)
    place_of_other = start + ops.minimum(ops.where(is_other, place_of_other, size), size)

    drawn = ops.zeros((shards * (size + 1),), dtype="int32")
    drawn = ops.scatter_update(drawn, ops.reshape(place_of_other, (-1, 1)), others)
    drawn = ops.scatter_update(drawn, ops.expand_dims(place, 1), labels)
    return ops.reshape(ops.sort(ops.reshape(drawn, (shards, size + 1))[:, :size], axis=1), (-1,))


def places(ascending, values):
    """Where each value is in an ascending vector, or could be: an index of it in any case."""
    last = ops.shape(ascending)[0] - 1
    return ops.minimum(ops.cast(ops.searchsorted(ascending, values), "int32"), last)


def permuted(numbers, count, seed, step):
    """Gives the places of numbers in [0, count) in a permutation, another one for each seed and step."""
    side = math.isqrt(count - 1) + 1
    keys = _keys(seed, step)

    def shuffled(numbers):
        high, low = numbers // side, numbers % side
        for key in keys:
            high, low = low, (high + _hash(low, *key)) % side
        return high * side + low

    # It permutes [0, side**2), hardly more than `count`. Who falls behind goes on to where it leads from there.
    return ops.while_loop(
        lambda numbers: ops.any(numbers >= count),
        lambda numbers: (ops.where(numbers >= count, shuffled(numbers), numbers),),
        (shuffled(numbers),),
    )[0]


def normals(count, seed, step):
    """`(count,)` float32 from N(0, 1), others for each seed and step."""
    numbers = ops.bitwise_and(ops.arange(count, dtype="int32"), _LOW_BITS)
    high, low = (_hash(numbers, *key) for key in _keys(seed, step)[:2])
    # 16 bits and 7: with more than 23 the largest number would round to 1.
    bits = ops.bitwise_and(high, _LOW_BITS) * 128 + ops.bitwise_and(low, 127)
    return math.sqrt(2.0) * ops.erfinv((ops.cast(bits, "float32") + 0.5) / 2.0**22 - 1.0)


def _keys(seed, step):
    """Three 16-bit numbers for each round."""
    generator = random.Random(seed)
    high, low = step // (_LOW_BITS + 1), step % (_LOW_BITS + 1)
    keys = []
    for _ in range(3 * _ROUNDS):
        constant = [generator.randrange(_LOW_BITS + 1) for _ in range(3)]
        high, low = low, ops.bitwise_xor(high, ops.bitwise_and(_hash(low, *constant), _LOW_BITS))
        keys.append(low)
    return [keys[i : i + 3] for i in range(0, len(keys), 3)]


def _hash(numbers, first, second, third):
    """Maps 16 bits to 30 that look random. No product here needs more than 31 bits."""
    mixed = ops.bitwise_xor(numbers, first) * _odd(second)
    mixed = ops.bitwise_and(ops.bitwise_xor(mixed, ops.right_shift(mixed, 11)), _LOW_BITS) * _odd(third)
    return ops.bitwise_and(ops.bitwise_xor(mixed, ops.right_shift(mixed, 13)), 0x3FFFFFFF)


def _odd(key):
    return ops.bitwise_or(ops.bitwise_and(key, 0x7FFF), 1)
