"""Checks of labels, pairs and false accept rates of evaluation functions."""

from collections.abc import Iterable
from collections.abc import Sized
from typing import Any

import numpy as np


def check_labels(labels: Any, embeddings: Sized, name: str, embeddings_name: str) -> np.ndarray:
    """Returns labels as an int64 array.

    Raises:
        ValueError: unless there is one integer label per embedding.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers of shape ({len(embeddings)},), one for each row of {embeddings_name}. "
            f"Received: shape {labels.shape}, {labels.dtype}"
        )
    return labels.astype(np.int64)


def check_pairs(pairs: Any, num_embeddings: int) -> np.ndarray:
    """Returns pairs of row indices as an array `(n, 2)`.

    Raises:
        ValueError: unless the shape is `(n, 2)` and all values are integers in [0, num_embeddings).
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be integers of shape (n, 2). Received: shape {pairs.shape}, {pairs.dtype}")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= num_embeddings):
        first = np.flatnonzero(((pairs < 0) | (pairs >= num_embeddings)).any(axis=1))[0]
        raise ValueError(
            f"pairs must be row indices of the {num_embeddings} embeddings, in [0, {num_embeddings - 1}]. "
            f"Received: pairs[{first}]={pairs[first].tolist()}"
        )
    return pairs


def check_same(same: Any, num_pairs: int) -> np.ndarray:
    """Returns the mask of the genuine pairs as a bool array.

    Raises:
        ValueError: unless the shape is `(num_pairs,)`, all values are true or false, and both occur.
    """
    same = np.asarray(same)
    if same.shape != (num_pairs,) or not np.isin(same, (0, 1)).all():
        raise ValueError(
            f"same must be bool of shape ({num_pairs},), true for each genuine pair. "
            f"Received: shape {same.shape}, {same.dtype}"
        )
    same = same.astype(bool)
    if same.all() or not same.any():
        raise ValueError(
            "same must contain both genuine and impostor pairs. Received: "
            f"{np.sum(same)} genuine and {np.sum(~same)} impostor pairs"
        )
    return same


def check_fars(fars: Iterable[float]) -> tuple[float, ...]:
    """Returns false accept rates as a tuple.

    Raises:
        ValueError: if a rate is outside (0, 1].
    """
    fars = tuple(map(float, fars))
    for far in fars:
        if not 0 < far <= 1:
            raise ValueError(f"Each false accept rate must be in (0, 1]. Received: far={far:g}")
    return fars
