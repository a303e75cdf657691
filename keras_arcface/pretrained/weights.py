"""Arrays of a weights file of any format, with the names of arcface_torch."""

from typing import NamedTuple

import numpy as np


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
    """Mapping of names to arrays, from which each array is removed once, with a check of its shape.

    Args:
        weights: dict from the names in arcface_torch, such as `layer1.0.conv1.weight`, to arrays.
        input_size: `(height, width)` of the images, or None if the file does not contain it.
    """

    def __init__(self, weights: dict[str, Weight], input_size: tuple[int, int] | None = None):
        self._remaining = dict(weights)
        self.input_size = input_size

    def __contains__(self, name):
        return name in self._remaining

    def __iter__(self):
        return iter(self._remaining)

    def __len__(self):
        return len(self._remaining)

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

    def pop(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Removes an array and returns it.

        Args:
            name: name of the array in arcface_torch.
            shape: expected shape.

        Raises:
            UnsupportedFileError: if the array does not exist or has another shape.
        """
        weight = self._find(name, f"shape {shape}")
        if weight.array.shape != shape:
            raise UnsupportedFileError(f"expected {name} with shape {shape}. Received: {_describe(weight)}")
        del self._remaining[name]
        return weight.array

    def check_is_empty(self) -> None:
        """Raises an UnsupportedFileError if an array was not removed."""
        if self._remaining:
            examples = "; ".join(_describe(weight) for weight in list(self._remaining.values())[:3])
            raise UnsupportedFileError(
                f"expected only the weights of the network. Received: {len(self)} other arrays, {examples}"
            )

    def _find(self, name, expected):
        if name not in self._remaining:
            raise UnsupportedFileError(f"expected {name} with {expected}. Received: {len(self)} arrays without it")
        return self._remaining[name]


def _describe(weight):
    return f"{weight.origin} with shape {weight.array.shape}"
