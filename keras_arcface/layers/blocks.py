"""The softmax over many classes, block by block.

A margin changes one logit of a row. All that the loss needs of the others is the logarithm of their exponentials' sum,
so the classes are gone through in blocks, and the `(batch, classes)` logits never exist. For the gradient the blocks
are gone through again: a softmax needs nothing of a row but that sum to be known again.
"""

import functools
import math
from typing import NamedTuple

import keras
from keras import ops

from keras_arcface.layers import kernels
from keras_arcface.layers import parts
from keras_arcface.layers import ways
from keras_arcface.margins.base import angles_of
from keras_arcface.margins.base import slopes_of_angles

# Below every cosine, and every logit: what must not be the largest, or count.
_NOTHING = -1e30

# The number of what is left behind the last whole block.
_LAST = "last"

# How many numbers may be added one after another, as XLA does: with more, digits would be lost.
_LARGEST_SUM = 4096


class Others(NamedTuple):
    """What a row's loss needs to know of its cosines, each `(batch,)` float32.

    Attributes:
        log_sum: log of the sum of `exp(scale * cosine)` over all classes but the own; of a binary loss the sum of
            `softplus(scale * cosine - bias)`.
        own: the cosine to the own center.
        highest: the highest of the other cosines, without gradient.
        sum: of the other cosines, or of their angles, if asked for; of a binary loss the sum of
            `sigmoid(scale * cosine - bias)`, without gradient.
    """

    log_sum: keras.KerasTensor
    own: keras.KerasTensor
    highest: keras.KerasTensor
    sum: keras.KerasTensor


class Terms(NamedTuple):
    """What negatives and a binary loss want to know beside the cosines, without gradient.

    Attributes:
        targets: `(batch,)` float32, the own cosines with their margin.
        weight: scalar, how much harder hard negatives become.
        bias: scalar, of a binary loss.
    """

    targets: keras.KerasTensor
    weight: keras.KerasTensor
    bias: keras.KerasTensor


def own_cosines(unit, centers, labels, shards=1):
    """The cosine to the own center, `(batch,)`, the nearest where there are several; arguments as for `others`."""
    classes, subs, dim = centers.shape[0] // shards, math.prod(centers.shape[1:-1]), centers.shape[-1]
    if shards == 1:
        own = ops.reshape(ops.take(centers, labels, axis=0), (1, -1, subs, dim))
        here = ops.ones_like(labels, dtype="bool")[None]
    else:  # each shard looks among its own: an index across shards would bring them together
        within = labels - classes * ops.expand_dims(ops.arange(shards, dtype="int32"), 1)
        here = ops.logical_and(within >= 0, within < classes)
        by_shard = ops.reshape(centers, (shards, classes, subs * dim))
        rows = ops.clip(within, 0, classes - 1)
        own = ops.vectorized_map(lambda pair: ops.take(pair[0], pair[1], axis=0), (by_shard, rows))
        own = ops.reshape(own, (shards, -1, subs, dim))
    cosines = ops.max(ops.sum(parts.unit(own) * ops.expand_dims(unit, 1), axis=-1), axis=-1)
    return ops.sum(ops.where(here, cosines, 0.0), axis=0)


def others(unit, centers, labels, scale, way, terms=None):
    """Gives `Others`, with gradients for embeddings and centers.

    Args:
        unit: `(batch, dim)` float32, embeddings of norm 1; of any norm for a way without a bound, whose cosines are
            then logits.
        centers: `(classes, dim)` float32, of any norm; or `(classes, sub-centers, dim)`: the cosine to a class is that
            to the nearest of its sub-centers.
        labels: `(batch,)` int32 in [0, classes).
        scale: number or scalar, without gradient.
        way: a `Way`.
        terms: `Terms`, for negatives or a binary loss.

    Returns:
        `Others`.
    """
    forward, backward = _functions(way)
    scale = ops.convert_to_tensor(scale, dtype="float32")
    if terms is None:
        terms = Terms(ops.zeros_like(labels, dtype="float32"), ops.zeros(()), ops.zeros(()))
    terms = tuple(ops.stop_gradient(ops.convert_to_tensor(term, dtype="float32")) for term in terms)

    @ops.custom_gradient
    def statistics(unit, centers):
        result, kept = forward(unit, centers, labels, scale, terms)

        def gradients(*arguments, upstream=None):
            if upstream is None:
                (upstream,) = arguments
            return backward(unit, centers, labels, scale, terms, result, kept, upstream)

        return result, gradients

    result = statistics(unit, centers)
    summed = ops.stop_gradient(result[:, 3]) if way.binary else result[:, 3]
    return Others(result[:, 0], result[:, 1], ops.stop_gradient(result[:, 2]), summed)


