"""Embeddings on their way to scores: checked, and scaled to length 1."""

from collections.abc import Callable

import numpy as np

_ROWS_AT_ONCE = 16384
_MOST_NAMED = 10


def unit_rows(embeddings, argument: str, name_of: Callable[[int], str] = "row {}".format, dtype=np.float32):
    """L2-normalises embeddings, in blocks.

    Args:
        embeddings: `(n, dim)`, of any norm.
        argument: what the caller's users call them, for the error.
        name_of: number of a row -> how to name it in the error.
        dtype: of the result.

    Returns:
        `(n, dim)` of `dtype`, a new array.

    Raises:
        ValueError: if this is no matrix, or naming the rows that are zero or not finite.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype.kind not in "fiu":
        raise ValueError(
            f"{argument} must be numbers of shape (n, dim), one embedding per row. "
            f"Received: shape {embeddings.shape}, {embeddings.dtype}"
        )
    unit = np.empty(embeddings.shape, dtype)
    unusable = []
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        rows = embeddings[start : start + _ROWS_AT_ONCE].astype(dtype, copy=False)
        norms = np.sqrt(np.einsum("id,id->i", rows, rows, dtype=np.float64))
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        unusable.extend((bad + start).tolist())
        norms[bad] = 1.0
        np.divide(rows, norms.astype(dtype)[:, None], out=unit[start : start + len(rows)])
    if unusable:
        names = ", ".join(name_of(row) for row in unusable[:_MOST_NAMED])
        raise ValueError(
            f"{argument}: {len(unusable)} of {len(embeddings)} rows are zero or not finite: {names}"
            + (" ..." if len(unusable) > _MOST_NAMED else "")
        )
    return unit


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
