"""Verification of pairs with cross-validated thresholds, as on LFW."""

import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_arcface.evaluation import bootstrap
from keras_arcface.evaluation.folds import FoldAccuracies
from keras_arcface.evaluation.folds import exact_accuracies
from keras_arcface.evaluation.folds import grid_accuracies
from keras_arcface.evaluation.folds import interpolated_tars
from keras_arcface.evaluation.folds import split_into_folds
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars
from keras_arcface.evaluation.input_checks import check_pairs
from keras_arcface.evaluation.input_checks import check_same
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import RocMetricsMixin
from keras_arcface.evaluation.roc import drop_nan_rates
from keras_arcface.evaluation.vectors import l2_norms
from keras_arcface.evaluation.vectors import rows_per_chunk

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclasses.dataclass(frozen=True)
class VerificationResult(RocMetricsMixin):
    """Result of `verify`.

    Attributes:
        accuracy: mean accuracy over the folds, with thresholds of the published grid. This is the published figure.
        accuracy_std: standard deviation of the accuracy over the folds.
        threshold: mean threshold over the folds, the cosine above which a pair is accepted as the same person.
        grid: `FoldAccuracies` with thresholds of the published grid, the source of the three metrics above.
        exact: `FoldAccuracies` with the best of all thresholds halfway between two scores.
        tar: true accept rate of all pairs by false accept rate (FAR): the largest one of any threshold whose FAR is at
            most this rate. NaN if there are fewer than `1 / far` impostor pairs.
        tar_published: mean and standard deviation over the folds of the true accept rate, by FAR. The threshold of a
            fold is interpolated over a grid of thresholds to the FAR of the other folds. NaN if there are fewer than
            `1 / far` impostor pairs.
        auc: area under the ROC curve of all pairs. A tie adds one half.
        eer: equal error rate of all pairs.
        roc: ROC curve of all pairs.
        scores: `(n,)` cosines of the pairs.
        same: `(n,)` bool, a mask of the genuine pairs.
        correct: `(n,)` bool, a mask of the pairs that the grid threshold of their fold decides correctly.
        fold_of_pair: `(n,)` int, the fold of each pair.

    Examples:
        >>> same = np.arange(600) % 2 == 0  # 300 genuine and 300 impostor pairs
        >>> first, other = np.random.default_rng(0).normal(size=(2, 600, 16))
        >>> second = np.where(same[:, None], first + other, other)
        >>> result = verify(np.stack([first, second], axis=1).reshape(1200, 16), same)
        >>> print(f"{result.accuracy:.4f} ± {result.accuracy_std:.4f}, exact {result.exact.mean:.4f}")
        0.9433 ± 0.0226, exact 0.9517

        The threshold for a false accept rate of 1%, for a product that compares faces:

        >>> point = result.at_far(0.01)
        >>> print(f"cosine {point.threshold:.4f} accepts {point.tar:.1%} of the genuine pairs")
        cosine 0.4992 accepts 91.7% of the genuine pairs

        The pairs that are decided wrongly:

        >>> np.flatnonzero(~result.correct).size
        34
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
            tar=drop_nan_rates(self.tar),
            genuine=len(self.roc.genuine),
            impostor=len(self.roc.impostor),
        )

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the folds, with thresholds of the published grid."""
        return self.grid.mean

    @property
    def accuracy_std(self) -> float:
        """Standard deviation of the accuracy over the folds."""
        return self.grid.std

    @property
    def threshold(self) -> float:
        """Mean threshold over the folds, a cosine. For a given false accept rate, use `at_far`."""
        return self.grid.threshold

    def intervals(self, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict:
        """Returns bootstrap confidence intervals.

        Genuine and impostor pairs are resampled separately, and the thresholds of the folds stay fixed. If pairs
        share people, they are not independent, and the true intervals are wider.

        Args:
            samples: number of bootstrap samples.
            level: confidence level, in (0, 1).
            seed: seed of the random generator.

        Returns:
            `{"accuracy": (low, high), "auc": ..., "eer": ..., "tar": {far: (low, high)}}`, with NaN for a FAR that is
            too low for the number of impostor pairs.

        Raises:
            ValueError: if `samples` is below 1, or `level` is outside (0, 1).
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

    Compute the embeddings of a pair set with `embed_pairs`. `results_table` shows one or several results as a table.

    This is the published procedure of LFW, CFP-FP, AgeDB-30, CALFW and CPLFW. The pairs are split into folds in their
    order. The threshold of each fold is the most accurate one on all other folds, of a grid of squared distances 0,
    0.01, ..., 3.99; of several, the lowest. A pair is accepted if its distance is strictly below the threshold. For
    YTF, pass the mean embeddings of the videos (`pool_templates`).

    Args:
        embeddings: `(2n, dim)`, of any norm, where rows `2 * i` and `2 * i + 1` form pair i. `(m, dim)` with `pairs`.
        same: `(n,)` bool, a mask of the pairs of the same person.
        folds: number of folds, in [2, n].
        fars: false accept rates for the true accept rates.
        pairs: `(n, 2)` int, the row indices of each pair; None for consecutive rows.
        shuffle_seed: seed of a random order of the pairs before the split into folds; None for the given order. It is
            required for sets that are not ordered by fold, such as LFW's View 1, where all genuine pairs come first.
            Such results are not comparable with published results.

    Returns:
        A `VerificationResult`.

    Raises:
        ValueError: if the shapes do not match, all pairs are of one kind, there are fewer pairs than folds, a FAR is
            outside (0, 1], an index in `pairs` is out of range, or an embedding is zero or not finite (the error names
            its image and pair).

    Warns:
        UserWarning: if most folds contain pairs of one kind only.

    Examples:
        Random embeddings, which are similar in genuine pairs:

        >>> same = np.arange(600) % 2 == 0  # 300 genuine and 300 impostor pairs
        >>> first, other = np.random.default_rng(0).normal(size=(2, 600, 16))
        >>> second = np.where(same[:, None], first + other, other)
        >>> embeddings = np.stack([first, second], axis=1).reshape(1200, 16)
        >>> verify(embeddings, same, fars=(0.1, 0.01))
        VerificationResult(accuracy=0.9433, accuracy_std=0.0226, threshold=0.4420, auc=0.9938, eer=0.0400,
        tar={0.1: 0.9867, 0.01: 0.9167}, genuine=300, impostor=300)

        Pairs of videos, by their mean embeddings:

        >>> ids, videos = pool_templates(embeddings, templates=np.arange(1200) // 2, weight_by_norm=False)
        >>> pairs = np.arange(600).reshape(300, 2)
        >>> verify(videos, np.arange(300) % 2 == 0, pairs=pairs).scores.shape
        (300,)

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
    fold_of_pair = split_into_folds(len(same), folds, shuffle_seed)
    uniform = sum(len(set(same[fold_of_pair == fold])) == 1 for fold in range(folds))
    if uniform > folds // 2 and len(same) >= 4 * folds:
        warnings.warn(
            f"{uniform} of {folds} folds contain pairs of one kind only. The pairs are probably not ordered in folds: "
            "pass shuffle_seed, for instance 0, to split them in random order",
            stacklevel=2,
        )
    roc = Roc.from_pairs(scores, same)
    grid, correct = grid_accuracies(distances, same, fold_of_pair, folds)
    return VerificationResult(
        grid=grid,
        exact=exact_accuracies(scores, same, fold_of_pair, folds),
        tar={far: roc.tar_at(far) for far in fars},
        tar_published=interpolated_tars(fars, distances, same, fold_of_pair, folds),
        roc=roc,
        scores=scores,
        same=same,
        correct=correct,
        fold_of_pair=fold_of_pair,
    )


def _resolve_pairs(pairs: Any, embeddings: np.ndarray) -> tuple[np.ndarray, Callable[[int], str]]:
    """Returns the row indices of each pair, and a function from a row index to the name of the row in errors."""
    if pairs is not None:
        return check_pairs(pairs, len(embeddings)), "row {}".format
    if embeddings.ndim != 2 or len(embeddings) % 2:
        raise ValueError(
            "embeddings must have the shape (2n, dim), two rows per pair, if pairs is None. Received: embeddings of "
            f"shape {embeddings.shape}"
        )
    return np.arange(len(embeddings)).reshape(-1, 2), lambda row: f"image {row} (of pair {row // 2})"


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
