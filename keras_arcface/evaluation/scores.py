"""Cosines of any two sets of embeddings, in blocks, on whatever backend Keras runs on."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from keras_arcface.evaluation.vectors import ALIGNMENT
from keras_arcface.evaluation.vectors import pairs_of_rows

# Of scores held at once. A matrix product beside a million columns needs some 256 rows to run at its full speed; more
# than 2048 bring nothing.
BLOCK_BYTES = 2**30
_MOST_ROWS = 2048
_PAIRS_AT_ONCE = 65536
# A product over all rows gives this many scores in the time in which one pair of rows is gathered and multiplied.
_SCORES_PER_PAIR = 100


def score_blocks(
    first, second, block_bytes: int = BLOCK_BYTES, progress: str | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """All scores of two sets, some rows of the first at a time.

    The product is made in full float32, also where a backend would round its factors (TF32). While one block is looked
    at, the next is made, so two are held.

    Args:
        first: `(n, dim)` float32, such as probes; L2-normalized, if the scores are to be cosines.
        second: `(m, dim)` float32, such as a gallery.
        block_bytes: how much the scores of a block may take; a block has one row at least.
        progress: what to write beside a progress bar; None for none.

    Yields:
        `(rows, scores)`: a slice of the first set, and `(len of the slice, m)` float32, not to be written to.

    Raises:
        ValueError: if these are not two matrices of one width.
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            "Scores need two sets of embeddings, (n, dim) and (m, dim). Received: shapes "
            f"{first.shape} and {second.shape}"
        )
    at_once = rows_at_once(len(second), block_bytes)
    columns = _as_tensor(second)

    def scores_of(rows):
        with full_precision():
            return _as_numpy(ops.einsum("id,jd->ij", ops.convert_to_tensor(first[rows]), columns))

    blocks = [slice(start, min(start + at_once, len(first))) for start in range(0, len(first), at_once)]
    with (
        ThreadPoolExecutor(1) as ahead,
        tqdm(total=len(first), desc=progress, unit="row", disable=progress is None, leave=False) as bar,
    ):
        following = ahead.submit(scores_of, blocks[0]) if blocks else None
        for number, rows in enumerate(blocks, start=1):
            scores = following.result()
            if number < len(blocks):
                following = ahead.submit(scores_of, blocks[number])
            yield rows, scores
            bar.update(rows.stop - rows.start)


def rows_at_once(columns: int, block_bytes: int = BLOCK_BYTES) -> int:
    """How many rows a block of scores has."""
    return max(1, min(_MOST_ROWS, block_bytes // (4 * max(1, columns))))


def pair_scores(embeddings, pairs, block_bytes: int = BLOCK_BYTES, progress: str | None = None) -> np.ndarray:
    """Scores of some pairs of rows.

    Few pairs are gathered and multiplied; for many (as in IJB-C, where they are 3% of all that could be formed) all
    scores are made in blocks, and theirs are kept.

    Args:
        embeddings: `(m, dim)` float32.
        pairs: `(n, 2)` int, rows of `embeddings`.
        block_bytes, progress: as for `score_blocks`.

    Returns:
        `(n,)` float32.

    Raises:
        ValueError: if a pair names a row that is not there.
    """
    embeddings = np.asarray(embeddings, np.float32)
    pairs = pairs_of_rows(pairs, len(embeddings))
    scores = np.empty(len(pairs), np.float32)
    if len(embeddings) ** 2 > _SCORES_PER_PAIR * len(pairs):
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            rows = slice(start, start + _PAIRS_AT_ONCE)
            np.einsum("id,id->i", embeddings[pairs[rows, 0]], embeddings[pairs[rows, 1]], out=scores[rows])
        return scores
    by_row = np.argsort(pairs[:, 0], kind="stable")
    starts = np.searchsorted(pairs[by_row, 0], np.arange(len(embeddings) + 1))
    for rows, block in score_blocks(embeddings, embeddings, block_bytes, progress):
        here = by_row[starts[rows.start] : starts[rows.stop]]
        scores[here] = block[pairs[here, 0] - rows.start, pairs[here, 1]]
    return scores


@contextlib.contextmanager
def full_precision():
    """Keeps a backend from rounding the factors of float32 products to TF32, which is right to three digits only."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        before = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(before)
    elif keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    else:
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _as_tensor(array):
    """Without a copy where TensorFlow computes in the machine's own memory, if the array lies as it must there."""
    if keras.backend.backend() == "tensorflow" and array.flags.carray and array.ctypes.data % ALIGNMENT == 0:
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):
            return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return ops.convert_to_tensor(array)


def _as_numpy(scores):
    """Without a copy where the scores lie in the machine's own memory."""
    try:
        return np.asarray(scores)
    except (TypeError, RuntimeError):  # PyTorch, on a GPU
        return ops.convert_to_numpy(scores)
