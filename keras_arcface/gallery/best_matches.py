"""The highest scores of each probe, from scores that arrive in blocks."""

import numpy as np

# Scores whose maximum is compared with the scores found so far. Only groups with a higher maximum are read again.
_GROUP = 256


class BestMatches:
    """Collector of the `k` highest scores of each probe, and of the scores within a margin below them.

    Almost all groups of scores are dismissed by their maximum, which is many times faster than a partial sort.

    Args:
        num_probes: number of probes.
        k: number of highest scores.
        margin: scores that are at most this far below the k-th highest score are kept too.
        limit: largest number of scores that are kept per probe.
    """

    def __init__(self, num_probes: int, k: int, margin: float = 0.0, limit: int | None = None):
        self._k, self._margin = k, margin
        self._limit = k if limit is None else limit
        self._floors = np.full(num_probes, -np.inf, np.float32)
        self._scores = [np.empty(0, np.float32)] * num_probes
        self._slots = [np.empty(0, np.int64)] * num_probes

    def add(self, first_slot: int, scores: np.ndarray) -> None:
        """Adds scores `(rows, num_probes)` of consecutive slots from `first_slot` on."""
        starts = np.arange(0, len(scores), _GROUP)
        maxima = np.maximum.reduceat(scores, starts, axis=0)
        candidates = maxima >= self._floors
        for probe in np.flatnonzero(candidates.any(axis=0)).tolist():
            groups = starts[candidates[:, probe]]
            if len(groups) == len(starts):
                rows = np.flatnonzero(scores[:, probe] >= self._floors[probe])
            else:
                rows = (groups[:, None] + np.arange(_GROUP)).ravel()
                rows = rows[rows < len(scores)]
                rows = rows[scores[rows, probe] >= self._floors[probe]]
            self._merge(probe, first_slot + rows, scores[rows, probe])

    def _merge(self, probe: int, slots: np.ndarray, scores: np.ndarray) -> None:
        scores = np.concatenate([self._scores[probe], scores])
        slots = np.concatenate([self._slots[probe], slots])
        if len(scores) > self._k:
            floor = np.partition(scores, -self._k)[-self._k] - np.float32(self._margin)
            kept = np.flatnonzero(scores >= floor)
            if len(kept) > self._limit:
                kept = kept[np.lexsort((slots[kept], -scores[kept]))[: self._limit]]
                floor = scores[kept].min()
            scores, slots, self._floors[probe] = scores[kept], slots[kept], floor
        self._scores[probe], self._slots[probe] = scores, slots

    def results(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns `(slots, scores)` of each probe, best first, the lower slot first among equal scores."""
        results = []
        for slots, scores in zip(self._slots, self._scores, strict=True):
            order = np.lexsort((slots, -scores))
            results.append((slots[order], scores[order]))
        return results
