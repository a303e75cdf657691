"""Agglomerative clustering by the cosine of mean embeddings, in memory proportional to the number of images.

The implementations of SciPy and scikit-learn need the matrix of all distances, which takes 20 GB for 50,000 images, and
know no pairs that must be apart.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

_BLOCK_BYTES = 2**26


def merge_by_mean(
    means: np.ndarray, sizes: np.ndarray, threshold: float, cannot_link: Iterable[Sequence[int]] = ()
) -> np.ndarray:
    """Merges clusters whose mean embeddings have a cosine of at least the threshold.

    Each round merges all pairs of clusters that are each other's nearest.

    Args:
        means: `(n, dim)` float32, the mean of the L2-normalized embeddings of each item.
        sizes: `(n,)` int, the number of images of each item.
        threshold: lowest cosine of two clusters that are merged.
        cannot_link: pairs of items that must not be in the same cluster.

    Returns:
        `(n,)` int64, the cluster of each item: the index of the cluster's first item.
    """
    means, sizes = means.copy(), sizes.astype(np.float32)
    apart = _sets_of_partners(cannot_link)
    cluster_of = np.arange(len(means))
    nearest, cosine = np.zeros(len(means), np.int64), np.full(len(means), -np.inf, np.float32)
    alive = changed = np.arange(len(means))
    while True:
        _find_nearest(changed, alive, means, apart, nearest, cosine)
        candidates = alive[cosine[alive] >= threshold]
        if not len(candidates):
            break
        mutual = candidates[nearest[nearest[candidates]] == candidates]
        if not len(mutual):  # the cosine of a pair can depend on its order, by rounding
            mutual = candidates[[cosine[candidates].argmax()]]
        kept, dropped = np.unique(np.sort([mutual, nearest[mutual]], axis=0), axis=1)
        total = sizes[kept] + sizes[dropped]
        weights = (sizes[kept] / total)[:, None]
        means[kept] = weights * means[kept] + (1 - weights) * means[dropped]
        sizes[kept] = total
        cluster_of[dropped] = kept
        _merge_partners(apart, kept, dropped)
        alive = np.setdiff1d(alive, dropped, assume_unique=True)
        changed = np.union1d(kept, alive[np.isin(nearest[alive], np.concatenate([kept, dropped]))])
    while not np.array_equal(cluster_of, cluster_of[cluster_of]):
        cluster_of = cluster_of[cluster_of]
    return cluster_of


def _find_nearest(
    changed: np.ndarray, alive: np.ndarray, means: np.ndarray, apart: dict[int, set[int]], nearest, cosine
) -> None:
    """Sets the nearest cluster of each changed cluster, and of those to which a changed cluster is nearer than before.

    The cosine is -inf if there is no other cluster. `changed` and `alive` are sorted indices of clusters, and all
    changed clusters are alive.
    """
    others = _unit(means[alive]).T
    step = max(1, _BLOCK_BYTES // (4 * len(alive)))
    for start in range(0, len(changed), step):
        block = changed[start : start + step]
        scores = _unit(means[block]) @ others
        scores[np.arange(len(block)), np.searchsorted(alive, block)] = -np.inf
        for index in np.flatnonzero([row in apart for row in block.tolist()]) if apart else ():
            partners = np.fromiter(apart[block[index]], np.int64)
            scores[index, np.isin(alive, partners)] = -np.inf
        best = scores.argmax(axis=1)
        nearest[block], cosine[block] = alive[best], scores[np.arange(len(block)), best]
        if len(changed) < len(alive):
            highest = scores.max(axis=0)
            nearer = np.flatnonzero(highest > cosine[alive])
            nearest[alive[nearer]] = block[scores[:, nearer].argmax(axis=0)]
            cosine[alive[nearer]] = highest[nearer]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _sets_of_partners(pairs: Iterable[Sequence[int]]) -> dict[int, set[int]]:
    """Returns the set of items with which each item must not be merged."""
    apart: dict[int, set[int]] = defaultdict(set)
    for first, second in pairs:
        apart[int(first)].add(int(second))
        apart[int(second)].add(int(first))
    return dict(apart)


def _merge_partners(apart: dict[int, set[int]], kept: np.ndarray, dropped: np.ndarray) -> None:
    for target, source in zip(kept.tolist(), dropped.tolist(), strict=True):
        partners = apart.pop(source, set())
        for partner in partners:
            apart[partner].remove(source)
            apart[partner].add(target)
        if partners:
            apart[target] = apart.get(target, set()) | partners
