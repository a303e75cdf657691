"""L2 norms and L2 normalization of embeddings."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Alignment in bytes of the memory of a TensorFlow tensor.
ALIGNMENT = 64
_CHUNK_BYTES = 2**26
_MAX_LISTED_ROWS = 10


def rows_per_chunk(dim: int) -> int:
    """Returns the number of rows of length `dim` in a chunk of at most 64 MiB of float64 numbers."""
    return max(1, _CHUNK_BYTES // (8 * dim))


def l2_norms(embeddings: np.ndarray, name: str, name_of: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """Returns the L2 norms of embeddings.

    Args:
        embeddings: `(n, dim)` array.
        name: name of the argument, for the error.
        name_of: function from a row index to the name of the row in the error.

    Returns:
        `(n,)` float64, all above 0.

    Raises:
        ValueError: if `embeddings` is not a matrix of numbers, or a row is zero or not finite. The error names the row.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be numbers of shape (n, dim), one embedding per row. "
            f"Received: shape {embeddings.shape}, {embeddings.dtype}"
        )
    norms = np.empty(len(embeddings))
    chunk = rows_per_chunk(embeddings.shape[1])
    for start in range(0, len(embeddings), chunk):
        rows = embeddings[start : start + chunk]
        norms[start : start + chunk] = np.sqrt(np.einsum("id,id->i", rows, rows, dtype=np.float64))
    invalid = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(invalid):
        names = ", ".join(name_of(row) for row in invalid[:_MAX_LISTED_ROWS].tolist())
        raise ValueError(
            f"{name} must have rows that are finite and not zero. Received: {len(invalid)} of {len(embeddings)} rows "
            f"that are zero or not finite: {names}" + (" ..." if len(invalid) > _MAX_LISTED_ROWS else "")
        )
    return norms


def l2_normalize(embeddings: Any, name: str, name_of: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """Returns L2-normalized embeddings as a new float32 array. Arguments and errors are those of `l2_norms`."""
    embeddings = np.asarray(embeddings)
    norms = l2_norms(embeddings, name, name_of).astype(np.float32)
    normalized = _empty_aligned(embeddings.shape)
    chunk = rows_per_chunk(embeddings.shape[1])
    for start in range(0, len(embeddings), chunk):
        rows = slice(start, start + chunk)
        np.divide(embeddings[rows], norms[rows, None], out=normalized[rows], casting="same_kind")
    return normalized


def _empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
