"""The arrays of a file, whatever its format, under the names that arcface_torch gives them."""

from typing import NamedTuple

import numpy as np


class UnfitError(ValueError):
    """What a file holds is no network that can be loaded. The message lacks the file's name."""


class Weight(NamedTuple):
    array: np.ndarray
    origin: str  # where in the file it is from, for messages


class Weights:
    """Arrays that are taken by name, each once and in the expected shape.

    Args:
        weights: arcface_torch's name, such as `layer1.0.conv1.weight` -> `Weight`.
        input_size: `(height, width)` of the images, or None if the file does not tell.
    """

    def __init__(self, weights: dict[str, Weight], input_size: tuple[int, int] | None = None):
        self._left = dict(weights)
        self.input_size = input_size

    def __contains__(self, name):
        return name in self._left

    def __iter__(self):
        return iter(self._left)

    def __len__(self):
        return len(self._left)

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of an array that a network's size is read from."""
        weight = self._find(name, f"{rank} axes")
        if weight.array.ndim != rank:
            raise UnfitError(f"expected {name} with {rank} axes. Received: {_describe(weight)}")
        return weight.array.shape

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        weight = self._find(name, f"shape {shape}")
        if weight.array.shape != shape:
            raise UnfitError(f"expected {name} with shape {shape}. Received: {_describe(weight)}")
        del self._left[name]
        return weight.array

    def expect_none_left(self):
        if self._left:
            examples = "; ".join(_describe(weight) for weight in list(self._left.values())[:3])
            raise UnfitError(f"expected nothing beside the network's weights. Received {len(self)} more: {examples}")

    def _find(self, name, what):
        if name not in self._left:
            raise UnfitError(f"expected {name} with {what}. Received: {len(self)} arrays without it")
        return self._left[name]


def _describe(weight):
    return f"{weight.origin} with shape {weight.array.shape}"