@functools.cache
def _functions(way):
    """Forward and backward. Made once for each way, so that they are compiled once for each shape."""
    kernel = kernels.here()
    inverse_norms_of = kernel.fused(parts.inverse_norms)

    def shape_of(centers):
        """Classes of a shard, sub-centers of a class, length of a center."""
        return centers.shape[0] // way.shards, math.prod(centers.shape[1:-1]), centers.shape[-1]

    def split(centers):
        """How many blocks, of which size, and how large the last one is: what is left, or the only one."""
        shard = shape_of(centers)[0]
        size = min(way.size, shard)
        whole, rest = divmod(shard, size)
        return (0, size, size) if (whole, rest) == (1, 0) else (whole, size, rest)

    def over_blocks(centers, body, carry):
        """`carry = body(number, start, size, *carry)` for every block."""
        whole, size, last = split(centers)
        if last:  # first, as XLA copies what is written behind a loop
            carry = body(_LAST, whole * size, last, *carry)
        if whole:
            carry = kernel.repeat(whole, lambda number, *carry: body(number, number * size, size, *carry), carry)
        return carry

    def block_of(centers, inverse, start, size):
        """`(rows, dim)` the centers of a block, `(rows,)` one divided by their norms, `(classes,)` which classes."""
        shard, subs, _ = shape_of(centers)

        def part_of(array):
            # Each shard gives a slice of its own part: a slice across shards would bring them together.
            by_shard = ops.reshape(array, (way.shards, shard * subs, -1))
            block = ops.slice(by_shard, (0, start * subs, 0), (way.shards, size * subs, by_shard.shape[2]))
            return ops.reshape(block, (way.shards * size * subs, -1))

        within = start + ops.tile(ops.arange(size, dtype="int32"), way.shards)
        classes = within + shard * ops.repeat(ops.arange(way.shards, dtype="int32"), size)
        return part_of(centers), part_of(inverse)[:, 0], classes

    def by_shard(values):
        """`(rows, shards, columns of one)`: what is summed over the last axis needs nothing of other shards."""
        return ops.reshape(values, (-1, way.shards, values.shape[1] // way.shards))

    def nearest(cosines, subs):
        """The cosines to the nearest sub-center of each class, and `(batch, classes, sub-centers)` which that is."""
        if subs == 1:
            return cosines, None
        by_class = ops.reshape(cosines, (-1, *cosines.shape[1:-1], cosines.shape[-1] // subs, subs))
        highest = ops.max(by_class, axis=-1, keepdims=True)
        is_nearest = ops.cast(ops.equal(by_class, highest), "float32")
        return ops.squeeze(highest, axis=-1), is_nearest / ops.sum(is_nearest, axis=-1, keepdims=True)

    def statistics_of_part(cosines, classes, labels, scale, terms, highest, shift, total, own, summed):
        """With some classes more: `(batch, shards, classes)` cosines, `(1, shards, classes)` classes."""
        is_own = ops.equal(ops.reshape(labels, (-1, 1, 1)), classes)
        own = own + ops.sum(ops.where(is_own, cosines, 0.0), axis=2)
        if way.mean:
            values = angles_of(cosines) if way.angles else cosines
            summed = summed + ops.sum(ops.where(is_own, 0.0, values), axis=2)
        cosines = ops.where(is_own, _NOTHING, cosines)
        highest = ops.maximum(highest, ops.max(cosines, axis=2))
        if way.ignored_above < 1:
            cosines = ops.where(cosines <= way.ignored_above, cosines, _NOTHING)
        targets, weight, bias = terms
        counts = cosines > _NOTHING
        if way.binary:
            logits = scale * cosines - bias
            total = total + ops.sum(ops.where(counts, ops.softplus(logits), 0.0), axis=2)
            return highest, shift, total, own, summed + ops.sum(ops.where(counts, ops.sigmoid(logits), 0.0), axis=2)
        if way.negatives is not None:
            changed = way.negatives(cosines, ops.reshape(targets, (-1, 1, 1)), weight)
            cosines = ops.where(counts, changed, _NOTHING)
        if not way.bounded:
            before, shift = shift, ops.maximum(shift, ops.max(cosines, axis=2))
            total = total * ops.exp(scale * (before - shift))
        exponentials = ops.exp(scale * (cosines - ops.expand_dims(shift, 2)))
        exponentials = ops.where(counts, exponentials, 0.0)
        return highest, shift, total + ops.sum(exponentials, axis=2), own, summed

    @functools.cache
    def statistics_of(subs):
        @kernel.fused
        def statistics(products, inverse, classes, labels, scale, terms, *carry):
            products, inverse, classes = (by_shard(array) for array in (products, inverse[None], classes[None]))
            for start in range(0, classes.shape[2], _LARGEST_SUM):
                part = slice(start, start + _LARGEST_SUM)
                part_of_subs = slice(start * subs, (start + _LARGEST_SUM) * subs)
                cosines, _ = nearest(products[:, :, part_of_subs] * inverse[:, :, part_of_subs], subs)
                carry = statistics_of_part(cosines, classes[:, :, part], labels, scale, terms, *carry)
            return carry

        return statistics

    @functools.cache
    def slopes_of(subs):
        @kernel.fused
        def slopes(products, inverse, classes, labels, scale, terms, log_sum, by_others, by_own, by_sum):
            """Of the loss by the products."""
            cosines, share = nearest(products * inverse, subs)
            targets, weight, bias = terms
            if way.binary:
                slopes = by_others * ops.sigmoid(scale * cosines - bias)
            elif way.negatives is not None:
                terms = cosines, ops.expand_dims(targets, 1), weight
                slopes = by_others * ops.exp(scale * way.negatives(*terms) - log_sum) * way.negatives.slope(*terms)
            else:
                slopes = by_others * ops.exp(scale * cosines - log_sum)
            if way.ignored_above < 1:
                slopes = ops.where(cosines <= way.ignored_above, slopes, 0.0)
            if way.mean:
                slopes = slopes + (by_sum * slopes_of_angles(cosines) if way.angles else by_sum)
            slopes = ops.where(ops.equal(ops.expand_dims(labels, 1), classes), by_own, slopes)
            if subs > 1:
                slopes = ops.reshape(ops.expand_dims(slopes, 2) * share, (-1, classes.shape[0] * subs))
            return slopes * inverse

        return slopes

    def product_by_shard(slopes, block):
        """`(shards, batch, dim)`: what is to be summed over shards, which is done once for all blocks."""
        if way.shards == 1:
            return ops.expand_dims(kernel.product(slopes, block, way.dtype), 0)
        slopes = ops.transpose(by_shard(slopes), (1, 0, 2))
        return kernel.product(slopes, ops.reshape(block, (way.shards, -1, block.shape[1])), way.dtype)

    @kernel.fused
    def tangential(by_block, block, inverse):
        """The gradient without what would make a center longer, which changes no cosine."""
        inverse = ops.expand_dims(inverse, 1)
        return by_block - ops.square(inverse) * ops.sum(by_block * block, axis=1, keepdims=True) * block

    def forward(rows, centers, labels, scale, terms):
        subs = shape_of(centers)[1]
        zeros = ops.zeros((ops.shape(labels)[0], way.shards))
        # With this constant no exponential is too large, and none too small to count.
        shift = zeros + (1.0 - ways.LARGEST_EXPONENT / scale if way.bounded else _NOTHING)
        rows_of_centers = ops.reshape(centers, (-1, centers.shape[-1]))
        inverse_norms = inverse_norms_of(rows_of_centers) if way.normalized else ops.ones_like(rows_of_centers[:, :1])
        kept, of_last = (), []
        if way.keep:
            whole, size, _ = split(centers)
            kept = kernel.stack((whole, ops.shape(rows)[0], way.shards * size * subs)) if whole else ()

        def add(number, start, size, kept, *carry):
            block, inverse, classes = block_of(centers, inverse_norms, start, size)
            products = kernel.product(rows, block, way.dtype, transpose_second=True)
            if way.keep and number is _LAST:
                of_last.append(products)
            elif way.keep:
                kept = kernel.push(kept, number, products)
            return kept, *statistics_of(subs)(products, inverse, classes, labels, scale, terms, *carry)

        carry = kept, zeros + _NOTHING, shift, zeros, zeros, zeros
        kept, highest, shifts, totals, own, summed = over_blocks(centers, add, carry)
        shift = ops.max(shifts, axis=1, keepdims=True)
        total = ops.sum(totals * ops.exp(scale * (shifts - shift)), axis=1, keepdims=True)
        highest, own, summed = ops.max(highest, axis=1), ops.sum(own, axis=1), ops.sum(summed, axis=1)
        log_sum = ops.sum(totals, axis=1) if way.binary else ops.squeeze(scale * shift + ops.log(total), axis=1)
        return ops.stack([log_sum, own, highest, summed], axis=1), (inverse_norms, kept, *of_last)

    def backward(rows, centers, labels, scale, terms, result, kept, upstream):
        shard, subs, dim = shape_of(centers)
        inverse_norms, *kept = kept
        log_sum = ops.expand_dims(result[:, 0], 1)
        upstream = scale * upstream[:, :1], upstream[:, 1:2], upstream[:, 3:]

        def add(number, start, size, by_rows, by_centers):
            block, inverse, classes = block_of(centers, inverse_norms, start, size)
            if way.keep:
                products = (
                    kept[1]
                    if number is _LAST
                    else kernel.at(kept[0], number, (ops.shape(rows)[0], way.shards * size * subs))
                )
            else:
                products = kernel.product(rows, block, way.dtype, transpose_second=True)
            slopes = slopes_of(subs)(products, inverse, classes, labels, scale, terms, log_sum, *upstream)
            by_block = kernel.product(slopes, rows, way.dtype, transpose_first=True)
            if way.normalized:
                by_block = tangential(by_block, block, inverse)
            part = ops.reshape(by_block, (way.shards, size * subs, dim))
            by_centers = kernel.write(by_centers, start * subs, part)
            return by_rows + product_by_shard(slopes, block), by_centers

        carry = ops.zeros((way.shards, *ops.shape(rows))), kernel.empty((way.shards, shard * subs, dim), rows)
        by_rows, by_centers = over_blocks(centers, add, carry)
        return ops.sum(by_rows, axis=0), ops.reshape(by_centers, centers.shape)

    return kernel.compiled(forward, way.dtype), kernel.compiled(backward, way.dtype)
