"""Search for people who are in two sets, or twice in one set."""

import dataclasses
import math
import statistics
from collections.abc import Iterator

import numpy as np

from keras_arcface._arguments import check_number
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.ranking import RowsByLabel
from keras_arcface.evaluation.ranking import TopScores
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.templates import pool_templates
from keras_arcface.evaluation.vectors import l2_normalize

_BLOCK_BYTES = 2**28
_MAX_PAIRS = 1_000_000
# The tail is fitted between the highest scores of pairs of different people and ten times as many.
_TAIL_RATIO = 10
# Largest share of the pairs in the fitted tail.
_MAX_TAIL = 0.1
_NORMAL = statistics.NormalDist()


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Result of `find_overlap`: pairs of people who are probably the same person, the highest score first.

    Attributes:
        first_labels: `(k,)` int64, the class of each pair in the first set.
        second_labels: `(k,)` int64, the class of each pair in the second set. With one set, a larger label of the same
            set.
        scores: `(k,)` float32, the cosine of the mean embeddings of both classes, descending.
        first_rows: `(k,)` int64, the image of the first class that is most similar to an image of the second class.
        second_rows: `(k,)` int64, that image of the second class.
        image_scores: `(k,)` float32, the cosine of these two images.
        threshold: lowest score of a pair in this list.
        false_alarms: expected number of pairs of different people in this list, from the extrapolated tail of their
            scores. NaN if there are too few people to estimate it.
        compared: number of pairs of people that were compared.

    Examples:
        >>> overlap = find_overlap([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [4, 4, 7], [[1.0, 0.1]], threshold=0.9)
        >>> overlap
        Overlap(pairs=1, threshold=0.9000, false_alarms=nan, compared=2)
        >>> overlap.first_labels, overlap.first_rows
        (array([4]), array([1]))
    """

    first_labels: np.ndarray
    second_labels: np.ndarray
    scores: np.ndarray
    first_rows: np.ndarray
    second_rows: np.ndarray
    image_scores: np.ndarray
    threshold: float
    false_alarms: float
    compared: int

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        figures = {"threshold": self.threshold, "false_alarms": self.false_alarms, "compared": self.compared}
        return format_result(self, pairs=len(self), **figures)


def find_overlap(
    first,
    first_labels,
    second=None,
    second_labels=None,
    threshold: float | None = None,
    false_alarms: float = 1.0,
    progress: bool = True,
) -> Overlap:
    """Finds people who are in both of two sets, such as a training and a test set, or in two classes of one set.

    The score of two people is the cosine of the mean embeddings of their images (`pool_templates`). All pairs of people
    are compared in blocks, so that the scores of millions of people with thousands need little memory. The best pair of
    images is computed for the pairs that are found.

    Every pair of people can be a false alarm: 300 and 1000 people are 300,000 pairs, so a threshold with a false accept
    rate of 0.001 gives 300 false alarms. The default threshold therefore depends on the number of pairs. It is the
    score that `false_alarms` pairs of different people are expected to reach. Since nearly all pairs are of different
    people, the scores themselves determine it: the highest ones, as many as pairs of the same person can exist, are
    left out, and the tail of a normal distribution through two ranks below is extrapolated. The number of pairs of the
    same person is assumed to be at most the number of people of the smaller set, of images without labels, or of
    classes of a single set. The expected number is an estimate, not a bound: relatives and people who look alike make
    the tail longer.

    Args:
        first: `(n, dim)` embeddings, of any norm.
        first_labels: `(n,)` int, the class of each image. None if each image is of another person; then the label of an
            image is its row.
        second: `(m, dim)` embeddings of the other set. None compares the classes of the first set with each other.
        second_labels: `(m,)` int, as `first_labels`. The labels of the two sets are not related.
        threshold: lowest score of a pair in the result. None to determine it from `false_alarms`.
        false_alarms: expected number of pairs of different people in the result, above 0. Not used with `threshold`.
        progress: if true, shows a progress bar.

    Returns:
        An `Overlap`.

    Raises:
        ValueError: if the shapes do not match, labels are not integers, an embedding is zero or not finite (the error
            names its row), `second_labels` is given without `second`, there are fewer than two people in a single set,
            too few people to determine the threshold (fewer than 100 to 200), or more than a million pairs reach it.

    Examples:
        300 people of a training set, 200 of a test set, and the last 5 people are in both:

        >>> rng = np.random.default_rng(0)
        >>> people = rng.normal(size=(495, 64))
        >>> images = np.repeat(people, 2, axis=0) + 0.3 * rng.normal(size=(990, 64))
        >>> labels = np.repeat(np.arange(495), 2)
        >>> train, test = labels < 300, labels >= 295
        >>> overlap = find_overlap(
        ...     images[train], labels[train], images[test], labels[test], false_alarms=0.01, progress=False
        ... )
        >>> sorted(overlap.first_labels.tolist())
        [295, 296, 297, 298, 299]
        >>> overlap.compared
        60000

        Two classes of one set that are the same person:

        >>> labels[-2:] = 600
        >>> images[-2:] = images[:2] + 0.3 * rng.normal(size=(2, 64))
        >>> overlap = find_overlap(images, labels, threshold=0.8, progress=False)
        >>> overlap.first_labels, overlap.second_labels
        (array([0]), array([600]))
    """
    if second is None and second_labels is not None:
        raise ValueError(
            f"second must be the embeddings of second_labels. Received: second=None, {len(second_labels)} labels"
        )
    if threshold is None:
        check_number("false_alarms", false_alarms, lambda number: number > 0, "above 0")
    else:
        check_number("threshold", threshold, math.isfinite, "a finite number or None")
    people = _People(first, first_labels, "first", "first_labels")
    others = people if second is None else _People(second, second_labels, "second", "second_labels")
    if second is None and len(people) < 2:
        raise ValueError("first must contain at least two people. Received: 1 person")
    pairs = _Pairs(people, others, progress)
    tail = _Tail.fit(pairs, 1.0 if threshold is not None else false_alarms)
    if threshold is None:
        if tail is None:
            raise ValueError(
                f"threshold must be a number, because it can be determined only if {_TAIL_RATIO * pairs.same_limit:,} "
                f"pairs are at most {_MAX_TAIL:.0%} of all pairs. Received: threshold=None, and {len(pairs):,} pairs "
                "of people"
            )
        threshold = tail.score_of(false_alarms)
    rows, columns, scores = pairs.at_least(threshold)
    order = np.argsort(-scores, kind="stable")
    rows, columns, scores = rows[order], columns[order], scores[order]
    best = [people.best_images(row, others, column) for row, column in zip(rows, columns, strict=True)]
    first_rows, second_rows, image_scores = zip(*best, strict=True) if best else ((), (), ())
    return Overlap(
        first_labels=people.labels[rows],
        second_labels=others.labels[columns],
        scores=scores,
        first_rows=np.array(first_rows, np.int64),
        second_rows=np.array(second_rows, np.int64),
        image_scores=np.array(image_scores, np.float32),
        threshold=float(threshold),
        false_alarms=float("nan") if tail is None else tail.number_above(threshold),
        compared=len(pairs),
    )


class _People:
    """Mean embeddings of the classes of a set, and the embeddings of their images.

    Attributes:
        labels: `(p,)` int64, the label of each person, ascending.
        means: `(p, dim)` float32, L2-normalized.
        has_labels: whether an image can share its person with other images.
    """

    def __init__(self, embeddings, labels, name: str, labels_name: str):
        self._images = l2_normalize(embeddings, name)
        self.has_labels = labels is not None
        if labels is None:
            image_labels = np.arange(len(self._images))
            self.labels, self.means = image_labels, self._images
        else:
            image_labels = check_labels(labels, self._images, labels_name, name)
            self.labels, self.means = pool_templates(embeddings, image_labels)
        self._rows_of = RowsByLabel(image_labels)

    def __len__(self) -> int:
        return len(self.labels)

    def best_images(self, person: int, others: "_People", other: int) -> tuple[int, int, float]:
        """Returns the rows of the most similar images of a person and another one, and their cosine."""
        rows, other_rows = self._rows_of[self.labels[person]], others._rows_of[others.labels[other]]
        scores = self._images[rows] @ others._images[other_rows].T
        best, other_best = np.unravel_index(np.argmax(scores), scores.shape)
        return int(rows[best]), int(other_rows[other_best]), float(scores[best, other_best])


class _Pairs:
    """Scores of all pairs of people of two sets, or of one set.

    Attributes:
        same_limit: assumed upper limit of the number of pairs of the same person.
    """

    def __init__(self, people: _People, others: _People, progress: bool):
        self._people, self._others, self._progress = people, others, progress
        sizes = [len(side) for side in (people, others) if not side.has_labels]
        self.same_limit = max(sizes) if sizes else min(len(people), len(others))

    def __len__(self) -> int:
        if self._others is self._people:
            return len(self._people) * (len(self._people) - 1) // 2
        return len(self._people) * len(self._others)

    def highest(self, k: int) -> np.ndarray:
        """Returns the `(k,)` highest scores, descending."""
        top = TopScores(k)
        for _, scores in self._blocks("scores"):
            top.add(scores[np.isfinite(scores)])
        return top.descending()

    def at_least(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the people, the other people and the scores of all pairs at or above a threshold."""
        found, count = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))], 0
        for start, scores in self._blocks("people"):
            rows, columns = np.nonzero(scores >= threshold)
            count += len(rows)
            if count > _MAX_PAIRS:
                raise ValueError(
                    f"threshold must be so high that at most {_MAX_PAIRS:,} pairs of people reach it. "
                    f"Received: threshold={threshold:g}, which more of the {len(self):,} pairs reach"
                )
            found.append((rows + start, columns, scores[rows, columns]))
        rows, columns, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return rows, columns, scores

    def _blocks(self, progress: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the first person and the scores of each block, with -inf for the second occurrence of a pair."""
        label = progress if self._progress else None
        for rows, scores in score_blocks(self._people.means, self._others.means, _BLOCK_BYTES, label):
            if self._others is self._people:
                is_later = np.arange(len(self._people)) > np.arange(rows.start, rows.stop)[:, None]
                scores = np.where(is_later, scores, -np.inf)
            yield rows.start, scores


@dataclasses.dataclass(frozen=True)
class _Tail:
    """Upper tail of the scores of pairs of different people, as that of a normal distribution."""

    mean: float
    deviation: float
    pairs: int

    @classmethod
    def fit(cls, pairs: _Pairs, false_alarms: float) -> "_Tail | None":
        """Fits two quantiles below the scores that may be of the same person; None if there are too few scores.

        Pairs above the score of the expected number of false alarms are probably of the same person. They are not
        counted in the ranks of the quantiles, which changes that score, so the fit is repeated until it agrees.
        """
        top, bottom = pairs.same_limit, _TAIL_RATIO * pairs.same_limit
        if bottom > _MAX_TAIL * len(pairs):
            return None
        scores = pairs.highest(bottom + top)
        same = 0
        while True:
            tail = cls._through(scores[same:], top, bottom, len(pairs) - same)
            found = int(np.count_nonzero(scores >= tail.score_of(false_alarms))) - math.ceil(false_alarms)
            if min(found, top) <= same:
                return tail
            same = min(found, top)

    @classmethod
    def _through(cls, scores: np.ndarray, top: int, bottom: int, pairs: int) -> "_Tail":
        """Returns the normal distribution with the scores at two ranks of a number of pairs."""
        upper, lower = float(scores[top - 1]), float(scores[bottom - 1])
        upper_z, lower_z = (-_NORMAL.inv_cdf(rank / pairs) for rank in (top, bottom))
        deviation = (upper - lower) / (upper_z - lower_z)
        return cls(upper - deviation * upper_z, deviation, pairs)

    def score_of(self, number: float) -> float:
        """Returns the score that a number of pairs is expected to reach."""
        rate = min(number / self.pairs, 0.5)
        return self.mean - self.deviation * _NORMAL.inv_cdf(rate)

    def number_above(self, score: float) -> float:
        """Returns the expected number of pairs at or above a score."""
        if self.deviation == 0:
            return float(self.pairs if score <= self.mean else 0)
        return self.pairs * math.erfc((score - self.mean) / self.deviation / math.sqrt(2)) / 2
