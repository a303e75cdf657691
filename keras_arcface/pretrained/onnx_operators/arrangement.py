"""Operators that rearrange, select or repeat the values of tensors."""

import math

import numpy as np
from keras import ops

from keras_arcface.pretrained.onnx_operators.builder import Node
from keras_arcface.pretrained.onnx_operators.builder import Value
from keras_arcface.pretrained.onnx_operators.constants import slices
from keras_arcface.pretrained.onnx_operators.constants import split_sizes
from keras_arcface.pretrained.onnx_operators.values import BATCH
from keras_arcface.pretrained.onnx_operators.values import Symbol
from keras_arcface.pretrained.onnx_operators.values import describe
from keras_arcface.pretrained.onnx_operators.values import reshaped
from keras_arcface.pretrained.weights import UnsupportedFileError

_HALF_PIXEL = (b"half_pixel", b"pytorch_half_pixel", b"half_pixel_symmetric")  # equal for whole factors
_ROUNDINGS = {
    b"floor": np.floor,
    b"ceil": np.ceil,
    b"round_prefer_floor": lambda positions: np.ceil(positions - 0.5),
    b"round_prefer_ceil": lambda positions: np.floor(positions + 0.5),
}


def identity(node: Node, x: Value, *_: Value) -> Symbol:
    """Returns the values."""
    return node.symbol(x)


def cast(node: Node, x: Value) -> Symbol:
    """Returns the values, which keep the type of the model."""
    if node.attribute("to", 1) not in (1, 10, 11, 16):
        raise UnsupportedFileError(f"expected real numbers. Received: a conversion to type {node.attribute('to', 1)}")
    return node.symbol(x)


def reshape(node: Node, x: Value, shape: Value) -> Symbol:
    """Changes the shape."""
    target = tuple(int(side) for side in node.constant(shape, "shape").ravel())
    x = node.symbol(x)
    return _reshape(x, reshaped(x.shape, target, bool(node.attribute("allowzero", 0))))


