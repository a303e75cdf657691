"""Cosine scores of two sets of embeddings, computed in blocks on the current Keras backend."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from keras_arcface.evaluation.input_checks import check_pairs
from keras_arcface.evaluation.vectors import ALIGNMENT

# Maximum size of the scores of a block. With a million columns, a matrix product needs about 256 rows for full speed,
# and more than 2048 rows do not make it faster.
BLOCK_BYTES = 2**30
_MAX_ROWS = 2048
_PAIRS_PER_CHUNK = 65536
# Number of scores that a matrix product computes in the time of gathering and multiplying one pair.
_SCORES_PER_PAIR = 100


def score_blocks(
    first, second, block_bytes: int = BLOCK_BYTES, progress: str | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Computes all scores of two sets, block by block.

    Use it for a protocol that this package does not have, with sets whose scores do not fit into memory at once.

    The products have full float32 precision, also on backends that round the factors to TF32 by default. The next block
    is computed while the caller uses the current one, so two blocks are in memory.

    Args:
        first: `(n, dim)` embeddings, such as probes. The scores are cosines if both sets are L2-normalized.
        second: `(m, dim)` embeddings, such as a gallery.
        block_bytes: maximum size of the scores of a block in bytes. A block has at least one row.
        progress: label of a progress bar; None for no progress bar.

    Yields:
        `(rows, scores)`: a slice of the first set, and read-only scores `(rows, m)` float32.

    Raises:
        ValueError: unless both sets are matrices with the same number of columns. It is raised when the iteration
            starts.

    Examples:
        The best gallery entry of each probe:

        >>> probes = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> best = np.empty(3, int)
        >>> for rows, scores in score_blocks(probes, np.eye(2)):
        ...     best[rows] = scores.argmax(axis=1)
        >>> best
        array([0, 1, 1])
    """
    from keras import ops  # late, because searches in a gallery and many figures need no backend

    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            "first and second must be embeddings of shapes (n, dim) and (m, dim). Received: shapes "
            f"{first.shape} and {second.shape}"
        )
    columns = _as_tensor(second)

    def scores_of(rows: slice) -> np.ndarray:
        with full_precision():
            return _as_numpy(ops.einsum("id,jd->ij", ops.convert_to_tensor(first[rows]), columns))

    step = rows_per_block(len(second), block_bytes)
    blocks = [slice(start, min(start + step, len(first))) for start in range(0, len(first), step)]
    # An explicit False would override the environment variable TQDM_DISABLE.
    disable = {"disable": True} if progress is None else {}
    with (
        ThreadPoolExecutor(1) as executor,
        tqdm(total=len(first), desc=progress, unit="row", leave=False, **disable) as bar,
    ):
        pending = [executor.submit(scores_of, rows) for rows in blocks[:1]]
        for number, rows in enumerate(blocks, start=1):
            scores = pending.pop().result()
            if number < len(blocks):
                pending.append(executor.submit(scores_of, blocks[number]))
            yield rows, scores
            bar.update(rows.stop - rows.start)


def rows_per_block(num_columns: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Returns the number of rows of a block of scores."""
    return max(1, min(_MAX_ROWS, block_bytes // (4 * max(1, num_columns))))


def pair_scores(embeddings, pairs, block_bytes: int = BLOCK_BYTES, progress: str | None = None) -> np.ndarray:
    """Computes the scores of given pairs of rows.

    For few pairs, the rows are gathered and multiplied. For many pairs (3% of all possible pairs in IJB-C), the scores
    of all rows are computed in blocks, and those of the pairs are selected.

    Args:
        embeddings: `(m, dim)`, L2-normalized for cosines.
        pairs: `(n, 2)` int, row indices of `embeddings`.
        block_bytes: maximum size of the scores of a block in bytes. A block has at least one row.
        progress: label of a progress bar; None for no progress bar.

    Returns:
        `(n,)` float32, the score of each pair.

    Raises:
        ValueError: if `embeddings` is not a matrix, `pairs` are not integers of shape `(n, 2)`, or an index is out of
            range. The message names the pair.

    Examples:
        >>> embeddings = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> pair_scores(embeddings, [[0, 1], [0, 2]])
        array([0.6, 0. ], dtype=float32)
    """
    embeddings = np.asarray(embeddings, np.float32)
    pairs = check_pairs(pairs, len(embeddings))
    scores = np.empty(len(pairs), np.float32)
    if len(embeddings) ** 2 > _SCORES_PER_PAIR * len(pairs):
        for start in range(0, len(pairs), _PAIRS_PER_CHUNK):
            rows = slice(start, start + _PAIRS_PER_CHUNK)
            np.einsum("id,id->i", embeddings[pairs[rows, 0]], embeddings[pairs[rows, 1]], out=scores[rows])
        return scores
    by_row = np.argsort(pairs[:, 0], kind="stable")
    starts = np.searchsorted(pairs[by_row, 0], np.arange(len(embeddings) + 1))
    for rows, block in score_blocks(embeddings, embeddings, block_bytes, progress):
        in_block = by_row[starts[rows.start] : starts[rows.stop]]
        scores[in_block] = block[pairs[in_block, 0] - rows.start, pairs[in_block, 1]]
    return scores


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Disables TF32, which rounds the factors of float32 products to three digits, inside a `with` block."""
    import keras

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


def _as_tensor(array: np.ndarray):
    """Converts an array to a tensor, without a copy if TensorFlow runs on the CPU and the array is aligned."""
    import keras

    if keras.backend.backend() == "tensorflow" and array.flags.carray and array.ctypes.data % ALIGNMENT == 0:
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):
            return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return keras.ops.convert_to_tensor(array)


def _as_numpy(scores) -> np.ndarray:
    """Converts a tensor to an array, without a copy if the tensor is in host memory."""
    try:
        return np.asarray(scores)
    except (TypeError, RuntimeError):  # PyTorch on a GPU
        import keras

        return keras.ops.convert_to_numpy(scores)
