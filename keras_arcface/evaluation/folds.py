"""Cross-validation over folds of pairs: the threshold of each fold is chosen on the other folds."""

import dataclasses

import numpy as np

from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.roc import has_enough_impostors

# The published grids of thresholds for accuracy and for TAR@FAR, as squared L2 distances of unit vectors, which are
# 2 - 2 * cosine.
_ACCURACY_GRID = np.arange(0, 4, 0.01)
_TAR_GRID = np.arange(0, 4, 0.001)


@dataclasses.dataclass(frozen=True)
class FoldAccuracies:
    """Accuracy of each fold, at the threshold chosen on the other folds.

    `VerificationResult` has two of them: `grid`, with thresholds of the published grid, and `exact`, with the best of
    all thresholds.

    Attributes:
        accuracies: `(folds,)`, the share of correctly decided pairs of each fold.
        thresholds: `(folds,)` cosines above which a pair is accepted as the same person.
        mean: mean of the accuracies.
        std: standard deviation of the accuracies.
        threshold: mean of the thresholds.

    Examples:
        >>> folds = FoldAccuracies(accuracies=np.array([0.98, 1.0]), thresholds=np.array([0.30, 0.32]))
        >>> folds
        FoldAccuracies(mean=0.9900, std=0.0100, threshold=0.3100, folds=2)
        >>> folds.accuracies.min()
        np.float64(0.98)
    """

    accuracies: np.ndarray
    thresholds: np.ndarray

    def __repr__(self) -> str:
        folds = len(self.accuracies)
        return format_result(self, mean=self.mean, std=self.std, threshold=self.threshold, folds=folds)

    @property
    def mean(self) -> float:
        """Mean accuracy of the folds."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Standard deviation of the accuracies, not of their mean."""
        return float(np.std(self.accuracies))

    @property
    def threshold(self) -> float:
        """Mean threshold of the folds, a cosine."""
        return float(np.mean(self.thresholds))


def split_into_folds(num_pairs: int, folds: int, shuffle_seed: int | None) -> np.ndarray:
    """Returns the fold of each pair, `(num_pairs,)` int.

    Args:
        num_pairs: number of pairs.
        folds: number of folds.
        shuffle_seed: seed of the order in which pairs are assigned to folds; None for the given order.
    """
    order = np.arange(num_pairs)
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(num_pairs)
    fold_of_pair = np.empty(num_pairs, np.int64)
    for fold, members in enumerate(np.array_split(order, folds)):
        fold_of_pair[members] = fold
    return fold_of_pair


def _accepted_counts(grid: np.ndarray, distances: np.ndarray, fold_of_pair: np.ndarray, folds: int) -> np.ndarray:
    """Returns the number of distances of each fold strictly below each threshold, `(folds, thresholds)`."""
    first_above = np.searchsorted(grid, distances, side="right")
    counts = np.bincount(fold_of_pair * (len(grid) + 1) + first_above, minlength=folds * (len(grid) + 1))
    return np.cumsum(counts.reshape(folds, -1), axis=1)[:, :-1]


def grid_accuracies(distances, same, fold_of_pair, folds: int) -> tuple[FoldAccuracies, np.ndarray]:
    """Returns the accuracies with thresholds of the published grid, and a mask of the correctly decided pairs.

    If several thresholds are equally accurate on the other folds, the lowest distance is chosen.
    """
    genuine = _accepted_counts(_ACCURACY_GRID, distances[same], fold_of_pair[same], folds)
    impostor = _accepted_counts(_ACCURACY_GRID, distances[~same], fold_of_pair[~same], folds)
    num_impostors = np.bincount(fold_of_pair[~same], minlength=folds)
    correct = genuine + num_impostors[:, None] - impostor
    best = np.argmax(np.sum(correct, axis=0) - correct, axis=1)
    thresholds = _ACCURACY_GRID[best]
    accuracies = correct[np.arange(folds), best] / np.bincount(fold_of_pair, minlength=folds)
    return FoldAccuracies(accuracies, 1 - thresholds / 2), (distances < thresholds[fold_of_pair]) == same


def exact_accuracies(scores, same, fold_of_pair, folds: int) -> FoldAccuracies:
    """Returns the accuracies with the best of all thresholds halfway between two scores of the other folds.

    If several thresholds are equally accurate, the highest score is chosen, which is the lowest distance.
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
    """Returns the threshold with the largest sum of gains over the accepted pairs, the highest one of several.

    Args:
        scores: `(n,)`, in descending order.
        gain: `(n,)`, 1 for a genuine pair and -1 for an impostor pair.
    """
    gains = np.cumsum(gain)
    run_ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # ends of runs of equal scores
    best = run_ends[np.argmax(gains[run_ends])]
    if gains[best] <= 0:  # accepting no pair is at least as good
        return float(np.nextafter(scores[0], np.inf))
    if best == len(scores) - 1:  # accepting all pairs is best
        return float(np.nextafter(scores[-1], -np.inf))
    accepted, rejected = scores[best], scores[best + 1]
    halfway = (accepted + rejected) / 2
    return float(halfway if halfway < accepted else rejected)  # rounded up between neighboring floats


def interpolated_tars(
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
            # The published interpolation is undefined if several thresholds have the same FAR. The largest is used.
            threshold = np.interp(far, far_of_others, _TAR_GRID) if far_of_others[-1] >= far else 0.0
            tars[far].append(float(np.mean(genuine < threshold)))
    is_defined = {far: has_enough_impostors(far, num_impostors.sum()) for far in fars}
    return {
        far: (float(np.mean(values)), float(np.std(values))) if is_defined[far] else (np.nan, np.nan)
        for far, values in tars.items()
    }
