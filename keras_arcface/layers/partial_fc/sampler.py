"""Draws the classes of a training step: those of the batch and others at random, at a cost that does not grow with all.

The random classes are the beginning of a permutation of all classes that is never written out. A Feistel network, keyed
by a seed and the step, computes the class at each position. No class comes twice, and a step can be drawn again.
"""

import math

from keras import ops

from keras_arcface.layers import stateless_random

_ROUNDS = 8


def draw(labels, num_classes, size, seed, step, shards=1):
    """Draws the classes of a step.

    Args:
        labels: `(batch,)` int32 in [0, num_classes), at most `size / shards` different ones of each shard.
        num_classes: number of classes, below 2**31.
        size: number of classes to draw.
        seed: Python integer.
        step: int32 scalar, at least 0.
        shards: number of equal parts of the classes; the same number of classes is drawn from each part.

    Returns:
        `(size,)` int32, ascending and all different: every label, and each other class with equal probability.
    """
    shard_classes, size = num_classes // shards, size // shards
    shard = ops.expand_dims(ops.arange(shards, dtype="int32"), 1)

    labels = ops.sort(labels)
    is_first = ops.concatenate([ops.ones_like(labels[:1], dtype="bool"), ops.not_equal(labels[1:], labels[:-1])])
    in_shard = ops.cast(ops.logical_and(is_first, ops.equal(labels // shard_classes, shard)), "int32")
    label_count = ops.sum(in_shard, axis=1, keepdims=True)
    # Each shard has `size` slots. Overflow entries go to a dummy slot at index `size`.
    start, slot = shard * (size + 1), ops.minimum(ops.cumsum(in_shard, axis=1) - 1, size)
    label_slots = ops.where(is_first, ops.sum(in_shard * (start + slot), axis=0), size)

    numbers = ops.zeros_like(shard) + ops.arange(size, dtype="int32")
    others = permute(numbers, shard_classes, seed, step * shards + shard) + shard * shard_classes
    others = ops.reshape(others, (-1,))
    is_other = ops.not_equal(ops.take(labels, positions(labels, others)), others)
    is_other = ops.reshape(is_other, (shards, size))
    slot = label_count - 1 + ops.cumsum(ops.cast(is_other, "int32"), axis=1)
    other_slots = start + ops.minimum(ops.where(is_other, slot, size), size)

    drawn = ops.zeros((shards * (size + 1),), dtype="int32")
    drawn = ops.scatter_update(drawn, ops.reshape(other_slots, (-1, 1)), others)
    drawn = ops.scatter_update(drawn, ops.expand_dims(label_slots, 1), labels)
    return ops.reshape(ops.sort(ops.reshape(drawn, (shards, size + 1))[:, :size], axis=1), (-1,))


def positions(ascending, values):
    """Returns the index of each value in an ascending vector; of a value that is not there, any valid index."""
    last = ops.shape(ascending)[0] - 1
    return ops.minimum(ops.cast(ops.searchsorted(ascending, values), "int32"), last)


def permute(numbers, count, seed, step):
    """Permutes numbers in [0, count), differently for each seed and step."""
    side = math.isqrt(count - 1) + 1
    keys = stateless_random.keys(seed, step, _ROUNDS)

    def shuffle(numbers):
        high, low = numbers // side, numbers % side
        for key in keys:
            high, low = low, (high + stateless_random.mix(low, *key)) % side
        return high * side + low

    # `shuffle` permutes [0, side**2), slightly more than `count`. Results outside are shuffled again (cycle walking).
    return ops.while_loop(
        lambda numbers: ops.any(numbers >= count),
        lambda numbers: (ops.where(numbers >= count, shuffle(numbers), numbers),),
        (shuffle(numbers),),
    )[0]
