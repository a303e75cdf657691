"""Constants of an ONNX file: its stored tensors, and operators that rearrange, cast or dequantize them.

The result of an operator never has more values than its inputs, so that a small file cannot allocate much memory.
"""

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._messages import short
from keras_arcface.pretrained.weights import UnsupportedFileError


def load_external_data(tensors: Iterable, folder: Path) -> int:
    """Reads the values of tensors that are stored in other files in the folder of the ONNX file.

    Args:
        tensors: protocol buffers, which receive the values.
        folder: folder of the ONNX file.

    Returns:
        The size of the other files in bytes.

    Raises:
        UnsupportedFileError: if a file is outside of the folder or not a regular file, or if the tensors together are
            larger than the files.
    """
    sizes: dict[str, int] = {}
    total = 0
    for tensor in tensors:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if Path(name).name != name or not (folder / name).is_file():
            raise UnsupportedFileError(
                f"expected external data in a file next to the ONNX file. Received: location={short(name)}"
            )
        sizes.setdefault(name, (folder / name).stat().st_size)
        offset = int(entries.get("offset", "0")[:20])
        length = int(entries["length"][:20]) if "length" in entries else sizes[name] - offset
        total += length
        if min(offset, length) < 0 or offset + length > sizes[name] or total > sum(sizes.values()):
            raise UnsupportedFileError(
                f"expected external data within the {sizes[name]} bytes of {short(name)}. "
                f"Received: {length} bytes at {offset} for {short(tensor.name)}, {total} bytes of all tensors"
            )
        with (folder / name).open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]
    return sum(sizes.values())


def to_array(tensor: Any) -> np.ndarray:
    """Returns the values of a stored tensor, or of a Constant node.

    Raises:
        UnsupportedFileError: if they are in another file or not real numbers.
        Exception: of many types if the shape does not match the values.
    """
    from onnx import numpy_helper

    if isinstance(tensor, int | float | Sequence):
        return _check_numbers(np.asarray(tensor))
    if tensor.data_location == tensor.EXTERNAL:
        raise UnsupportedFileError(f"expected a stored tensor. Received: external data of {short(tensor.name)}")
    return _check_numbers(numpy_helper.to_array(tensor))


def evaluate(node: Any, inputs: list[np.ndarray], attribute: Callable[[str, Any], Any]) -> np.ndarray:
    """Returns the output of an operator in `EVALUATED`.

    Args:
        node: node of the graph.
        inputs: values of its inputs.
        attribute: function from the name of an attribute and a default value to its value.

    Raises:
        UnsupportedFileError: if the output is larger than the inputs.
        Exception: of many types if the inputs do not fit to each other.
    """
    return EVALUATED[node.op_type](attribute, *inputs)


def _constant(attribute, *_):
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = attribute(name, None)
        if value is not None:
            return to_array(value)
    raise UnsupportedFileError("expected numbers. Received: a constant of another type")


def _cast(attribute, x, *_):
    from onnx import helper

    return _check_numbers(x.astype(helper.tensor_dtype_to_np_dtype(attribute("to", 0))))


def _reshape(attribute, x, shape, *_):
    keeps_zeros = attribute("allowzero", 0)
    return x.reshape([x.shape[axis] if side == 0 and not keeps_zeros else side for axis, side in enumerate(shape)])


def _flatten(attribute, x, *_):
    axis = attribute("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(attribute, x, axes=None, *_):
    axes = attribute("axes", None) if axes is None else axes
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


def _unsqueeze(attribute, x, axes=None, *_):
    axes = attribute("axes", None) if axes is None else axes
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


def _transpose(attribute, x, *_):
    return np.transpose(x, attribute("perm", None))


def _dequantize(attribute, x, scale, zero=None, *_):
    axis, block = attribute("axis", 1), attribute("block_size", 0)
    offsets = np.zeros_like(scale) if zero is None else zero
    if block:  # blocks of an axis have their own scales
        side = x.shape[axis]
        expected = [-(-length // block) if index == axis % x.ndim else length for index, length in enumerate(x.shape)]
        _check_scales(x, scale, offsets, [tuple(expected)] if block > 0 else [])
        scale, offsets = (np.repeat(array, block, axis).take(range(side), axis) for array in (scale, offsets))
    else:
        _check_scales(x, scale, offsets, [()] if scale.size == 1 else [(x.shape[axis],)])
        if scale.size != 1:
            others = [index for index in range(x.ndim) if index != axis % x.ndim]
            scale, offsets = np.expand_dims(scale, others), np.expand_dims(offsets, others)
    return (x.astype(np.float32) - offsets.astype(np.float32)) * scale.astype(np.float32)


def _check_scales(x, scale, offsets, expected):
    if scale.shape not in expected or offsets.shape != scale.shape:
        raise UnsupportedFileError(
            f"expected one scale and zero point, or one for each index or block of an axis of {x.shape}. "
            f"Received: shapes {scale.shape} and {offsets.shape}"
        )


EVALUATED: dict[str, Callable[..., np.ndarray]] = {
    "Constant": _constant,
    "Identity": lambda attribute, x, *_: x,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "DequantizeLinear": _dequantize,
}


def _check_numbers(array: np.ndarray) -> np.ndarray:
    # The number types that NumPy lacks, such as bfloat16, have the kind V.
    if array.dtype.kind not in "fiubV":
        raise UnsupportedFileError(f"expected real numbers. Received: {array.dtype}")
    return array
