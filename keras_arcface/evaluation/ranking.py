"""Where the right answers stand among all answers: ranks, and what the protocols make of them."""

import numpy as np


def count_at_least(scores, thresholds) -> np.ndarray:
    """How many of the scores are at or above each threshold.

    Args:
        scores: `(m,)`, in any order.
        thresholds: `(n,)`, ascending, n at least 1.

    Returns:
        `(n,)` int.
    """
    if len(thresholds) == 1:
        return np.array([np.count_nonzero(scores >= thresholds[0])])
    candidates = scores[scores >= thresholds[0]]  # few, where the embeddings are good
    passed = np.bincount(np.searchsorted(thresholds, candidates, side="right"), minlength=len(thresholds) + 1)
    return np.cumsum(passed[::-1])[::-1][1:]


def ranks_of_mates(scores, mates, ignored=()) -> np.ndarray:
    """The ranks at which the mates of one probe stand in the gallery.

    A gallery entry that scores as high as a mate stands before it: a model that gives every image one embedding finds
    nothing.

    Args:
        scores: `(m,)` scores of the probe with the gallery.
        mates: indices of the gallery entries of the probe's identity, at least one.
        ignored: indices of entries that are passed over as if they were not there.

    Returns:
        `(len(mates),)` int, ascending; rank 0 is the best.
    """
    of_mates = np.sort(scores[mates])
    ahead = count_at_least(scores, of_mates) - count_at_least(of_mates, of_mates)
    if len(ignored):
        ahead -= count_at_least(scores[ignored], of_mates)
    return ahead[::-1] + np.arange(len(of_mates))


def average_precision(ranks) -> float:
    """The mean, over the mates of one probe, of the share of mates among the entries up to each.

    Args:
        ranks: as `ranks_of_mates` gives them.
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1)))


def average_precision_trapezoid(ranks) -> float:
    """The same with the mean of the precision at each mate and just before it, as Market-1501's own program has it.

    Before the first entry the precision is taken to be 1.
    """
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    return float(np.mean((before + (found + 1) / (ranks + 1)) / 2))


def average_precision_at_r(ranks) -> float:
    """Average precision over the first R entries only, R being the number of mates; what is not found there adds 0.

    References:
        - [A Metric Learning Reality Check](https://arxiv.org/abs/2003.08505), section 3.2
    """
    precision = np.arange(1, len(ranks) + 1) / (ranks + 1)
    return float(np.sum(precision[ranks < len(ranks)]) / len(ranks))


def r_precision(ranks) -> float:
    """The share of mates among the first R entries, R being the number of mates."""
    return float(np.mean(ranks < len(ranks)))


def cumulative_match(first_ranks, up_to: int) -> np.ndarray:
    """The CMC curve: the share of probes whose best mate is among the first k entries.

    Args:
        first_ranks: `(n,)` rank of the best mate of every probe.
        up_to: largest k.

    Returns:
        `(up_to,)`, for k = 1 and on.
    """
    counts = np.bincount(np.minimum(first_ranks, up_to), minlength=up_to + 1)
    return np.cumsum(counts)[:up_to] / len(first_ranks)


def at_rank(cmc, k: int) -> float:
    """A CMC curve at k.

    Raises:
        ValueError: if k is below 1, or beyond the curve.
    """
    if not 1 <= k <= len(cmc):
        raise ValueError(f"k must be from 1 to {len(cmc)}, the length of the CMC curve. Received: {k}")
    return float(cmc[k - 1])


class Members:
    """The rows of each label, found without a search.

    >>> Members(np.array([7, 5, 7]))[7]
    array([0, 2])
    """

    def __init__(self, labels: np.ndarray):
        self._order = np.argsort(labels, kind="stable")
        self._labels, starts = np.unique(labels[self._order], return_index=True)
        self._bounds = np.append(starts, len(labels))

    def __getitem__(self, label) -> np.ndarray:
        at = np.searchsorted(self._labels, label)
        if at == len(self._labels) or self._labels[at] != label:
            return self._order[:0]
        return self._order[self._bounds[at] : self._bounds[at + 1]]


class HighestScores:
    """The k highest of a stream of scores (k at least 1), without holding more than a few times k."""

    def __init__(self, k: int):
        self.k = k
        self.floor = -np.inf  # what is below it is none of them
        self._held, self._count = [], 0

    def add(self, scores: np.ndarray) -> None:
        candidates = scores[scores > self.floor]
        self._held.append(candidates)
        self._count += len(candidates)
        if self._count > max(2 * self.k, 2**20):
            self._shrink()

    def descending(self) -> np.ndarray:
        """`(k,)`, or fewer if fewer were added."""
        self._shrink()
        return np.sort(self._held[0])[::-1]

    def _shrink(self):
        held = np.concatenate([np.empty(0, np.float32), *self._held])
        if len(held) > self.k:
            held = np.partition(held, len(held) - self.k)[len(held) - self.k :]
            self.floor = held.min()
        self._held, self._count = [held], len(held)
