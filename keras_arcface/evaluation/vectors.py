"""What comes in, checked: embeddings, labels, pairs, false accept rates."""

from collections.abc import Callable

import numpy as np

# Where TensorFlow wants the memory of a tensor to start: at a multiple of so many bytes.
ALIGNMENT = 64
_BYTES_AT_ONCE = 2**26
_MOST_NAMED = 10


def rows_within(dim: int, bytes_each: int = 8) -> int:
    """How many rows of so many numbers are worked on at once."""
    return max(1, _BYTES_AT_ONCE // (bytes_each * dim))


def row_norms(embeddings, argument: str, name_of: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """The L2 norms of embeddings.

    Args:
        embeddings: `(n, dim)` array.
        argument: what the caller's users call them, for the error.
        name_of: number of a row -> how to name it in the error.

    Returns:
        `(n,)` float64, all above 0.

    Raises:
        ValueError: if this is no matrix of numbers, or naming the rows that are zero or not finite.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype.kind not in "fiu":
        raise ValueError(
            f"{argument} must be numbers of shape (n, dim), one embedding per row. "
            f"Received: shape {embeddings.shape}, {embeddings.dtype}"
        )
    norms = np.empty(len(embeddings))
    at_once = rows_within(embeddings.shape[1])
    for start in range(0, len(embeddings), at_once):
        rows = embeddings[start : start + at_once]
        norms[start : start + at_once] = np.sqrt(np.einsum("id,id->i", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        names = ", ".join(name_of(row) for row in bad[:_MOST_NAMED].tolist())
        raise ValueError(
            f"{argument}: {len(bad)} of {len(embeddings)} rows are zero or not finite: {names}"
            + (" ..." if len(bad) > _MOST_NAMED else "")
        )
    return norms


def unit_rows(embeddings, argument: str, name_of: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """L2-normalizes embeddings: `(n, dim)` of any norm -> a new float32 array. Errors as of `row_norms`."""
    embeddings = np.asarray(embeddings)
    norms = row_norms(embeddings, argument, name_of).astype(np.float32)
    unit = _aligned(embeddings.shape)
    at_once = rows_within(embeddings.shape[1])
    for start in range(0, len(embeddings), at_once):
        rows = slice(start, start + at_once)
        np.divide(embeddings[rows], norms[rows, None], out=unit[rows], casting="same_kind")
    return unit


def _aligned(shape):
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def labels_for(labels, embeddings, argument: str, count_of: str) -> np.ndarray:
    """Checks that there is one integer label per embedding.

    Raises:
        ValueError: naming both arguments, if not.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{argument} must be integers of shape ({len(embeddings)},), one for each row of {count_of}. "
            f"Received: shape {labels.shape}, {labels.dtype}"
        )
    return labels.astype(np.int64)


def pairs_of_rows(pairs, count: int) -> np.ndarray:
    """Checks `(n, 2)` pairs of rows of `count` embeddings.

    Raises:
        ValueError: naming the shape, or the first pair with a row that is not there.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be integers of shape (n, 2). Received: shape {pairs.shape}, {pairs.dtype}")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= count):
        first = np.flatnonzero(((pairs < 0) | (pairs >= count)).any(axis=1))[0]
        raise ValueError(
            f"pairs must be rows of the {count} embeddings, 0 to {count - 1}. Received: pair {first} is "
            f"{pairs[first].tolist()}"
        )
    return pairs


def genuine_and_impostor(same, count: int) -> np.ndarray:
    """Checks that `same` says of each of `count` pairs whether it is genuine, and that there are both kinds.

    Raises:
        ValueError: if not.
    """
    same = np.asarray(same)
    if same.shape != (count,) or not np.isin(same, (0, 1)).all():
        raise ValueError(
            f"same must say of each of the {count} pairs whether it shows one person, bool of shape ({count},). "
            f"Received: shape {same.shape}, {same.dtype}"
        )
    same = same.astype(bool)
    if same.all() or not same.any():
        raise ValueError(
            "Both genuine and impostor pairs are needed. Received: "
            f"{np.sum(same)} genuine and {np.sum(~same)} impostor pairs"
        )
    return same


def false_accept_rates(fars) -> tuple[float, ...]:
    """Checks false accept rates.

    Raises:
        ValueError: naming the first that lies outside (0, 1].
    """
    for far in fars:
        if not 0 < far <= 1:
            raise ValueError(f"A false accept rate lies in (0, 1]. Received: {far}")
    return tuple(map(float, fars))
