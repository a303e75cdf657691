"""Operators on constants, most of which compute with shapes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_arcface.pretrained import onnx_constants
from keras_arcface.pretrained.onnx_operators.builder import Node
from keras_arcface.pretrained.onnx_operators.values import BATCH
from keras_arcface.pretrained.onnx_operators.values import describe
from keras_arcface.pretrained.weights import UnsupportedFileError

_MAX_RANK = 8


def evaluate(node: Node, inputs: list[np.ndarray | None]) -> np.ndarray | list[np.ndarray]:
    """Returns the output of an operator of `CONSTANTS` on constants."""
    for array in inputs:
        if array is not None and array.ndim > _MAX_RANK:
            raise UnsupportedFileError(f"expected constants of at most {_MAX_RANK} axes. Received: {array.ndim} axes")
    operator = node.proto.op_type
    if operator in onnx_constants.EVALUATED:
        result = onnx_constants.EVALUATED[operator](node.attribute, *inputs)
        node.builder.spend(result.shape)
        return result
    return CONSTANTS[operator](node, *inputs)


def _elementwise(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def compute(node, *arrays):
        node.builder.spend(np.broadcast_shapes(*(array.shape for array in arrays)))
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))

    return compute


def _divide(x, y):
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        return np.floor_divide(x, y)
    return np.divide(x, y)


def _constant_of_shape(node, shape):
    value = node.attribute("value", None)
    value = np.zeros(1, np.float32) if value is None else onnx_constants.to_array(value)
    return _filled(node, value.ravel()[0], _without_batch(shape))


def _filled(node, value, shape):
    node.builder.spend(shape)
    return np.full(shape, value)


def _without_batch(shape):
    """Returns a shape with 1 for the size of a batch, to which the result is broadcast where it is used."""
    shape = tuple(1 if int(side) == BATCH else int(side) for side in shape.ravel())
    if any(side < 0 or side >= BATCH for side in shape) or len(shape) > _MAX_RANK:
        raise UnsupportedFileError(
            f"expected a shape of at most {_MAX_RANK} axes below {BATCH}. Received: {describe(shape)}"
        )
    return shape


def _expand(node, x, shape):
    shape = np.broadcast_shapes(x.shape, _without_batch(shape))
    node.builder.spend(shape)
    return np.broadcast_to(x, shape).copy()


def _gather(node, x, indices):
    axis = node.attribute("axis", 0)
    node.builder.spend((x.size // max(x.shape[axis], 1), indices.size))
    return np.take(x, indices.astype(np.int64), axis)


def _concat(node, *arrays):
    node.builder.spend((sum(array.size for array in arrays),))
    return np.concatenate(arrays, node.attribute("axis", 0))


def _range(node, start, limit, delta):
    count = max(float(np.ceil((limit - start).item() / delta.item())), 0.0)
    node.builder.spend((int(count),))
    return start + np.arange(int(count)).astype(start.dtype) * delta


def _slice(node, x, starts=None, ends=None, axes=None, steps=None):
    key = slices(node, x.shape, starts, ends, axes, steps)
    return x[tuple(slice(*key.get(axis, (None, None, None))) for axis in range(x.ndim))]


def slices(node: Node, shape: tuple[int, ...], starts: Any, ends: Any, axes: Any, steps: Any) -> dict[int, tuple]:
    """Returns the start, end and step of the axes that a Slice changes."""
    starts, ends = node.integers("starts", starts), node.integers("ends", ends)
    axes = node.integers("axes", axes, list(range(len(starts))))
    steps = [1] * len(starts) if steps is None else node.integers("steps", steps)
    result = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        side = shape[axis]
        start, end = (value + side if value < 0 else value for value in (start, end))
        if step > 0:
            start, end = min(max(start, 0), side), min(max(end, 0), side)
        else:
            start, end = min(max(start, 0), side - 1), min(max(end, -1), side - 1)
        if (start, end, step) != (0, side, 1):
            result[axis % len(shape)] = (start, None if end < 0 else end, step)
    return result


def _split(node, x, sizes=None):
    axis = node.attribute("axis", 0)
    return np.split(x, np.cumsum(split_sizes(node, x.shape[axis], sizes))[:-1], axis)


def split_sizes(node: Node, side: int, sizes: Any) -> list[int]:
    """Returns the sizes of the parts of an axis after a Split."""
    sizes = node.integers("split", sizes)
    if sizes is None:
        count = len(node.proto.output)
        part = -(-side // count)
        sizes = [part] * (count - 1) + [side - part * (count - 1)]
    if sum(sizes) != side or min(sizes) < 1 or len(sizes) != len(node.proto.output):
        raise UnsupportedFileError(
            f"expected {len(node.proto.output)} parts of an axis of {side}. Received: parts of {sizes[:10]}"
        )
    return sizes


def _reduce(function):
    def compute(node, x, axes=None):
        axes = node.integers("axes", axes)
        node.builder.spend(x.shape)
        return np.asarray(
            function(x, axis=None if axes is None else tuple(axes), keepdims=node.attribute("keepdims", 1))
        )

    return compute


# Operators on constants, in addition to those that rearrange, cast or dequantize them.
CONSTANTS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(onnx_constants.EVALUATED, evaluate),
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _elementwise(np.cos),
    "Div": _elementwise(_divide),
    "Dropout": lambda _node, x, *_: x,
    "Equal": _elementwise(np.equal),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "Less": _elementwise(np.less),
    "Log": _elementwise(np.log),
    "Max": _elementwise(lambda *arrays: np.max(np.broadcast_arrays(*arrays), axis=0)),
    "Min": _elementwise(lambda *arrays: np.min(np.broadcast_arrays(*arrays), axis=0)),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(np.power),
    "Range": _range,
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceMean": _reduce(np.mean),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Shape": lambda node, x: _shape(node, x.shape),
    "Sin": _elementwise(np.sin),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _elementwise(np.sqrt),
    "Sub": _elementwise(np.subtract),
    "Where": _elementwise(np.where),
}


def _shape(node, shape):
    return np.asarray(shape[node.attribute("start", 0) : node.attribute("end", None)], np.int64)


def shape_of(node: Node, x: Any) -> np.ndarray:
    """Returns the shape of a tensor, with `BATCH` for the size of a batch."""
    return _shape(node, x.shape)
