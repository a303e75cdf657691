"""The arrays of a weights file of any format, under the names of arcface_torch."""

from typing import NamedTuple

import numpy as np


class UnsupportedFileError(ValueError):
    """A file does not contain a network that can be loaded. The message lacks the file's name."""


class Weight(NamedTuple):
    array: np.ndarray
    origin: str  # its key or node in the file, for error messages


class Weights:
    """Named arrays, each of which is taken once, in an expected shape.

    Args:
        weights: arrays by arcface_torch's names, such as `layer1.0.conv1.weight`.
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
        """Returns the shape of an array without taking it.

        Raises:
            UnsupportedFileError: if it is absent or has another number of axes.
        """
        weight = self._find(name, f"{rank} axes")
        if weight.array.ndim != rank:
            raise UnsupportedFileError(f"expected {name} with {rank} axes. Received: {_describe(weight)}")
        return weight.array.shape

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Removes an array and returns it.

        Raises:
            UnsupportedFileError: if it is absent or has another shape.
        """
        weight = self._find(name, f"shape {shape}")
        if weight.array.shape != shape:
            raise UnsupportedFileError(f"expected {name} with shape {shape}. Received: {_describe(weight)}")
        del self._remaining[name]
        return weight.array

    def expect_all_taken(self) -> None:
        """Raises an UnsupportedFileError if an array was not taken."""
        if self._remaining:
            examples = "; ".join(_describe(weight) for weight in list(self._remaining.values())[:3])
            raise UnsupportedFileError(
                f"expected no arrays except the network's weights. Received: {len(self)} more, {examples}"
            )

    def _find(self, name, expected):
        if name not in self._remaining:
            raise UnsupportedFileError(f"expected {name} with {expected}. Received: {len(self)} arrays without it")
        return self._remaining[name]


def _describe(weight):
    return f"{weight.origin} with shape {weight.array.shape}"
