"""Verification as on LFW: ten folds, the threshold of each chosen on the other nine."""

import dataclasses
import warnings

import numpy as np

from keras_arcface.evaluation import bootstrap
from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.roc import OfCurve
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import can_show
from keras_arcface.evaluation.roc import measured
from keras_arcface.evaluation.vectors import false_accept_rates
from keras_arcface.evaluation.vectors import genuine_and_impostor
from keras_arcface.evaluation.vectors import pairs_of_rows
from keras_arcface.evaluation.vectors import row_norms
from keras_arcface.evaluation.vectors import rows_within

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# The published grids, in squared L2 distance between unit vectors: 2 - 2 * cosine. For accuracy, and for TAR@FAR.
_ACCURACY_GRID = np.arange(0, 4, 0.01)
_TAR_GRID = np.arange(0, 4, 0.001)


@dataclasses.dataclass(frozen=True)
class Folds:
    """Accuracies of folds, each at a threshold in whose choice the fold had no say.

    Attributes:
        accuracies: `(folds,)`, the share of a fold's pairs decided rightly.
        thresholds: `(folds,)` cosines, above which a pair counts as the same person.
        mean, std: of the accuracies.
        threshold: mean of the thresholds.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray

    def __repr__(self) -> str:
        folds = len(self.accuracies)
        return represent(self, mean=self.mean, std=self.std, threshold=self.threshold, folds=folds)

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
class VerificationResult(OfCurve):
    """What `verify` found.

    Attributes:
        accuracy, accuracy_std: mean and standard deviation over the folds, by the published grid of thresholds.
        threshold: mean of the folds' thresholds: the cosine above which a pair counts as the same person.
        grid: `Folds` by the published grid, which the three above are of.
        exact: `Folds` by the best of all thresholds, halfway between two scores, instead of the best of a grid.
        tar: for a false accept rate, the largest true accept rate of any threshold whose own false accept rate is not
            above it, over all pairs. NaN where there are fewer impostor pairs than `1 / far`: not measurable.
        tar_published: for a false accept rate, mean and standard deviation over the folds of the true accept rate at
            the threshold where the false accept rate of the other folds, interpolated over a grid of thresholds,
            meets it. NaN where not measurable.
        auc: area under the ROC curve over all pairs; ties count half.
        eer: equal error rate over all pairs.
        roc: the whole curve, a `Roc`.
        scores: `(n,)` cosines of the pairs, in their order.
        same: `(n,)` bool, as given.
        right: `(n,)` bool, whether a pair was decided rightly by the threshold of its fold, of the grid.
        fold_of_pair: `(n,)` int, the fold in which a pair was judged.
    """

    grid: Folds
    exact: Folds
    tar: dict[float, float]
    tar_published: dict[float, tuple[float, float]]
    roc: Roc
    scores: np.ndarray
    same: np.ndarray
    right: np.ndarray
    fold_of_pair: np.ndarray

    def __repr__(self) -> str:
        return represent(
            self,
            accuracy=self.accuracy,
            accuracy_std=self.accuracy_std,
            threshold=self.threshold,
            auc=self.auc,
            eer=self.eer,
            tar=measured(self.tar),
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
        """Bootstrap confidence intervals.

        Args:
            samples: how often to draw the pairs anew.
            level: share of the draws that an interval holds.
            seed: of the draws.

        Returns:
            `{"accuracy": (low, high), "auc": ..., "eer": ..., "tar": {far: (low, high)}}`. Genuine and impostor pairs
            are drawn by themselves, the folds' thresholds held. As pairs that share people are not independent, the
            truth is less sure than they say.
        """
        accuracy = bootstrap.share_interval(self.right, self.same, samples, level, seed)
        return {"accuracy": accuracy, **bootstrap.roc_intervals(self.roc, tuple(self.tar), samples, level, seed)}


def verify(embeddings, same, folds: int = 10, fars=FARS, pairs=None, shuffle_seed=None) -> VerificationResult:
    """Measures how well embeddings tell whether two images show the same person.

    The published procedure of LFW, CFP-FP, AgeDB-30, CALFW and CPLFW: pairs stay in order and are cut into folds; the
    threshold is the first best of the grid 0, 0.01 ... 3.99 of squared distances on all other folds, a pair is
    accepted if its distance is strictly below it, and the fold that had no say is judged. No threshold is ever chosen
    on the pairs that it judges. For YTF, pass the mean embeddings of the videos (`pool_templates`).

    Args:
        embeddings: `(2n, dim)`, any norm; pair i is rows `2 * i` and `2 * i + 1`. With `pairs`, `(m, dim)`.
        same: `(n,)` bool, whether a pair shows one person.
        folds: into how many runs of pairs to cut, in order.
        fars: the false accept rates at which to give the true accept rate.
        pairs: `(n, 2)` int, the rows of `embeddings` that make each pair; None for one row after the other.
        shuffle_seed: for pairs that do not stand in folds, such as LFW's View 1, where all genuine pairs come first:
            the seed of a random order to cut instead. What it gives is no published figure.

    Returns:
        A `VerificationResult`.

    Raises:
        ValueError: if the shapes do not fit, all pairs are of one kind, there are fewer pairs than folds, a FAR lies
            outside (0, 1], or an embedding is zero or not finite (named by its image and pair).

    References:
        - [Labeled Faces in the Wild](http://vis-www.cs.umass.edu/lfw/lfw.pdf), section on View 2
        - [YouTube Faces](https://www.cs.tau.ac.il/~wolf/ytfaces/WolfHassnerMaoz_CVPR11.pdf)
    """
    embeddings = np.asarray(embeddings)
    if pairs is None:
        if embeddings.ndim != 2 or len(embeddings) % 2:
            raise ValueError(
                "verify expects embeddings of shape (2n, dim), two rows per pair. Received: embeddings of shape "
                f"{embeddings.shape}"
            )
        pairs, name_of = np.arange(len(embeddings)).reshape(-1, 2), lambda row: f"image {row} (of pair {row // 2})"
    else:
        pairs, name_of = pairs_of_rows(pairs, len(embeddings)), "row {}".format
    same = genuine_and_impostor(same, len(pairs))
    fars = false_accept_rates(fars)
    if not 2 <= folds <= len(same):
        raise ValueError(f"folds must be between 2 and the number of pairs, {len(same)}. Received: folds={folds}")
    scores, distances = _compare(embeddings, row_norms(embeddings, "embeddings", name_of), pairs)
    order = np.arange(len(same)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(len(same))
    fold_of_pair = np.empty(len(same), np.int64)
    fold_of_pair[order] = np.repeat(np.arange(folds), [len(fold) for fold in np.array_split(order, folds)])
    of_one_kind = sum(len(set(same[fold_of_pair == fold])) == 1 for fold in range(folds))
    if of_one_kind > folds // 2 and len(same) >= 4 * folds:
        warnings.warn(
            f"{of_one_kind} of {folds} folds hold pairs of one kind only, so the pairs do not seem to stand in folds. "
            "A shuffle_seed, such as 0, cuts them in a random order",
            stacklevel=2,
        )
    roc = Roc.of_pairs(scores, same)
    grid, right = _judge_by_grid(distances, same, fold_of_pair, folds)
    return VerificationResult(
        grid=grid,
        exact=_judge_exactly(scores, same, fold_of_pair, folds),
        tar={far: roc.tar_at(far) for far in fars},
        tar_published=_interpolated_tars(fars, distances, same, fold_of_pair, folds),
        roc=roc,
        scores=scores,
        same=same,
        right=right,
        fold_of_pair=fold_of_pair,
    )


def _compare(embeddings, norms, pairs):
    """Cosines and squared distances, in float64."""
    scores, distances = np.empty(len(pairs)), np.empty(len(pairs))
    at_once = rows_within(embeddings.shape[1])
    for start in range(0, len(pairs), at_once):
        rows = slice(start, start + at_once)
        first, second = (embeddings[side].astype(np.float64) for side in pairs[rows].T)
        first /= norms[pairs[rows, 0], None]
        second /= norms[pairs[rows, 1], None]
        scores[rows] = np.einsum("id,id->i", first, second)
        first -= second
        distances[rows] = np.einsum("id,id->i", first, first)
    return scores, distances


def _accepted_at(grid, distances, fold_of_pair, folds):
    """`(folds, thresholds)`: how many distances are strictly below each threshold."""
    first_above = np.searchsorted(grid, distances, side="right")
    counts = np.bincount(fold_of_pair * (len(grid) + 1) + first_above, minlength=folds * (len(grid) + 1))
    return np.cumsum(counts.reshape(folds, -1), axis=1)[:, :-1]


def _judge_by_grid(distances, same, fold_of_pair, folds):
    """Each fold at the first threshold of the published grid that is best on the other folds."""
    genuine = _accepted_at(_ACCURACY_GRID, distances[same], fold_of_pair[same], folds)
    impostor = _accepted_at(_ACCURACY_GRID, distances[~same], fold_of_pair[~same], folds)
    impostors = np.bincount(fold_of_pair[~same], minlength=folds)
    rights = genuine + impostors[:, None] - impostor
    best = np.argmax(np.sum(rights, axis=0) - rights, axis=1)
    thresholds = _ACCURACY_GRID[best]
    accuracies = rights[np.arange(folds), best] / np.bincount(fold_of_pair, minlength=folds)
    return Folds(accuracies, 1 - thresholds / 2), (distances < thresholds[fold_of_pair]) == same


def _judge_exactly(scores, same, fold_of_pair, folds):
    """Each fold at the threshold, halfway between two scores of the other folds, that is best on those.

    Of equally good thresholds the highest is taken: the first, as distances go.
    """
    order = np.argsort(-scores, kind="stable")
    scores_down, gain, fold_down = scores[order], np.where(same[order], 1, -1), fold_of_pair[order]
    accuracies, thresholds = np.empty(folds), np.empty(folds)
    for fold in range(folds):
        others = fold_down != fold
        their_scores, gained = scores_down[others], np.cumsum(gain[others])
        ends = np.flatnonzero(np.append(np.diff(their_scores) != 0, True))  # of runs of equal scores
        best = np.argmax(gained[ends])
        if gained[ends[best]] <= 0:  # accepting none is as good
            thresholds[fold] = np.nextafter(their_scores[0], np.inf)
        elif ends[best] == len(their_scores) - 1:  # accepting all is best
            thresholds[fold] = np.nextafter(their_scores[-1], -np.inf)
        else:
            last, following = their_scores[ends[best]], their_scores[ends[best] + 1]
            halfway = (last + following) / 2
            thresholds[fold] = halfway if halfway < last else following  # of neighbors, it may be rounded up
        judged = fold_of_pair == fold
        accuracies[fold] = np.mean((scores[judged] > thresholds[fold]) == same[judged])
    return Folds(accuracies, thresholds)


def _interpolated_tars(fars, distances, same, fold_of_pair, folds):
    impostor = _accepted_at(_TAR_GRID, distances[~same], fold_of_pair[~same], folds)
    impostors = np.bincount(fold_of_pair[~same], minlength=folds)
    tars = {far: [] for far in fars}
    for fold in range(folds):
        genuine = distances[same & (fold_of_pair == fold)]
        others = impostors.sum() - impostors[fold]
        if len(genuine) == 0 or others == 0:
            continue
        far_of_others = (impostor.sum(axis=0) - impostor[fold]) / others
        for far in fars:
            # Where several thresholds have one FAR, the published interpolation is not defined: the largest counts.
            threshold = np.interp(far, far_of_others, _TAR_GRID) if far_of_others[-1] >= far else 0.0
            tars[far].append(np.mean(genuine < threshold))
    return {
        far: (float(np.mean(values)), float(np.std(values))) if can_show(far, impostors.sum()) else (np.nan, np.nan)
        for far, values in tars.items()
    }
