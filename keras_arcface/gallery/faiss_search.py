"""Search with faiss."""

from typing import Any

import numpy as np

from keras_arcface._optional import optional_import
from keras_arcface.gallery.matrix import TemplateMatrix


class FaissSearch:
    """Exact search by faiss's `IndexFlatIP`, which has a copy of the matrix in memory.

    Raises:
        ModuleNotFoundError: if faiss is not installed.
    """

    def __init__(self):
        with optional_import("faiss", "Gallery.open(engine='faiss')"):
            import faiss

        self._faiss = faiss
        self._index: Any = None

    def refresh(self, matrix: TemplateMatrix, stale: np.ndarray) -> None:
        faiss, count = self._faiss, len(matrix.rows)
        if self._index is None or self._index.d != matrix.rows.shape[1]:
            self._index = faiss.IndexFlatIP(matrix.rows.shape[1])
        if self._index.ntotal > count:
            self._index.remove_ids(np.arange(count, self._index.ntotal))
        known = self._index.ntotal
        self._index.add(np.ascontiguousarray(matrix.rows[known:]))
        stored = faiss.rev_swig_ptr(self._index.get_xb(), count * self._index.d).reshape(count, self._index.d)
        changed = stale[stale < known]
        stored[changed] = matrix.rows[changed]

    def search(self, probes: np.ndarray, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        scores, slots = self._index.search(probes, top_k)
        return list(zip(slots, scores, strict=True))
