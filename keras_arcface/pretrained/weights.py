"""Arrays of a weights file of any format, with the names of arcface_torch."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# A stored value has at least 4 bits (int4 in ONNX files), and becomes float32.
_MAX_EXPANSION = 8


class UnsupportedFileError(ValueError):
    """Error for a file without a supported network. Callers must add the name of the file to the message."""


class Weight(NamedTuple):
    """Array of a weights file.

    Attributes:
        array: values of the weight.
        origin: key or node of the array in the file, for error messages.
    """

    array: np.ndarray
    origin: str


class Weights:
    """Mapping of names to float32 arrays, from which each array is removed once, with a check of its shape.

    Args:
        file_size: size of the file in bytes, which limits the size of all arrays together.

    Attributes:
        input_size: `(height, width)` of the images, or None if the file does not contain it.
    """

    def __init__(self, file_size: int):
        self._remaining: dict[str, Weight] = {}
        self._file_size = file_size
        self._free = _MAX_EXPANSION * file_size
        self.input_size: tuple[int, int] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._remaining

    def __iter__(self) -> Iterator[str]:
        return iter(self._remaining)

    def __len__(self) -> int:
        return len(self._remaining)

    def add(self, name: str, array: np.ndarray, origin: str) -> None:
        """Adds an array.

        Args:
            name: name of the array in arcface_torch, such as `layer1.0.conv1.weight`.
            array: numbers of any type.
            origin: key or node of the array in the file, for error messages.

        Raises:
            UnsupportedFileError: if the array is empty, if a value is not finite in float32, or if all arrays together
                are larger than the file can contain, for example because many names refer to the same values.
        """
        if array.size == 0:
            raise UnsupportedFileError(f"expected arrays that are not empty. Received: {origin} with {_shape(array)}")
        self._free -= 4 * array.size
        if self._free < 0:
            raise UnsupportedFileError(
                f"expected arrays of at most {_MAX_EXPANSION} times the size of the file, {self._file_size} bytes. "
                f"Received: more up to {origin} with {_shape(array)}"
            )
        with np.errstate(over="ignore"):
            array = np.asarray(array, np.float32)
        if not np.isfinite(array).all():
            raise UnsupportedFileError(f"expected finite numbers in float32. Received: NaN or infinity in {origin}")
        self._remaining[name] = Weight(array, origin)

    def rename(self, new_name: Callable[[str], str | None]) -> None:
        """Renames all arrays. Messages still refer to their key or node in the file.

        Args:
            new_name: function from a name to the new name, or None to drop the array.
        """
        renamed = ((new_name(name), weight) for name, weight in self._remaining.items())
        self._remaining = {name: weight for name, weight in renamed if name is not None}

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Returns the shape of an array without removing it.

        Args:
            name: name of the array in arcface_torch.
            rank: expected number of axes.

        Raises:
            UnsupportedFileError: if the array does not exist or has another number of axes.
        """
        weight = self._find(name, f"{rank} axes")
        if weight.array.ndim != rank:
            raise UnsupportedFileError(f"expected {name} with {rank} axes. Received: {_describe(weight)}")
        return weight.array.shape

    def rank(self, name: str) -> int:
        """Returns the number of axes of an array, or 0 if it does not exist."""
        return self._remaining[name].array.ndim if name in self._remaining else 0

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Checks the shape of an array without removing it.

        Args:
            name: name of the array in arcface_torch.
            shape: expected shape.

        Raises:
            UnsupportedFileError: if the array does not exist or has another shape.
        """
        weight = self._find(name, f"shape {shape}")
        if weight.array.shape != shape:
            raise UnsupportedFileError(f"expected {name} with shape {shape}. Received: {_describe(weight)}")

    def pop(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Removes an array and returns it, after `check_shape`."""
        self.check_shape(name, shape)
        return self._remaining.pop(name).array

    def check_is_empty(self) -> None:
        """Raises an UnsupportedFileError if an array was not removed."""
        if self._remaining:
            examples = "; ".join(_describe(weight) for weight in list(self._remaining.values())[:3])
            raise UnsupportedFileError(
                f"expected only the weights of the network. Received: {len(self)} other arrays, {examples}"
            )

    def _find(self, name: str, expected: str) -> Weight:
        if name not in self._remaining:
            raise UnsupportedFileError(f"expected {name} with {expected}. Received: {len(self)} arrays without it")
        return self._remaining[name]


def _describe(weight: Weight) -> str:
    return f"{weight.origin} with {_shape(weight.array)}"


def _shape(array: np.ndarray) -> str:
    return f"shape {array.shape}"
