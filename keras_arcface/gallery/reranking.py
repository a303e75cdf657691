"""Exact scores of the candidates of an approximate search."""

import numpy as np

from keras_arcface.gallery.records import Records
from keras_arcface.gallery.search_engines import best_of

_PROBES_AT_ONCE = 32  # limits the templates in memory


def rerank(
    records: Records, probes: np.ndarray, candidates: list[tuple[np.ndarray, np.ndarray]], top_k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Computes the scores of candidates from the embeddings in the database.

    Args:
        records: people of the gallery, inside the transaction of the search.
        probes: `(n, dim)` float32, L2-normalized.
        candidates: `(slots, scores)` of each probe; the scores are not used.
        top_k: number of candidates that are returned per probe.

    Returns:
        `(slots, scores)` of each probe, best first, the lower slot first among equal scores.
    """
    results: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(probes), _PROBES_AT_ONCE):
        group = slice(start, start + _PROBES_AT_ONCE)
        slots = np.unique(np.concatenate([slots for slots, _ in candidates[group]]))
        templates = _templates(records, slots)
        for probe, (of_probe, _) in zip(probes[group], candidates[group], strict=True):
            results.append(best_of(of_probe, templates[np.searchsorted(slots, of_probe)], probe, top_k))
    return results


def _templates(records: Records, slots: np.ndarray) -> np.ndarray:
    """Returns the templates of ascending slots."""
    parts = list(records.templates(slots.tolist()))
    if sum(len(part) for part, _ in parts) != len(slots):
        raise records.damage("an image of each person", f"none of some of the people in slots {slots[:10].tolist()}")
    return np.concatenate([templates for _, templates in parts])
