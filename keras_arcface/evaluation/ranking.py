"""Ranks of mates in a gallery, and the metrics computed from them."""

from collections.abc import Sequence

import numpy as np

# Minimum capacity of the buffer of `TopScores`, in scores.
_MIN_BUFFER = 2**20


def count_at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Counts the scores at or above each threshold.

    Args:
        scores: `(m,)`, in any order.
        thresholds: `(n,)` with n at least 1, ascending.

    Returns:
        `(n,)` int, the number of scores for each threshold.
    """
    if len(thresholds) == 1:
        return np.array([np.count_nonzero(scores >= thresholds[0])])
    candidates = scores[scores >= thresholds[0]]  # few if the embeddings are good
    bins = np.bincount(np.searchsorted(thresholds, candidates, side="right"), minlength=len(thresholds) + 1)
    return np.cumsum(bins[::-1])[::-1][1:]


def ranks_of_mates(scores: np.ndarray, mates: np.ndarray, ignored: Sequence | np.ndarray = ()) -> np.ndarray:
    """Returns the ranks of the mates of one probe in the gallery.

    A gallery entry with the same score as a mate ranks before it, so that a model with constant embeddings gets the
    worst ranks.

    Args:
        scores: `(m,)` scores of the probe with the gallery.
        mates: indices of the gallery entries of the probe's identity, at least one.
        ignored: indices of gallery entries without a rank.

    Returns:
        `(len(mates),)` int, ascending, where 0 is the best rank.
    """
    mate_scores = np.sort(scores[mates])
    ahead = count_at_least(scores, mate_scores) - count_at_least(mate_scores, mate_scores)
    if len(ignored):
        ahead -= count_at_least(scores[ignored], mate_scores)
    return ahead[::-1] + np.arange(len(mate_scores))


def average_precision(ranks: np.ndarray) -> float:
    """Returns the mean of the precisions at the rank of each mate.

    Args:
        ranks: ranks of the mates of one probe, from `ranks_of_mates`.
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1)))


def average_precision_trapezoid(ranks: np.ndarray) -> float:
    """Returns the average precision by the trapezoidal rule, as in the evaluation code of Market-1501.

    This is the mean of the precisions at each mate and at the entry before it. The precision before the first entry is
    1.
    """
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    return float(np.mean((before + (found + 1) / (ranks + 1)) / 2))


def average_precision_at_r(ranks: np.ndarray) -> float:
    """Returns the average precision over the first R entries, where R is the number of mates.

    Mates after the first R entries have precision 0.

    References:
        - [A Metric Learning Reality Check](https://arxiv.org/abs/2003.08505), section 3.2
    """
    precision = np.arange(1, len(ranks) + 1) / (ranks + 1)
    return float(np.sum(precision[ranks < len(ranks)]) / len(ranks))


def r_precision(ranks: np.ndarray) -> float:
    """Returns the share of mates among the first R entries, where R is the number of mates."""
    return float(np.mean(ranks < len(ranks)))


def cmc_curve(first_ranks: Sequence[int] | np.ndarray, max_rank: int) -> np.ndarray:
    """Returns the CMC curve: the share of probes whose best mate is among the first k entries.

    Args:
        first_ranks: `(n,)` rank of the best mate of each probe.
        max_rank: largest k.

    Returns:
        `(max_rank,)` shares, for k = 1, 2, ..., max_rank.
    """
    counts = np.bincount(np.minimum(first_ranks, max_rank), minlength=max_rank + 1)
    return np.cumsum(counts)[:max_rank] / len(first_ranks)


def cmc_at(cmc: np.ndarray, k: int) -> float:
    """Returns the value of a CMC curve at rank k.

    Raises:
        ValueError: if k is below 1 or above the length of the curve.
    """
    if not 1 <= k <= len(cmc):
        raise ValueError(f"k must be in [1, {len(cmc)}], the ranks of the CMC curve. Received: k={k}")
    return float(cmc[k - 1])


class RowsByLabel:
    """Index from a label to the rows with that label.

    >>> RowsByLabel(np.array([7, 5, 7]))[7]
    array([0, 2])
    """

    def __init__(self, labels: np.ndarray):
        self._order = np.argsort(labels, kind="stable")
        self._labels, starts = np.unique(labels[self._order], return_index=True)
        self._bounds = np.append(starts, len(labels))

    def __getitem__(self, label: int) -> np.ndarray:
        index = np.searchsorted(self._labels, label)
        if index == len(self._labels) or self._labels[index] != label:
            return self._order[:0]
        return self._order[self._bounds[index] : self._bounds[index + 1]]


class TopScores:
    """Collector of the k highest scores of a stream.

    It stores at most `max(2 * k, 2**20)` scores between calls.

    Attributes:
        floor: lower bound of the k highest scores. Lower scores are ignored.
    """

    def __init__(self, k: int):
        self.k = k
        self.floor = -np.inf
        self._kept: list[np.ndarray] = []
        self._count = 0

    def add(self, scores: np.ndarray) -> None:
        candidates = scores[scores > self.floor]
        self._kept.append(candidates)
        self._count += len(candidates)
        if self._count > max(2 * self.k, _MIN_BUFFER):
            self._drop_low_scores()

    def descending(self) -> np.ndarray:
        """Returns the `(k,)` highest scores, or fewer if fewer were added."""
        self._drop_low_scores()
        return np.sort(self._kept[0])[::-1]

    def _drop_low_scores(self) -> None:
        kept = np.concatenate([np.empty(0, np.float32), *self._kept])
        if len(kept) > self.k:
            kept = np.partition(kept, len(kept) - self.k)[len(kept) - self.k :]
            self.floor = kept.min()
        self._kept, self._count = [kept], len(kept)
