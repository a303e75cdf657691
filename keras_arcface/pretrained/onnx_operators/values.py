"""Values of the tensors of an ONNX graph during its conversion: Keras tensors and NumPy arrays."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_arcface.pretrained.weights import UnsupportedFileError

# Stands for the size of a batch in shapes. A prime above every size of an axis: the axes that depend on the batch are
# those whose size is a multiple of it, also after the graph has computed with the shape.
BATCH = 1_000_003

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Symbol(NamedTuple):
    """Tensor of a graph that depends on the images or on weights.

    Axes are those of the ONNX graph, in which channels come first, unless a method says otherwise. Layers of Keras keep
    feature maps with channels last, and the order is changed where the graph needs it.

    Attributes:
        tensor: `KerasTensor` with at most one axis of unknown size.
        multiple: size of the unknown axis in images. It is above 1 if another axis was merged into the batch.
        channels_last: whether the four axes of the tensor are in the order 0, 2, 3, 1 of those of the graph.
    """

    tensor: Any
    multiple: int = 1
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the graph, with `BATCH` as the size of a batch."""
        shape = tuple(BATCH * self.multiple if side is None else side for side in self.tensor.shape)
        return tuple(shape[axis] for axis in _TO_FIRST) if self.channels_last else shape

    @property
    def rank(self) -> int:
        return len(self.tensor.shape)

    def axis(self, axis: int) -> int:
        """Returns the axis of `tensor` for an axis of the graph, which may be negative."""
        if not -self.rank <= axis < self.rank:
            raise UnsupportedFileError(f"expected an axis of shape {describe(self.shape)}. Received: axis={axis}")
        axis %= self.rank
        return _TO_LAST.index(axis) if self.channels_last else axis

    def has_batch(self, axis: int) -> bool:
        """Returns whether the size of an axis of the graph depends on the batch."""
        return self.tensor.shape[self.axis(axis)] is None

    def in_order(self) -> "Symbol":
        """Returns the value with the axes of the tensor in the order of the graph."""
        if not self.channels_last:
            return self
        return Symbol(ops.transpose(self.tensor, _TO_FIRST), self.multiple)

    def with_channels_last(self) -> "Symbol":
        """Returns the value with the channels of the tensor last. The value must have four axes."""
        if self.rank != 4:
            raise UnsupportedFileError(f"expected images or feature maps. Received: shape {describe(self.shape)}")
        if self.channels_last:
            return self
        return Symbol(ops.transpose(self.tensor, _TO_LAST), self.multiple, True)

    def replaced(self, tensor: Any) -> "Symbol":
        """Returns a value with the same order of axes and batch, and another tensor."""
        return self._replace(tensor=tensor)

    def transposed(self, permutation: tuple[int, ...]) -> "Symbol":
        """Returns the value with permuted axes. The order of channels alone does not move data."""
        if self.channels_last and permutation == _TO_LAST:
            return Symbol(self.tensor, self.multiple)
        if not self.channels_last and permutation == _TO_FIRST:
            return Symbol(self.tensor, self.multiple, True)
        return Symbol(ops.transpose(self.in_order().tensor, permutation), self.multiple)


def channels_last(array: np.ndarray) -> np.ndarray:
    """Returns an array that is broadcast to four axes in the order of a tensor with channels last."""
    return array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(_TO_LAST)


def describe(shape: tuple[int, ...]) -> str:
    """Returns a shape as text, with n for the size of a batch."""
    sides = [str(side) if side % BATCH else "n" if side == BATCH else f"{side // BATCH}n" for side in shape]
    return f"({', '.join(sides[:10])})"


def reshaped(shape: tuple[int, ...], target: tuple[int, ...], keeps_zeros: bool = False) -> tuple[int, ...]:
    """Returns the shape that results from a Reshape, with the size of a batch inserted where the graph omits it.

    A graph that was exported for one image contains shapes such as `(1, 512)`, or `(1, -1)`. One for any batch contains
    `(-1, 512)`, or computes the shape.

    Args:
        shape: shape of the tensor, with `BATCH` for the size of a batch.
        target: shape in the graph, which may contain 0 (keeps the size) and -1 (to be inferred).
        keeps_zeros: whether 0 is a size.

    Raises:
        UnsupportedFileError: if the shapes have different numbers of values, or the axis of the batch is not unique.

    Examples:
        >>> reshaped((BATCH, 8, 7, 7), (1, -1)) == (BATCH, 392)
        True
    """
    error = UnsupportedFileError(
        f"expected a shape for the values of {describe(shape)}, with one axis that can be that of the batch. Received: "
        f"{describe(target)}; a graph that is exported with a batch of variable size may state it"
    )
    if not keeps_zeros:
        if any(side == 0 and index >= len(shape) for index, side in enumerate(target)):
            raise error
        target = tuple(shape[index] if side == 0 else side for index, side in enumerate(target))
    total, given = math.prod(shape), math.prod(side for side in target if side != -1)
    states_batch = given % BATCH == 0
    if not states_batch and total % BATCH == 0:
        total //= BATCH
    if given <= 0 or total % given or target.count(-1) > 1 or (-1 not in target and total != given):
        raise error
    inferred = target.index(-1) if -1 in target else None
    resolved = tuple(total // given if side == -1 else side for side in target)
    if states_batch or math.prod(shape) % BATCH:
        return resolved
    index = _batch_axis(shape, resolved, inferred)
    if index is None:
        raise error
    return tuple(side * BATCH if axis == index else side for axis, side in enumerate(resolved))


def _batch_axis(shape, target, inferred):
    """Returns the axis of a shape for one image that has to be that of the batch, or None if it is not unique."""
    axis = next(axis for axis, side in enumerate(shape) if side % BATCH == 0)
    stride = math.prod(shape[axis:]) // BATCH  # the number of values from an image to the next
    sizes = [math.prod(target[axis:]) for axis in range(len(target) + 1)]
    candidates = [axis for axis in range(len(target)) if stride in sizes[axis : axis + 2]]
    single = [axis for axis in candidates if sizes[axis] == sizes[axis + 1]]
    if single:
        return single[0]
    if target and sizes[0] == stride:
        return 0
    if inferred in candidates:
        return inferred
    return candidates[0] if len(candidates) == 1 else None
