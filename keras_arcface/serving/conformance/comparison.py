"""Comparison of the outputs of two runs of a signature."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Outputs = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference of two outputs with the same names.

    Attributes:
        differences: `{name: largest difference}` of the outputs with numbers: absolute, for `norm` relative.
        rows: indices of the rows that differ by more than the tolerance, or in an output without numbers.
        shapes: `{name: (expected shape, received shape)}` of the outputs with different shapes.
        tolerance: allowed difference.
    """

    differences: dict[str, float]
    rows: tuple[int, ...]
    shapes: dict[str, tuple]
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal within the tolerance."""
        return not self.rows and not self.shapes

    @property
    def exact(self) -> bool:
        """Whether the outputs are equal bit for bit."""
        return self.equal and not any(self.differences.values())

    def __str__(self) -> str:
        if self.shapes:
            each = [f"{name} {received} instead of {expected}" for name, (expected, received) in self.shapes.items()]
            return ", ".join(each)
        if self.exact:
            return "equal bit for bit"
        largest = ", ".join(f"{value:.1e} ({name})" for name, value in self.differences.items() if value)
        if self.equal:
            return f"different by up to {largest}"
        rows = "all rows" if len(self.rows) > 8 else f"rows {', '.join(map(str, self.rows))}"
        return f"different in {rows}{f' by up to {largest}' if largest else ''}"


def compare(expected: Outputs, received: Outputs, tolerance: float) -> Comparison:
    """Compares the outputs that both have.

    Args:
        expected, received: outputs `{name: array (n, ...)}`.
        tolerance: allowed absolute difference, for `norm` relative to the larger of 1 and the norm.
    """
    differences, shapes, wrong = {}, {}, set()
    for name in [name for name in expected if name in received]:
        first, second = np.asarray(expected[name]), np.asarray(received[name])
        if first.shape != second.shape:
            shapes[name] = (first.shape, second.shape)
            continue
        if first.dtype.kind != "f":
            rows = first != second
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                difference = np.abs(first.astype(np.float64) - second)
                difference /= np.maximum(np.abs(first), 1.0) if name == "norm" else 1.0
            difference = np.where(np.isnan(difference), np.inf, difference).reshape(len(first), -1).max(axis=1)
            differences[name] = float(difference.max(initial=0.0))
            rows = difference > tolerance
        wrong.update(np.flatnonzero(rows).tolist())
    return Comparison(differences, tuple(sorted(wrong)), shapes, tolerance)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns the rows divided by their lengths. Rows of length 0 remain 0."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-300)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest difference of the directions of two arrays of vectors, or infinity for different shapes."""
    if first.shape != second.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(unit(first) - unit(second)), nan=np.inf).max())
