"""Sampling of the classes of a training step, at a cost that does not depend on the total number of classes.

A sample has the classes of the batch and random others. The random classes are the first entries of a permutation of
all classes, which is never stored: a Feistel network, keyed by a seed and the step, computes the class at each
position. The classes are distinct, and the same seed and step give the same permutation.
"""

import math

from keras import ops

from keras_arcface.layers import stateless_random

_ROUNDS = 8


def sample_size(num_classes, sample_rate, groups):
    """Returns the number of classes in a sample, the same number of each group."""
    return groups * math.ceil(sample_rate * num_classes / groups)


def draw(labels, num_classes, size, seed, step, groups=1):
    """Samples the classes of a step.

    Args:
        labels: `(batch,)` int32 in [0, num_classes), with at most `size / groups` distinct labels of each group.
        num_classes: number of classes, below 2**31.
        size: number of classes in the sample.
        seed: Python integer.
        step: int32 scalar, at least 0.
        groups: number of equal groups of consecutive classes. Each group has the same number of sampled classes.

    Returns:
        `(size,)` int32 sorted and distinct class ids: all labels, and each other class with equal probability.
    """
    group_classes, size = num_classes // groups, size // groups
    group = ops.expand_dims(ops.arange(groups, dtype="int32"), 1)

    labels = ops.sort(labels)
    is_first = ops.concatenate([ops.ones_like(labels[:1], dtype="bool"), ops.not_equal(labels[1:], labels[:-1])])
    in_group = ops.cast(ops.logical_and(is_first, ops.equal(labels // group_classes, group)), "int32")
    label_count = ops.sum(in_group, axis=1, keepdims=True)
    # Each group has `size` slots. Overflow entries go to a dummy slot at index `size`.
    start, slot = group * (size + 1), ops.minimum(ops.cumsum(in_group, axis=1) - 1, size)
    label_slots = ops.where(is_first, ops.sum(in_group * (start + slot), axis=0), size)

    indices = ops.zeros_like(group) + ops.arange(size, dtype="int32")
    others = permute(indices, group_classes, seed, step * groups + group) + group * group_classes
    others = ops.reshape(others, (-1,))
    is_other = ops.not_equal(ops.take(labels, positions(labels, others)), others)
    is_other = ops.reshape(is_other, (groups, size))
    slot = label_count - 1 + ops.cumsum(ops.cast(is_other, "int32"), axis=1)
    other_slots = start + ops.minimum(ops.where(is_other, slot, size), size)

    drawn = ops.zeros((groups * (size + 1),), dtype="int32")
    drawn = ops.scatter_update(drawn, ops.reshape(other_slots, (-1, 1)), others)
    drawn = ops.scatter_update(drawn, ops.expand_dims(label_slots, 1), labels)
    return ops.reshape(ops.sort(ops.reshape(drawn, (groups, size + 1))[:, :size], axis=1), (-1,))


def positions(sorted_ids, values):
    """Returns the index of each value in a sorted vector, and any valid index for a value that is not in it."""
    last = ops.shape(sorted_ids)[0] - 1
    return ops.minimum(ops.cast(ops.searchsorted(sorted_ids, values), "int32"), last)


def permute(indices, count, seed, step):
    """Maps indices in [0, count) by a permutation of this range that depends on the seed and the step."""
    side = math.isqrt(count - 1) + 1
    keys = stateless_random.keys(seed, step, _ROUNDS)

    def shuffle(indices):
        high, low = indices // side, indices % side
        for key in keys:
            high, low = low, (high + stateless_random.mix(low, *key)) % side
        return high * side + low

    # `shuffle` permutes [0, side**2), a slightly larger range. Results of at least `count` are shuffled again (cycle
    # walking).
    return ops.while_loop(
        lambda indices: ops.any(indices >= count),
        lambda indices: (ops.where(indices >= count, shuffle(indices), indices),),
        (shuffle(indices),),
    )[0]
