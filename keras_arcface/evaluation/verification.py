"""Verification of pairs in folds, as on LFW: the threshold of each fold is chosen on the other folds."""

import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_arcface.evaluation import bootstrap
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import RocFigures
from keras_arcface.evaluation.roc import is_measurable
from keras_arcface.evaluation.roc import measurable
from keras_arcface.evaluation.validation import check_fars
from keras_arcface.evaluation.validation import check_pairs
from keras_arcface.evaluation.validation import check_same
from keras_arcface.evaluation.vectors import l2_norms
from keras_arcface.evaluation.vectors import rows_per_chunk

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# The published grids of thresholds for accuracy and for TAR@FAR, in squared L2 distance of unit vectors: 2 - 2 *
# cosine.
_ACCURACY_GRID = np.arange(0, 4, 0.01)
_TAR_GRID = np.arange(0, 4, 0.001)


@dataclasses.dataclass(frozen=True)
class FoldAccuracies:
    """Accuracy of each fold, at a threshold that was chosen on the other folds.

    Attributes:
        accuracies: `(folds,)`, the share of the fold's pairs that are decided correctly.
        thresholds: `(folds,)` cosines above which a pair is accepted as the same person.
        mean, std: of the accuracies.
        threshold: mean of the thresholds.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray

    def __repr__(self) -> str:
        folds = len(self.accuracies)
        return format_result(self, mean=self.mean, std=self.std, threshold=self.threshold, folds=folds)

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        return float(np.std(self.accuracies))

    @property
    def threshold(self) -> float:
        return float(np.mean(self.thresholds))


@dataclasses.dataclass(frozen=True)
class VerificationResult(RocFigures):
    """Result of `verify`.

    Attributes:
        accuracy, accuracy_std: mean and standard deviation over the folds, with thresholds from the published grid.
        threshold: mean of the folds' thresholds: the cosine above which a pair is accepted as the same person.
        grid: `FoldAccuracies` with thresholds from the published grid; the source of the three figures above.
        exact: `FoldAccuracies` with the best of all thresholds, halfway between two scores, instead of the best of the
            grid.
        tar: for a false accept rate (FAR), the largest true accept rate of any threshold whose FAR is at most that,
            over all pairs. NaN if there are fewer than `1 / far` impostor pairs, which cannot measure it.
        tar_published: for a FAR, the mean and standard deviation over the folds of the true accept rate at the
            threshold where the FAR of the other folds, interpolated over a grid of thresholds, reaches it. NaN as for
            `tar`.
        auc: area under the ROC curve of all pairs; ties count half.
        eer: equal error rate of all pairs.
        roc: the whole curve, a `Roc`.
        scores: `(n,)` cosines of the pairs, in their order.
        same: `(n,)` bool, true for genuine pairs, as given.
        correct: `(n,)` bool, whether a pair is decided correctly by the grid threshold of its fold.
        fold_of_pair: `(n,)` int, the fold of each pair.
    """

    grid: FoldAccuracies
    exact: FoldAccuracies
    tar: dict[float, float]
    tar_published: dict[float, tuple[float, float]]
    roc: Roc
    scores: np.ndarray
    same: np.ndarray
    correct: np.ndarray
    fold_of_pair: np.ndarray

    def __repr__(self) -> str:
        return format_result(
            self,
            accuracy=self.accuracy,
            accuracy_std=self.accuracy_std,
            threshold=self.threshold,
            auc=self.auc,
            eer=self.eer,
            tar=measurable(self.tar),
            genuine=len(self.roc.genuine),
            impostor=len(self.roc.impostor),
        )

    @property
    def accuracy(self) -> float:
        return self.grid.mean

    @property
    def accuracy_std(self) -> float:
        return self.grid.std

    @property
    def threshold(self) -> float:
        return self.grid.threshold

    def intervals(self, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict:
        """Returns bootstrap confidence intervals.

        Genuine and impostor pairs are resampled separately, and the thresholds of the folds stay fixed. Pairs that
        share people are not independent, and then the true intervals are wider.

        Args:
            samples: number of bootstrap samples.
            level: confidence level, in (0, 1).
            seed: seed of the random generator.

        Returns:
            `{"accuracy": (low, high), "auc": ..., "eer": ..., "tar": {far: (low, high)}}`.
        """
        accuracy = bootstrap.accuracy_interval(self.correct, self.same, samples, level, seed)
        return {"accuracy": accuracy, **bootstrap.roc_intervals(self.roc, self.tar, samples, level, seed)}


def verify(
    embeddings,
    same,
    folds: int = 10,
    fars: Iterable[float] = FARS,
    pairs=None,
    shuffle_seed: int | None = None,
) -> VerificationResult:
    """Measures how well embeddings decide whether two images show the same person.

    The published procedure of LFW, CFP-FP, AgeDB-30, CALFW and CPLFW: the pairs are split into folds in their order.
    For each fold, the threshold is the first best of the grid 0, 0.01, ..., 3.99 of squared distances on all other
    folds, and a pair is accepted if its distance is strictly below the threshold. No threshold is chosen on the pairs
    that it decides. For YTF, pass the mean embeddings of the videos (`pool_templates`).

    Args:
        embeddings: `(2n, dim)`, any norm; pair i is rows `2 * i` and `2 * i + 1`. With `pairs`, `(m, dim)`.
        same: `(n,)` bool, true for pairs of the same person.
        folds: number of folds.
        fars: false accept rates for the true accept rates.
        pairs: `(n, 2)` int, the row indices of each pair; None for consecutive rows.
        shuffle_seed: seed to shuffle the pairs before they are split, for sets that are not ordered in folds, such as
            LFW's View 1, where all genuine pairs come first. The result is not a published figure. None for no
            shuffling.

    Returns:
        A `VerificationResult`.

    Raises:
        ValueError: if the shapes do not match, all pairs are of one kind, there are fewer pairs than folds, a FAR is
            outside (0, 1], or an embedding is zero or not finite (the error names its image and pair).

    Warns:
        UserWarning: if most folds contain pairs of one kind only.

    >>> first, second = [1.0, 0.1], [0.1, 1.0]
    >>> embeddings = np.array([first, first, first, second] * 10)  # 20 pairs
    >>> result = verify(embeddings, same=[True, False] * 10)
    >>> result.accuracy, result.auc
    (1.0, 1.0)

    References:
        - [Labeled Faces in the Wild](http://vis-www.cs.umass.edu/lfw/lfw.pdf), section on View 2
        - [YouTube Faces](https://www.cs.tau.ac.il/~wolf/ytfaces/WolfHassnerMaoz_CVPR11.pdf)
    """
    embeddings = np.asarray(embeddings)
    pairs, name_of = _resolve_pairs(pairs, embeddings)
    same = check_same(same, len(pairs))
    fars = check_fars(fars)
    if not 2 <= folds <= len(same):
        raise ValueError(f"folds must be in [2, {len(same)}], at most the number of pairs. Received: folds={folds}")
    scores, distances = _compare(embeddings, l2_norms(embeddings, "embeddings", name_of), pairs)
    fold_of_pair = _split(len(same), folds, shuffle_seed)
    uniform = sum(len(set(same[fold_of_pair == fold])) == 1 for fold in range(folds))
    if uniform > folds // 2 and len(same) >= 4 * folds:
        warnings.warn(
            f"{uniform} of {folds} folds contain pairs of one kind only. The pairs are probably not ordered in folds: "
            "pass shuffle_seed, for instance 0, to split them in random order",
            stacklevel=2,
        )
    roc = Roc.from_pairs(scores, same)
    grid, correct = _grid_accuracies(distances, same, fold_of_pair, folds)
    return VerificationResult(
        grid=grid,
        exact=_exact_accuracies(scores, same, fold_of_pair, folds),
        tar={far: roc.tar_at(far) for far in fars},
        tar_published=_interpolated_tars(fars, distances, same, fold_of_pair, folds),
        roc=roc,
        scores=scores,
        same=same,
        correct=correct,
        fold_of_pair=fold_of_pair,
    )


def _resolve_pairs(pairs: Any, embeddings: np.ndarray) -> tuple[np.ndarray, Callable[[int], str]]:
    """Returns the row indices of each pair, and a function from a row index to its name in errors."""
    if pairs is not None:
        return check_pairs(pairs, len(embeddings)), "row {}".format
    if embeddings.ndim != 2 or len(embeddings) % 2:
        raise ValueError(
            "verify expects embeddings of shape (2n, dim), two rows per pair. Received: embeddings of shape "
            f"{embeddings.shape}"
        )
    return np.arange(len(embeddings)).reshape(-1, 2), lambda row: f"image {row} (of pair {row // 2})"


def _split(num_pairs: int, folds: int, shuffle_seed: int | None) -> np.ndarray:
    """Returns the fold of each pair."""
    order = np.arange(num_pairs)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(num_pairs)
    fold_of_pair = np.empty(num_pairs, np.int64)
    for fold, members in enumerate(np.array_split(order, folds)):
        fold_of_pair[members] = fold
    return fold_of_pair


def _compare(embeddings: np.ndarray, norms: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines and squared distances of pairs, in float64."""
    scores, distances = np.empty(len(pairs)), np.empty(len(pairs))
    chunk = rows_per_chunk(embeddings.shape[1])
    for start in range(0, len(pairs), chunk):
        rows = slice(start, start + chunk)
        first, second = (embeddings[side].astype(np.float64) for side in pairs[rows].T)
        first /= norms[pairs[rows, 0], None]
        second /= norms[pairs[rows, 1], None]
        scores[rows] = np.einsum("id,id->i", first, second)
        first -= second
        distances[rows] = np.einsum("id,id->i", first, first)
    return scores, distances


def _accepted_counts(grid: np.ndarray, distances: np.ndarray, fold_of_pair: np.ndarray, folds: int) -> np.ndarray:
    """Returns `(folds, thresholds)`, the number of distances strictly below each threshold."""
    first_above = np.searchsorted(grid, distances, side="right")
    counts = np.bincount(fold_of_pair * (len(grid) + 1) + first_above, minlength=folds * (len(grid) + 1))
    return np.cumsum(counts.reshape(folds, -1), axis=1)[:, :-1]


def _grid_accuracies(distances, same, fold_of_pair, folds: int) -> tuple[FoldAccuracies, np.ndarray]:
    """Returns accuracies at the first best threshold of the published grid, and which pairs are decided correctly."""
    genuine = _accepted_counts(_ACCURACY_GRID, distances[same], fold_of_pair[same], folds)
    impostor = _accepted_counts(_ACCURACY_GRID, distances[~same], fold_of_pair[~same], folds)
    num_impostors = np.bincount(fold_of_pair[~same], minlength=folds)
    correct = genuine + num_impostors[:, None] - impostor
    best = np.argmax(np.sum(correct, axis=0) - correct, axis=1)
    thresholds = _ACCURACY_GRID[best]
    accuracies = correct[np.arange(folds), best] / np.bincount(fold_of_pair, minlength=folds)
    return FoldAccuracies(accuracies, 1 - thresholds / 2), (distances < thresholds[fold_of_pair]) == same


def _exact_accuracies(scores, same, fold_of_pair, folds: int) -> FoldAccuracies:
    """Returns accuracies at the best of all thresholds that are halfway between two scores of the other folds.

    Of equally good thresholds, the highest is taken, which is the first one in distances.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, gain, sorted_folds = scores[order], np.where(same[order], 1, -1), fold_of_pair[order]
    accuracies, thresholds = np.empty(folds), np.empty(folds)
    for fold in range(folds):
        others = sorted_folds != fold
        thresholds[fold] = _best_threshold(sorted_scores[others], gain[others])
        in_fold = fold_of_pair == fold
        accuracies[fold] = np.mean((scores[in_fold] > thresholds[fold]) == same[in_fold])
    return FoldAccuracies(accuracies, thresholds)


def _best_threshold(scores: np.ndarray, gain: np.ndarray) -> float:
    """Returns the highest best threshold for scores in descending order; accepting a pair gains `gain`, 1 or -1."""
    gains = np.cumsum(gain)
    run_ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # ends of runs of equal scores
    best = run_ends[np.argmax(gains[run_ends])]
    if gains[best] <= 0:  # accepting no pair is as good
        return float(np.nextafter(scores[0], np.inf))
    if best == len(scores) - 1:  # accepting all pairs is best
        return float(np.nextafter(scores[-1], -np.inf))
    accepted, rejected = scores[best], scores[best + 1]
    halfway = (accepted + rejected) / 2
    return float(halfway if halfway < accepted else rejected)  # between neighboring floats, it may be rounded up


def _interpolated_tars(
    fars: tuple[float, ...], distances, same, fold_of_pair, folds: int
) -> dict[float, tuple[float, float]]:
    """Returns the mean and standard deviation over the folds of TAR at interpolated thresholds, for each FAR."""
    impostor = _accepted_counts(_TAR_GRID, distances[~same], fold_of_pair[~same], folds)
    num_impostors = np.bincount(fold_of_pair[~same], minlength=folds)
    tars: dict[float, list[float]] = {far: [] for far in fars}
    for fold in range(folds):
        genuine = distances[same & (fold_of_pair == fold)]
        others = num_impostors.sum() - num_impostors[fold]
        if len(genuine) == 0 or others == 0:
            continue
        far_of_others = (impostor.sum(axis=0) - impostor[fold]) / others
        for far in fars:
            # If several thresholds have the same FAR, the published interpolation is undefined: the largest is taken.
            threshold = np.interp(far, far_of_others, _TAR_GRID) if far_of_others[-1] >= far else 0.0
            tars[far].append(float(np.mean(genuine < threshold)))
    is_defined = {far: is_measurable(far, num_impostors.sum()) for far in fars}
    return {
        far: (float(np.mean(values)), float(np.std(values))) if is_defined[far] else (np.nan, np.nan)
        for far, values in tars.items()
    }
