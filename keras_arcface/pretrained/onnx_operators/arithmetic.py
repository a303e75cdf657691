"""Operators that compute with the values of tensors, without weights of their own."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_arcface.pretrained.onnx_operators.builder import Node
from keras_arcface.pretrained.onnx_operators.builder import Value
from keras_arcface.pretrained.onnx_operators.values import Symbol
from keras_arcface.pretrained.onnx_operators.values import describe
from keras_arcface.pretrained.weights import UnsupportedFileError


def elementwise(function: Callable[[Any], Any]) -> Callable[..., Symbol]:
    """Returns the converter of a function of each value."""

    def convert(node: Node, x: Value) -> Symbol:
        x = node.symbol(x)
        return x.replaced(function(x.tensor))

    return convert


def binary(function: Callable[[Any, Any], Any]) -> Callable[..., Symbol]:
    """Returns the converter of a function of two or more tensors, which are broadcast."""

    def convert(node: Node, *values: Value) -> Symbol:
        return functools.reduce(functools.partial(_combine, node, function), enumerate(values))[1]

    return convert


def _combine(node, function, first, second):
    """Returns an index and the value of a function of two values, each with the index of its input."""
    (index, x), (other, y) = first, second
    if not isinstance(x, Symbol) and not isinstance(y, Symbol):
        x = node.symbol(x, index)
    symbols = [value for value in (x, y) if isinstance(value, Symbol)]
    np.broadcast_shapes(x.shape, y.shape)  # raises a ValueError, also for a batch and another axis
    if any(symbol.channels_last for symbol in symbols) and all(symbol.rank == 4 for symbol in symbols):
        symbols = [symbol.with_channels_last() for symbol in symbols]
    else:
        symbols = [symbol.in_order() for symbol in symbols]
    remaining, reference = iter(symbols), symbols[0]
    x, y = (
        next(remaining) if isinstance(value, Symbol) else _operand(node, value, reference, position)
        for position, value in ((index, x), (other, y))
    )
    tensors = [value.tensor if isinstance(value, Symbol) else value for value in (x, y)]
    multiple = max([symbol.multiple for symbol in symbols if None in symbol.tensor.shape], default=1)
    return other, Symbol(function(*tensors), multiple, reference.channels_last)


def _operand(node, array, reference, index):
    """Returns a constant as a number, or as a tensor with the axes of a reference."""
    if array.size == 1 and array.ndim <= reference.rank:
        return array.item()
    return node.symbol(array, index, moved=reference.channels_last and array.ndim <= 4)


def power(node: Node, x: Value, exponent: Value) -> Symbol:
    """Raises to a constant power."""
    x = node.symbol(x)
    if not isinstance(exponent, np.ndarray) or exponent.size != 1:
        raise UnsupportedFileError("expected one number as the exponent. Received: a tensor")
    number = exponent.item()
    functions = {2: ops.square, 0.5: ops.sqrt, 1: lambda tensor: tensor}
    return x.replaced(functions.get(number, lambda tensor: ops.power(tensor, number))(x.tensor))


def clip(node: Node, x: Value, low: Value | None = None, high: Value | None = None) -> Symbol:
    """Limits values."""
    x = node.symbol(x)
    bounds = []
    for name, bound in (("min", low), ("max", high)):
        bound = node.attribute(name, None) if bound is None else node.constant(bound, name).item()
        # A limit that float32 cannot exceed is the default of old files.
        bounds.append(None if bound is None or abs(bound) >= np.finfo(np.float32).max else bound)
    low, high = bounds
    tensor = x.tensor
    if low is not None and high is not None:
        tensor = ops.clip(tensor, low, high)
    elif low is not None:
        tensor = ops.maximum(tensor, low)
    elif high is not None:
        tensor = ops.minimum(tensor, high)
    return x.replaced(tensor)


def hard_sigmoid(node: Node, x: Value) -> Symbol:
    """Limits a linear function to [0, 1]."""
    x = node.symbol(x)
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return x.replaced(ops.clip(x.tensor * alpha + beta, 0.0, 1.0))


def leaky_relu(node: Node, x: Value) -> Symbol:
    """Multiplies negative values by a number."""
    x = node.symbol(x)
    return x.replaced(ops.leaky_relu(x.tensor, negative_slope=node.attribute("alpha", 0.01)))


def elu(node: Node, x: Value) -> Symbol:
    """Applies an exponential function to negative values."""
    x = node.symbol(x)
    return x.replaced(ops.elu(x.tensor, alpha=node.attribute("alpha", 1.0)))


def gelu(node: Node, x: Value) -> Symbol:
    """Multiplies values by the normal distribution function."""
    x = node.symbol(x)
    return x.replaced(ops.gelu(x.tensor, approximate=node.attribute("approximate", b"none") == b"tanh"))


def softmax(node: Node, x: Value) -> Symbol:
    """Normalizes the exponentials of an axis to the sum 1."""
    x = node.symbol(x)
    is_old = node.builder.graph.opset < 13
    axis = node.attribute("axis", 1 if is_old else -1)
    _expect_no_batch(x, [axis])
    if is_old and math.prod(x.shape[axis % x.rank + 1 :]) != 1:  # an old Softmax joins the axes that follow
        raise UnsupportedFileError(f"expected the last axis of {describe(x.shape)}. Received: axis={axis}")
    return x.replaced(ops.softmax(x.tensor, axis=x.axis(axis)))


def reduction(function: Callable[..., Any]) -> Callable[..., Symbol]:
    """Returns the converter of a function that joins the values of some axes."""

    def convert(node: Node, x: Value, axes: Value | None = None) -> Symbol:
        x = node.symbol(x)
        axes = node.integers("axes", axes)
        if not axes:
            if node.attribute("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.rank))
        return reduced(x, function, axes, node.attribute("keepdims", 1))

    return convert


def reduced(x: Symbol, function: Callable[..., Any], axes: list[int], keepdims: int) -> Symbol:
    """Joins the values of some axes."""
    _expect_no_batch(x, axes)
    if not keepdims and {axis % x.rank for axis in axes} != {2, 3}:
        x = x.in_order()  # without height and width, batch and channels are in order
    tensor = function(x.tensor, axis=tuple(x.axis(axis) for axis in axes), keepdims=bool(keepdims))
    return Symbol(tensor, x.multiple, x.channels_last and bool(keepdims))


def _expect_no_batch(x, axes):
    if any(x.has_batch(axis) for axis in axes):
        raise UnsupportedFileError(
            f"expected an operator on each image alone. Received: axes {axes[:10]} of {describe(x.shape)}"
        )


def global_pool(function: Callable[..., Any]) -> Callable[..., Symbol]:
    """Returns the converter of a function that joins all pixels."""

    def convert(node: Node, x: Value) -> Symbol:
        x = node.symbol(x)
        return reduced(x, function, list(range(2, x.rank)), keepdims=1)

    return convert


def norm(order: int) -> Callable[..., Any]:
    """Returns a function that computes the L1 or L2 norm of axes."""

    def compute(tensor: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
        if order == 1:
            return ops.sum(ops.abs(tensor), axis=axis, keepdims=keepdims)
        return ops.sqrt(ops.sum(ops.square(tensor), axis=axis, keepdims=keepdims))

    return compute


def lp_normalization(node: Node, x: Value) -> Symbol:
    """Divides the values of an axis by their norm."""
    x = node.symbol(x)
    order = node.attribute("p", 2)
    if order not in (1, 2):
        raise UnsupportedFileError(f"expected p=1 or p=2. Received: p={order}")
    length = reduced(x, norm(order), [node.attribute("axis", -1)], keepdims=1)
    return x.replaced(ops.divide(x.tensor, length.tensor))
