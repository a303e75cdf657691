"""Agglomerative clustering by the mean cosine of all pairs, in memory proportional to the number of images.

The implementations of SciPy and scikit-learn need the matrix of all distances, which takes 20 GB for 50,000 images, and
know no constraints. The matrix is not needed: the mean cosine between the images of two clusters is the dot product of
the means of their L2-normalized embeddings.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

_BLOCK_BYTES = 2**26


def merge_by_average_linkage(
    means: np.ndarray, sizes: np.ndarray, threshold: float, cannot_link: Iterable[Sequence[int]] = ()
) -> np.ndarray:
    """Merges the two most similar clusters, until the mean cosine of any two is below the threshold.

    Each round merges all pairs of clusters that are each other's nearest. The result is the same as with one pair after
    the other, because with average linkage, a merged cluster is not nearer to a third one than the nearer of its parts.

    Args:
        means: `(n, dim)` float32, the mean of the L2-normalized embeddings of each item.
        sizes: `(n,)` int, the number of images of each item.
        threshold: lowest mean cosine of two clusters that are merged.
        cannot_link: pairs of items that must not be in the same cluster.

    Returns:
        `(n,)` int64, the cluster of each item: the index of the cluster's first item.
    """
    means, sizes = means.copy(), sizes.astype(np.float32)
    apart = _sets_of_partners(cannot_link)
    cluster_of = np.arange(len(means))
    nearest, cosine = np.zeros(len(means), np.int64), np.empty(len(means), np.float32)
    # The others can never be merged: a mean cosine below the threshold remains below it when other clusters merge.
    is_open = np.ones(len(means), bool)
    changed = np.arange(len(means))
    while True:
        _find_nearest(changed, np.flatnonzero(is_open), means, apart, nearest, cosine)
        is_open[changed] = cosine[changed] >= threshold
        candidates = np.flatnonzero(is_open)
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
        is_open[kept], is_open[dropped] = True, False
        is_changed = np.isin(nearest, np.concatenate([kept, dropped]))
        is_changed[kept] = True
        changed = np.flatnonzero(is_changed & is_open)
    while not np.array_equal(cluster_of, cluster_of[cluster_of]):
        cluster_of = cluster_of[cluster_of]
    return cluster_of


def _find_nearest(
    rows: np.ndarray, columns: np.ndarray, means: np.ndarray, apart: dict[int, set[int]], nearest, cosine
) -> None:
    """Sets the nearest cluster of each row among the columns, and its mean cosine, -inf if it has none.

    Rows and columns are sorted indices of clusters, and the columns contain the rows.
    """
    others = means[columns].T
    step = max(1, _BLOCK_BYTES // (4 * len(columns)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        scores = means[block] @ others
        scores[np.arange(len(block)), np.searchsorted(columns, block)] = -np.inf
        for index in np.flatnonzero([row in apart for row in block.tolist()]) if apart else ():
            partners = np.fromiter(apart[block[index]], np.int64)
            scores[index, np.isin(columns, partners)] = -np.inf
        best = scores.argmax(axis=1)
        nearest[block], cosine[block] = columns[best], scores[np.arange(len(block)), best]


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
