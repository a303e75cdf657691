"""Identification (1:N) on closed and open sets, and among many distractors."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.roc import drop_nan_rates
from keras_arcface.evaluation.roc import has_enough_impostors
from keras_arcface.evaluation.roc import max_accepted
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import l2_normalize

_CMC_RANKS = 100
_DISTRACTORS_PER_BLOCK = 2**16


@dataclasses.dataclass(frozen=True)
class IdentificationResult:
    """Result of `identify`.

    Attributes:
        cmc: `(100,)`, the share of mated probes whose mate is among the first k gallery entries, for k = 1, 2, ...
        dir: detection and identification rate by false accept rate (FAR): the share of mated probes whose mate is the
            first gallery entry and scores above the threshold for this FAR. NaN if there are fewer than `1 / far`
            nonmated probes; empty without nonmated probes.
        mated: number of probes with a mate in the gallery.
        nonmated: number of probes without a mate in the gallery.

    Examples:
        >>> result = identify([[1.0, 0.2], [0.6, 0.5]], [7, 8], np.eye(2), [7, 8], progress=False)
        >>> result.cmc[:2]
        array([0.5, 1. ])
        >>> result.rank(2)
        1.0
    """

    cmc: np.ndarray
    dir: dict[float, float]
    mated: int
    nonmated: int

    def __repr__(self) -> str:
        rates = {"rank_1": self.rank(1), "rank_5": self.rank(5), "dir": drop_nan_rates(self.dir)}
        return format_result(self, **rates, mated=self.mated, nonmated=self.nonmated)

    def rank(self, k: int) -> float:
        """Returns the share of mated probes whose mate is among the first k gallery entries.

        Args:
            k: rank in [1, 100]; 1 for the first entry.

        Returns:
            The share, in [0, 1].

        Raises:
            ValueError: if `k` is outside of [1, 100].
        """
        return ranking.cmc_at(self.cmc, k)

    @classmethod
    def mean(cls, results: Sequence["IdentificationResult"]) -> "IdentificationResult":
        """Returns the mean of the rates of several galleries, as IJB-B and IJB-C publish it for their two.

        Args:
            results: results of `identify`, with the same false accept rates.

        Returns:
            An `IdentificationResult` with the mean rates. A mean of NaN is NaN. The numbers of probes are those of all
            results together, so a probe counts once for each gallery.

        Raises:
            ValueError: if there is no result, or the false accept rates differ.

        Examples:
            >>> first = identify([[1.0, 0.2], [0.6, 0.5]], [7, 8], [[1.0, 0.0]], [7], fars=(1.0,), progress=False)
            >>> second = identify([[1.0, 0.2], [0.6, 0.5]], [7, 8], [[0.0, 1.0]], [8], fars=(1.0,), progress=False)
            >>> IdentificationResult.mean([first, second])
            IdentificationResult(rank_1=1.0000, rank_5=1.0000, dir={1: 1.0000}, mated=2, nonmated=2)
        """
        fars = [list(result.dir) for result in results]
        if not results or any(other != fars[0] for other in fars):
            raise ValueError(
                f"results must be one or more results with the same false accept rates. Received: {len(results)} "
                f"results with the rates {fars}"
            )
        return cls(
            cmc=np.mean([result.cmc for result in results], axis=0),
            dir={far: float(np.mean([result.dir[far] for result in results])) for far in fars[0]},
            mated=sum(result.mated for result in results),
            nonmated=sum(result.nonmated for result in results),
        )


def identify(
    probes, probe_labels, gallery, gallery_labels, fars: Iterable[float] = (0.01, 0.1), progress: bool = True
) -> IdentificationResult:
    """Searches each probe's identity in a gallery, by cosine, as in IJB-B and IJB-C 1:N.

    Probes whose label is not in the gallery (nonmated probes) determine the thresholds for DIR@FAR, the detection and
    identification rate: the lowest threshold that accepts at most this share of them. IJB-B and IJB-C publish the mean
    over their two galleries: call this function once per gallery, and then `IdentificationResult.mean`. A gallery entry
    with the same score as a mate ranks before it.

    Args:
        probes: `(n, dim)` embeddings of images or templates, of any norm.
        probe_labels: `(n,)` int, the identities of the probes.
        gallery: `(m, dim)` embeddings, of any norm.
        gallery_labels: `(m,)` int, the identities of the gallery entries.
        fars: false accept rates for DIR.
        progress: if true, shows a progress bar.

    Returns:
        An `IdentificationResult`.

    Raises:
        ValueError: if the shapes do not match, labels are not integers, an embedding is zero or not finite (the error
            names its row), a FAR is outside (0, 1], or no probe has a mate in the gallery.

    Examples:
        A gallery of two people, two probes of them, and ten probes of other people:

        >>> gallery = [[1.0, 0.0], [0.0, 1.0]]
        >>> probes = [[0.9, 0.1], [0.1, 0.9]] + [[0.5, 0.5 + 0.01 * n] for n in range(10)]
        >>> labels = [0, 1] + [2] * 10
        >>> identify(probes, labels, gallery, [0, 1], fars=(0.1,), progress=False)
        IdentificationResult(rank_1=1.0000, rank_5=1.0000, dir={0.1: 1.0000}, mated=2, nonmated=10)

    References:
        - [IARPA Janus Benchmark - C](https://ieeexplore.ieee.org/document/8411217)
    """
    probes, gallery = l2_normalize(probes, "probes"), l2_normalize(gallery, "gallery")
    probe_labels = check_labels(probe_labels, probes, "probe_labels", "probes")
    gallery_labels = check_labels(gallery_labels, gallery, "gallery_labels", "gallery")
    fars = check_fars(fars)
    rows_of = ranking.RowsByLabel(gallery_labels)
    ranks, mate_scores, nonmated_scores = [], [], []
    for rows, scores in score_blocks(probes, gallery, progress="identification" if progress else None):
        for label, row in zip(probe_labels[rows], scores, strict=True):
            mates = rows_of[label]
            if len(mates):
                ranks.append(ranking.ranks_of_mates(row, mates)[0])
                mate_scores.append(row[mates].max())
            else:
                nonmated_scores.append(row.max())
    if not ranks:
        raise ValueError(
            f"probe_labels must contain a label of gallery_labels. Received: {len(probes)} probes without a label of "
            f"the {len(gallery)} gallery entries"
        )
    identified = np.where(np.array(ranks) == 0, mate_scores, -np.inf)
    impostors = np.sort(nonmated_scores)[::-1]
    return IdentificationResult(
        cmc=ranking.cmc_curve(ranks, _CMC_RANKS),
        dir={far: _rate_at_far(far, identified, impostors, len(impostors)) for far in fars} if len(impostors) else {},
        mated=len(ranks),
        nonmated=len(impostors),
    )


@dataclasses.dataclass(frozen=True)
class DistractorResult:
    """Result of `identify_among_distractors`.

    Attributes:
        cmc: `(100,)`, the share of genuine pairs whose mate is among the first k entries when it is added to the
            distractors, for k = 1, 2, ...
        tar: true accept rate by false accept rate (FAR): the largest share of genuine pairs accepted at any threshold
            that accepts at most this share of all pairs of a probe and a distractor. NaN if there are fewer than
            `1 / far` such pairs.
        genuine: number of genuine pairs, where each pair counts in both orders.
        impostor: number of pairs of a probe and a distractor.

    Examples:
        >>> probes, distractors = [[1.0, 0.1], [1.0, 0.3]], [[1.0, 0.5], [0.0, 1.0]]
        >>> result = identify_among_distractors(probes, [0, 0], distractors, fars=(0.5,), progress=False)
        >>> result.rank(1), result.genuine, result.impostor
        (0.5, 2, 4)
        >>> result.tar
        {0.5: 1.0}
    """

    cmc: np.ndarray
    tar: dict[float, float]
    genuine: int
    impostor: int

    def __repr__(self) -> str:
        rates = {"rank_1": self.rank(1), "rank_10": self.rank(10), "tar": drop_nan_rates(self.tar)}
        return format_result(self, **rates, genuine=self.genuine, impostor=self.impostor)

    def rank(self, k: int) -> float:
        """Returns the share of genuine pairs whose mate is among the first k entries.

        Args:
            k: rank in [1, 100]; 1 for the first entry.

        Returns:
            The share, in [0, 1].

        Raises:
            ValueError: if `k` is outside of [1, 100].
        """
        return ranking.cmc_at(self.cmc, k)


def identify_among_distractors(
    probes, labels, distractors, fars: Iterable[float] = (1e-3, 1e-4, 1e-5, 1e-6), progress: bool = True
) -> DistractorResult:
    """Searches one image of each probe's identity among distractors, as in MegaFace's challenge 1.

    For each ordered pair of two images of one identity, the first is the probe, and only the second is added to the
    distractors. A distractor with the same score as the mate ranks before it.

    Args:
        probes: `(n, dim)` embeddings, of any norm. The published protocol has 3,530 FaceScrub images of 80 people.
        labels: `(n,)` int, the identities of the probes.
        distractors: `(m, dim)` embeddings of other identities, of any norm, as an array or as an object whose slices
            are arrays, such as `data.FeatureFiles`. They are read once, in blocks of 65,536 rows, so that a memory map
            or files of a million distractors, which the published protocol has, are never in memory at once.
        fars: false accept rates for TAR. The highest one determines the number of scores in memory.
        progress: if true, shows a progress bar.

    Returns:
        A `DistractorResult`.

    Raises:
        ValueError: if the shapes do not match, labels are not integers, an embedding is zero or not finite (the error
            names its row), a FAR is outside (0, 1], or no identity has two images.

    Examples:
        Two images of one person among 1000 distractors in random directions:

        >>> distractors = np.random.default_rng(0).normal(size=(1000, 16))
        >>> person = np.ones(16)
        >>> probes = [person, person + 0.3 * distractors[0]]
        >>> identify_among_distractors(probes, [0, 0], distractors[1:], fars=(1e-3,), progress=False)
        DistractorResult(rank_1=1.0000, rank_10=1.0000, tar={0.001: 1.0000}, genuine=2, impostor=1998)

    References:
        - [The MegaFace Benchmark](https://arxiv.org/abs/1512.00596)
    """
    probes = l2_normalize(probes, "probes")
    if isinstance(distractors, list | tuple):
        distractors = np.asarray(distractors)
    if not len(distractors):
        raise ValueError("distractors must contain at least one embedding. Received: 0 embeddings")
    labels = check_labels(labels, probes, "labels", "probes")
    fars = check_fars(fars)
    mate_scores = _scores_with_mates(probes, labels)
    genuine = np.sort(np.concatenate(mate_scores))
    if not len(genuine):
        raise ValueError(
            f"labels must contain an identity with two images. Received: {len(probes)} probes of {len(probes)} "
            "identities"
        )
    impostors = len(probes) * len(distractors)
    top = ranking.TopScores(max((max_accepted(far, impostors) for far in fars), default=0) + 1)
    ahead = [np.zeros(len(mates), np.int64) for mates in mate_scores]
    for block in _normalized_blocks(distractors, progress):
        for rows, scores in score_blocks(probes, block):
            for probe, row in zip(range(rows.start, rows.stop), scores, strict=True):
                mates = mate_scores[probe]
                # Low scores affect neither the ranks nor the top scores, so they are removed first.
                row = row[np.flatnonzero(row >= min([*mates[:1], top.floor]))]
                if len(mates):
                    ahead[probe] += ranking.count_at_least(row, mates)
                top.add(row)
    impostor_scores = top.descending()
    return DistractorResult(
        cmc=ranking.cmc_curve(np.concatenate(ahead), _CMC_RANKS),
        tar={far: _rate_at_far(far, genuine, impostor_scores, impostors) for far in fars},
        genuine=len(genuine),
        impostor=impostors,
    )


def _normalized_blocks(distractors: Any, progress: bool) -> Iterator[np.ndarray]:
    """Iterates over the L2-normalized rows of distractors in blocks."""
    # An explicit False would override the environment variable TQDM_DISABLE.
    disable = {} if progress else {"disable": True}
    with tqdm(total=len(distractors), desc="distractors", unit="row", leave=False, **disable) as bar:
        for start in range(0, len(distractors), _DISTRACTORS_PER_BLOCK):
            block = np.asarray(distractors[start : start + _DISTRACTORS_PER_BLOCK])
            yield l2_normalize(block, "distractors", _row_names(start))
            bar.update(len(block))


def _row_names(first: int) -> Callable[[int], str]:
    return lambda row: f"row {first + row}"


def _scores_with_mates(probes: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Returns the ascending scores of each probe with the other probes of its label."""
    rows_of = ranking.RowsByLabel(labels)
    mate_scores = []
    for rows, scores in score_blocks(probes, probes):
        for probe, row in zip(range(rows.start, rows.stop), scores, strict=True):
            mates = rows_of[labels[probe]]
            mate_scores.append(np.sort(row[mates[mates != probe]]))
    return mate_scores


def _rate_at_far(far: float, scores: np.ndarray, impostors_descending: np.ndarray, num_impostors: int) -> float:
    """Returns the share of scores above the highest impostor score rejected at a FAR; NaN with too few impostors."""
    if not has_enough_impostors(far, num_impostors):
        return float("nan")
    accepted = max_accepted(far, num_impostors)
    highest_rejected = impostors_descending[accepted] if accepted < num_impostors else -np.inf
    return float(np.mean(scores > highest_rejected))