def flatten(node: Node, x: Value) -> Symbol:
    """Joins axes to two."""
    x, axis = node.symbol(x), node.attribute("axis", 1)
    axis += x.rank if axis < 0 else 0
    return _reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(x, shape):
    """Changes the shape to one with `BATCH` for the size of a batch."""
    if x.shape == shape:
        return x
    if not (x.channels_last and x.shape[2:] == (1, 1)):  # one pixel is in order
        x = x.in_order()
    multiple = max((side // BATCH for side in shape if side % BATCH == 0), default=1)
    return Symbol(ops.reshape(x.tensor, tuple(side if side % BATCH else -1 for side in shape)), multiple)


def squeeze(node: Node, x: Value, axes: Value | None = None) -> Symbol:
    """Removes axes of size 1."""
    x = node.symbol(x)
    axes = node.integers("axes", axes)
    axes = [axis for axis, side in enumerate(x.shape) if side == 1] if axes is None else axes
    removed = {axis % x.rank for axis in axes}
    if any(x.shape[axis] != 1 for axis in removed):
        raise UnsupportedFileError(f"expected axes of size 1 of {describe(x.shape)}. Received: axes {axes[:10]}")
    return _reshape(x, tuple(side for axis, side in enumerate(x.shape) if axis not in removed))


def unsqueeze(node: Node, x: Value, axes: Value | None = None) -> Symbol:
    """Inserts axes of size 1."""
    x = node.symbol(x).in_order()
    axes = node.integers("axes", axes, [])
    rank = x.rank + len(axes)
    inserted, sides = {axis % rank for axis in axes}, iter(x.shape)
    return _reshape(x, tuple(1 if axis in inserted else next(sides) for axis in range(rank)))


def transpose(node: Node, x: Value) -> Symbol:
    """Permutes axes."""
    x = node.symbol(x)
    return x.transposed(tuple(node.attribute("perm", list(range(x.rank))[::-1])))


def concat(node: Node, *values: Value) -> Symbol:
    """Joins tensors at an axis."""
    axis = node.attribute("axis", 0)
    moved = any(isinstance(value, Symbol) and value.channels_last for value in values)
    symbols = [node.symbol(value, index, moved) for index, value in enumerate(values)]
    symbols = [symbol.with_channels_last() if moved else symbol.in_order() for symbol in symbols]
    first = next((symbol for symbol in symbols if None in symbol.tensor.shape), symbols[0])
    if any(symbol.has_batch(axis) for symbol in symbols):
        raise UnsupportedFileError(f"expected an axis other than that of the batch. Received: axis={axis}")
    for index, symbol in enumerate(symbols):  # a class token is a constant for all images
        for place in range(first.rank):
            if first.has_batch(place) and symbol.shape[place] == 1 and first.multiple == 1:
                symbols[index] = node.builder.with_batch(symbol, place)
    tensor = ops.concatenate([symbol.tensor for symbol in symbols], axis=first.axis(axis))
    return first.replaced(tensor)


def split(node: Node, x: Value, sizes: Value | None = None) -> list[Symbol]:
    """Divides an axis into parts."""
    x = node.symbol(x)
    axis = node.attribute("axis", 0)
    _expect_other_axes(x, [axis])
    ends = np.cumsum(split_sizes(node, x.shape[axis], sizes))[:-1].tolist()
    return [x.replaced(part) for part in ops.split(x.tensor, ends, axis=x.axis(axis))]


def slice_(
    node: Node, x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Symbol:
    """Selects ranges of axes."""
    x = node.symbol(x)
    ranges = slices(node, x.shape, starts, ends, axes, steps)
    _expect_other_axes(x, ranges)
    if not ranges:
        return x
    key = [slice(None)] * x.rank
    for axis, bounds in ranges.items():
        key[x.axis(axis)] = slice(*bounds)
    return x.replaced(x.tensor[tuple(key)])


def gather(node: Node, x: Value, indices: Value) -> Symbol:
    """Selects indices of an axis."""
    x = node.symbol(x).in_order()
    axis = x.axis(node.attribute("axis", 0))
    _expect_other_axes(x, [axis])
    indices = node.constant(indices, "indices").astype(np.int64)
    side = x.shape[axis]
    if indices.size == 0 or indices.min() < -side or indices.max() >= side or indices.ndim > 1:
        raise UnsupportedFileError(f"expected indices of an axis of {side}. Received: indices {indices.ravel()[:10]}")
    return x.replaced(ops.take(x.tensor, (indices % side).tolist(), axis=axis))


def expand(node: Node, x: Value, shape: Value) -> Symbol:
    """Repeats axes of size 1."""
    x = node.symbol(x)
    target = np.broadcast_shapes(x.shape, tuple(int(side) for side in node.constant(shape, "shape").ravel()))
    x = x.in_order()
    x = _reshape(x, (1,) * (len(target) - x.rank) + x.shape)
    repeats = [1] * len(target)
    for axis, (old, new) in enumerate(zip(x.shape, target, strict=True)):
        if old != new and new == BATCH:
            x = node.builder.with_batch(x, axis)
        elif old != new:
            repeats[axis] = new
    return _repeated(x, repeats)


def tile(node: Node, x: Value, repeats: Value) -> Symbol:
    """Repeats tensors along axes."""
    x = node.symbol(x).in_order()
    return _repeated(x, [int(count) for count in node.constant(repeats, "repeats").ravel()])


def _repeated(x, repeats):
    _expect_other_axes(x, [axis for axis, count in enumerate(repeats) if count != 1])
    if math.prod(x.shape) * math.prod(repeats) % BATCH == 0 and any(count % BATCH == 0 for count in repeats):
        raise UnsupportedFileError(f"expected repetitions for each image alone. Received: {describe(tuple(repeats))}")
    return x if set(repeats) <= {1} else x.replaced(ops.tile(x.tensor, repeats))


def pad(node: Node, x: Value, pads: Value = None, value: Value = None, axes: Value = None) -> Symbol:
    """Adds values around tensors."""
    x = node.symbol(x)
    pads = node.integers("pads", pads)
    axes = list(range(x.rank)) if axes is None else node.integers("axes", axes)
    if len(pads) != 2 * len(axes) or min(pads) < 0:
        raise UnsupportedFileError(f"expected two pads per axis that are not negative. Received: pads={pads[:10]}")
    widths = [(0, 0)] * x.rank
    for axis, width in zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True):
        if any(width):
            _expect_other_axes(x, [axis])
            widths[x.axis(axis)] = width
    mode = node.attribute("mode", b"constant")
    if mode == b"reflect":
        return x.replaced(ops.pad(x.tensor, widths, mode="reflect"))
    if mode != b"constant":
        raise UnsupportedFileError(f"expected mode constant or reflect. Received: mode={mode[:20]}")
    number = node.attribute("value", 0.0) if value is None else node.constant(value, "value").item()
    return x.replaced(ops.pad(x.tensor, widths, constant_values=number))


def resize(node: Node, x: Value, *values: Value | None) -> Symbol:
    """Enlarges feature maps by a whole number, by the nearest pixel or linearly."""
    x = node.symbol(x).with_channels_last()
    mode = node.attribute("mode", b"nearest")
    is_old = node.builder.graph.opset < 11
    transform = node.attribute("coordinate_transformation_mode", b"asymmetric" if is_old else b"half_pixel")
    known = {b"nearest": (*_HALF_PIXEL, b"asymmetric"), b"linear": _HALF_PIXEL}
    if transform not in known.get(mode, ()):
        raise UnsupportedFileError(
            f"expected mode nearest or linear with half_pixel, or nearest with asymmetric. "
            f"Received: {mode[:20]} with {transform[:20]}"
        )
    if len(values) < 3:  # scales alone are input 1 in old files, and input 2 in new ones
        factors = node.constant(values[-1], "scales").tolist()
    else:
        factors = [new / old for new, old in zip(node.constant(values[2], "sizes"), x.shape, strict=True)]
    rows, columns = (int(factor) for factor in factors[2:])
    if factors[1:] != [1, rows, columns] or min(rows, columns) < 1:
        raise UnsupportedFileError(f"expected height and width times whole numbers. Received: {factors[:5]}")
    if mode == b"linear":
        size = x.shape[2] * rows, x.shape[3] * columns
        return x.replaced(ops.image.resize(x.tensor, size, interpolation="bilinear", data_format="channels_last"))
    rounding = node.attribute("nearest_mode", b"floor" if is_old else b"round_prefer_floor")
    if not all(_repeats_pixels(factor, transform, rounding) for factor in (rows, columns)):
        raise UnsupportedFileError(
            f"expected each pixel {rows} x {columns} times. Received: {transform[:20]} with {rounding[:20]}"
        )
    return x.replaced(ops.repeat(ops.repeat(x.tensor, rows, axis=1), columns, axis=2))


def _repeats_pixels(factor, transform, rounding):
    """Returns whether the nearest pixel of each new pixel is the one in whose place it is."""
    offset = 0.5 if transform in _HALF_PIXEL else 0.0
    positions = (np.arange(factor) + offset) / factor - offset  # of the new pixels in the place of pixel 0
    return rounding in _ROUNDINGS and not np.any(_ROUNDINGS[rounding](positions))


def _expect_other_axes(x, axes):
    if any(x.has_batch(axis) for axis in axes):
        raise UnsupportedFileError(
            f"expected an operator on each image alone. Received: one on the batch of {describe(x.shape)}"
        )
