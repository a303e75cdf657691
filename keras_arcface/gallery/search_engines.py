"""Engines that find the rows of a matrix with the highest scores."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from keras_arcface.gallery.best_matches import BestMatches
from keras_arcface.gallery.matrix import TemplateMatrix

ENGINES = ("exact", "faiss")

# For fewer probes, inner products row by row are faster than a matrix product.
_MIN_PRODUCT = 12
# Scores of a block: they fit into the cache, and a block takes longer than the start of the threads of its product.
_BLOCK_SCORES = 2**20
_MAX_BLOCK_ROWS = 2**16
# Rows of a part of a block that fits into the cache of a core, so that several probes read it from there.
_PART_BYTES = 2**20
# The threads of a product start for each part of a block of int8 rows, which is therefore larger.
_PRODUCT_BYTES = 2**23
_PROBES_AT_ONCE = 256
# Largest number of rows per probe that are compared again.
_MAX_CANDIDATES = 2048
# Scores of the same vectors by different products differ by less.
_ROUNDING = 1e-5


class SearchEngine(Protocol):
    """Search for the highest scores in a matrix."""

    def refresh(self, matrix: TemplateMatrix, stale: np.ndarray) -> None:
        """Is called before a search if the matrix has changed.

        Args:
            matrix: the matrix, which is the same object in each call.
            stale: slots of the rows that have changed since the last call; empty in the first one.
        """

    def search(self, probes: np.ndarray, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Finds the highest scores of each probe.

        Args:
            probes: `(n, dim)` float32, L2-normalized.
            top_k: number of rows per probe, at most that of the matrix.

        Returns:
            `(slots, scores)` of each probe, best first. With an int8 matrix, these are candidates with approximate
            scores, which include the `top_k` best rows of the exact templates.
        """


class ExactSearch:
    """Compares each probe with each row.

    `evaluation.score_blocks` is for protocols with many probes. For one probe, a product of its backend takes more
    than twice as long as inner products in threads.
    """

    def __init__(self):
        self._matrix: TemplateMatrix | None = None

    def refresh(self, matrix: TemplateMatrix, stale: np.ndarray) -> None:
        self._matrix = matrix

    def search(self, probes: np.ndarray, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        assert self._matrix is not None
        results = []
        for start in range(0, len(probes), _PROBES_AT_ONCE):
            results += self._search(self._matrix, probes[start : start + _PROBES_AT_ONCE], top_k)
        return results

    def _search(self, matrix: TemplateMatrix, probes: np.ndarray, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        # An int8 score differs by at most `largest_error` from the exact one. So the exact score of the k-th best row
        # is at least the k-th highest score minus `largest_error`, and the scores of the k best rows are within twice
        # that. All products are rounded.
        margin = _ROUNDING + 2 * matrix.largest_error
        best = BestMatches(len(probes), top_k, margin, max(_MAX_CANDIDATES, 4 * top_k))
        for first, scores in _score_blocks(matrix.rows, matrix.scales, probes):
            best.add(first, scores)
        if matrix.scales is not None:
            return best.results()
        return [
            best_of(slots, matrix.rows[slots], probe, top_k)
            for (slots, _), probe in zip(best.results(), probes, strict=True)
        ]


def best_of(slots: np.ndarray, templates: np.ndarray, probe: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the scores of candidates, which do not depend on other probes and other candidates.

    Args:
        slots: `(n,)` slots of the candidates.
        templates: `(n, dim)` float32, their templates.
        probe: `(dim,)` float32.
        top_k: number of candidates to return.

    Returns:
        `(slots, scores)` of the best candidates, best first, the lower slot first among equal scores.
    """
    scores = np.vecdot(templates, probe)
    order = np.lexsort((slots, -scores))[:top_k]
    return slots[order], scores[order]


def _score_blocks(rows: np.ndarray, scales: np.ndarray | None, probes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first slot and the scores `(rows, probes)` of each block of rows."""
    is_product = len(probes) >= _MIN_PRODUCT
    block_rows = min(_MAX_BLOCK_ROWS, max(1, _BLOCK_SCORES // len(probes)))
    part_rows = max(1, (_PRODUCT_BYTES if is_product else _PART_BYTES) // (4 * rows.shape[1]))

    def scores_of(first: int) -> np.ndarray:
        block = rows[first : first + block_rows]
        if block.dtype == np.float32 and is_product:
            return block @ probes.T
        scores = np.empty((len(block), len(probes)), np.float32)
        buffer = np.empty((min(part_rows, len(block)), rows.shape[1]), np.float32)
        for start in range(0, len(block), part_rows):
            part = block[start : start + part_rows]
            if part.dtype != np.float32:
                np.copyto(buffer[: len(part)], part)
                part = buffer[: len(part)]
            if is_product:
                np.matmul(part, probes.T, out=scores[start : start + part_rows])
            else:
                for column, probe in enumerate(probes):
                    scores[start : start + part_rows, column] = np.vecdot(part, probe)
        if scales is not None:
            scores *= scales[first : first + block_rows, None]
        return scores

    # The library of the matrix product starts threads of its own; the inner products do not.
    threads = 1 if is_product else max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    pending: deque[tuple[int, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for first in range(0, len(rows), block_rows):
            pending.append((first, executor.submit(scores_of, first)))
            if len(pending) > threads + 1:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()


def get(engine: str) -> SearchEngine:
    """Returns a new engine by its name."""
    if engine == "faiss":
        from keras_arcface.gallery.faiss_search import FaissSearch

        return FaissSearch()
    return ExactSearch()
