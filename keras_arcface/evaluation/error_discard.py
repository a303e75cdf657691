"""Error versus discard characteristic (EDC), which shows whether a quality score predicts recognition errors."""

import dataclasses
from typing import Any

import numpy as np

from keras_arcface._arguments import check_number
from keras_arcface.evaluation import bootstrap
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars
from keras_arcface.evaluation.input_checks import check_pairs
from keras_arcface.evaluation.input_checks import check_same
from keras_arcface.evaluation.roc import Roc


@dataclasses.dataclass(frozen=True)
class ErrorVersusDiscard:
    """Result of `error_versus_discard`, a curve with steps.

    Attributes:
        far: false accept rate (FAR, also FMR) for which the threshold was chosen on all pairs.
        threshold: lowest score of an accepted pair.
        discarded: `(k,)` shares of the genuine pairs below each quality, ascending from 0.
        fnmr: `(k,)` false non-match rates (FNMR, 1 - TAR) of the genuine pairs that remain.
        min_quality: `(k,)` lowest quality of the pairs that remain, a limit that discards this share.
        genuine: number of genuine pairs.
        max_discard: upper limit of the discarded share in `pauc`.

    Examples:
        Four genuine pairs, of which the first and the third score below an impostor pair:

        >>> scores, same = [0.3, 0.8, 0.2, 0.9, 0.7, 0.4], [True, True, True, True, False, False]
        >>> qualities = [3, 9, 8, 7, 1, 6, 5, 6, 4, 4, 2, 5]  # two images per pair
        >>> result = error_versus_discard(scores, same, qualities, far=0.5, max_discard=0.5)
        >>> print(result.min_quality, result.discarded, result.fnmr)
        [1. 3. 5. 7.] [0.   0.25 0.5  0.75] [0.5        0.33333333 0.         0.        ]
        >>> round(result.fnmr_at(0.3), 3), round(result.pauc, 3)
        (0.333, 0.417)
    """

    far: float
    threshold: float
    discarded: np.ndarray
    fnmr: np.ndarray
    min_quality: np.ndarray
    genuine: int
    max_discard: float

    def __repr__(self) -> str:
        return format_result(
            self,
            far=self.far,
            fnmr=self.fnmr_at(0),
            pauc=self.pauc,
            best_pauc=self.best_pauc,
            relative_pauc=self.relative_pauc,
            max_discard=self.max_discard,
            genuine=self.genuine,
        )

    @property
    def pauc(self) -> float:
        """Area under the curve up to `max_discard`, divided by `max_discard`: the mean FNMR over this range."""
        return float(_mean_error(*self._counts(), self.max_discard))

    @property
    def best_pauc(self) -> float:
        """Lowest possible `pauc`, that of a quality score that discards all false non-matches first."""
        return float(_mean_error(*self._best_counts(), self.max_discard))

    @property
    def relative_pauc(self) -> float:
        """Position of `pauc` between the lowest possible one (0) and the FNMR of all pairs (1).

        It is about 1 for a quality score that is unrelated to errors, and above 1 for one that is worse. It is NaN if
        the two ends are equal, for example because there is no false non-match.
        """
        best = self.best_pauc
        extent = self.fnmr_at(0) - best
        return (self.pauc - best) / extent if extent > 0 else float("nan")

    @property
    def false_non_matches(self) -> int:
        """Number of genuine pairs that the threshold rejects. A low number makes the curve uncertain."""
        return round(self.fnmr_at(0) * self.genuine)

    def fnmr_at(self, share: float) -> float:
        """Returns the FNMR if at most a share of the genuine pairs is discarded.

        Args:
            share: largest share of the genuine pairs to discard, in [0, 1). Pairs of equal quality are discarded
                together, so that the discarded share may be lower.

        Returns:
            The false non-match rate of the pairs that remain.

        Raises:
            ValueError: if `share` is outside of [0, 1).
        """
        check_number("share", share, lambda share: 0 <= share < 1, "in [0, 1)")
        return float(self.fnmr[np.searchsorted(self.discarded, share, side="right") - 1])

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lowest possible curve.

        Returns:
            `(discarded, fnmr)` of a quality score that discards all false non-matches first.
        """
        pairs, _ = self._best_counts()
        remaining = _sums_from_here(pairs)
        errors = np.arange(len(pairs))[::-1]
        return (self.genuine - remaining) / self.genuine, errors / np.maximum(remaining, 1)

    def interval(self, samples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Returns a bootstrap confidence interval of `pauc`.

        Genuine pairs are resampled, and the threshold stays fixed. If pairs share people, they are not independent, and
        the true interval is wider.

        Args:
            samples: number of bootstrap samples.
            level: confidence level, in (0, 1).
            seed: seed of the random generator.

        Returns:
            `(low, high)`.

        Raises:
            ValueError: if `samples` is below 1, or `level` is outside (0, 1).
        """
        pairs, rejected = self._counts()

        def pauc(counts: np.ndarray) -> np.ndarray:
            accepted, rejected = np.split(counts, 2, axis=-1)
            return _mean_error(accepted + rejected, rejected, self.max_discard)

        return bootstrap.interval_of(pauc, np.concatenate([pairs - rejected, rejected]), samples, level, seed)

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of genuine pairs and of false non-matches at each quality, lowest first."""
        remaining = np.rint((1 - self.discarded) * self.genuine)
        errors = np.rint(self.fnmr * remaining)
        return tuple(-np.diff(counts, append=0).astype(np.int64) for counts in (remaining, errors))

    def _best_counts(self) -> tuple[np.ndarray, np.ndarray]:
        errors = self.false_non_matches
        rejected = np.concatenate([np.ones(errors, np.int64), [0]])
        return np.concatenate([rejected[:-1], [self.genuine - errors]]), rejected


def error_versus_discard(
    scores, same, qualities, far: float = 1e-3, max_discard: float = 0.3, pairs=None
) -> ErrorVersusDiscard:
    """Measures whether a quality score of images predicts which genuine pairs are rejected.

    The quality can be any number that is higher for better images: the norm of the embedding, the sharpness or size of
    the face (`faces.face_quality`), the score of a detector, or the output of a network (`models.make_quality_model`).
    A good quality score makes the false non-match rate (FNMR) fall quickly when the worst images are discarded.
    `plot_error_versus_discard` shows several quality scores in one picture, and `results_table` in one table.

    The quality of a pair is the lower one of its two images. The threshold is chosen once, on all pairs, for a false
    accept rate (FAR, also FMR). Then the genuine pairs with the lowest quality are discarded. Pairs of equal quality
    are discarded together, so that the result does not depend on the order of the pairs. Impostor pairs only determine
    the threshold.

    Curves of the literature differ: the partial area is often not divided by its range, the lowest possible curve is
    often the straight line `FNMR - discarded` below the exact one, and the published program of CR-FIQA also discards
    impostor pairs and chooses the threshold again for each share.

    Args:
        scores: `(n,)` scores of pairs. A higher score means more similar.
        same: `(n,)` bool, a mask of the pairs of the same person.
        qualities: `(2n,)` qualities of the images, where images `2 * i` and `2 * i + 1` form pair i. `(m,)` with
            `pairs`. `-inf` for images without a quality.
        far: false accept rate for the threshold, in (0, 1].
        max_discard: upper limit of the discarded share in the partial area, in (0, 1). The literature uses 0.2 or 0.3.
        pairs: `(n, 2)` int, the images of each pair; None for consecutive images.

    Returns:
        An `ErrorVersusDiscard`.

    Raises:
        ValueError: if the shapes do not match, all pairs are of one kind, a score is not finite, a quality is NaN (the
            error names its image), an index in `pairs` is out of range, `far` or `max_discard` is out of range, or
            there are fewer than `1 / far` impostor pairs.

    Examples:
        Pairs with noise that the quality knows, and a quality that is unrelated:

        >>> rng = np.random.default_rng(0)
        >>> same = np.arange(4000) % 2 == 0
        >>> noise = rng.uniform(0, 1, 8000)
        >>> scores = same - noise.reshape(4000, 2).max(axis=1) + rng.normal(0, 0.1, 4000)
        >>> error_versus_discard(scores, same, qualities=-noise)
        ErrorVersusDiscard(far=0.0010, fnmr=0.1270, pauc=0.0661, best_pauc=0.0282, relative_pauc=0.3836,
        max_discard=0.3000, genuine=2000)
        >>> round(error_versus_discard(scores, same, qualities=rng.normal(size=8000)).relative_pauc, 2)
        0.98

    References:
        - [Considerations on the Evaluation of Biometric Quality Assessment Algorithms](https://arxiv.org/abs/2303.13294)
        - [Performance of Biometric Quality Measures](https://doi.org/10.1109/TPAMI.2007.1019)
        - ISO/IEC 29794-1:2024, section 11.2
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores must have the shape (n,). Received: scores of shape {scores.shape}")
    same = check_same(same, len(scores))
    check_fars([far])
    check_number("max_discard", max_discard, lambda share: 0 < share < 1, "in (0, 1)")
    quality_of_pair = _pair_qualities(qualities, pairs, len(scores))[same]
    threshold = Roc.from_pairs(scores, same).at_far(far).threshold
    levels, level_of_pair = np.unique(quality_of_pair, return_inverse=True)
    rejected = np.bincount(level_of_pair[scores[same] < threshold], minlength=len(levels))
    remaining = _sums_from_here(np.bincount(level_of_pair))
    return ErrorVersusDiscard(
        far=float(far),
        threshold=threshold,
        discarded=(len(quality_of_pair) - remaining) / len(quality_of_pair),
        fnmr=_sums_from_here(rejected) / remaining,
        min_quality=levels,
        genuine=len(quality_of_pair),
        max_discard=float(max_discard),
    )


def _pair_qualities(qualities: Any, pairs: Any, num_pairs: int) -> np.ndarray:
    """Returns the `(n,)` lower quality of the two images of each pair."""
    qualities = np.asarray(qualities, np.float64)
    if qualities.ndim != 1 or (pairs is None and len(qualities) != 2 * num_pairs):
        expected = f"({2 * num_pairs},), two images per pair, if pairs is None" if pairs is None else "(m,)"
        raise ValueError(f"qualities must have the shape {expected}. Received: qualities of shape {qualities.shape}")
    missing = np.flatnonzero(np.isnan(qualities))
    if len(missing):
        raise ValueError(
            "qualities must be numbers; use -inf for an image without a quality. "
            f"Received: NaN for {len(missing)} of {len(qualities)} images, the first is image {missing[0]}"
        )
    if pairs is None:
        return qualities.reshape(-1, 2).min(axis=1)
    pairs = check_pairs(pairs, len(qualities))
    if len(pairs) != num_pairs:
        raise ValueError(
            f"pairs must have the shape ({num_pairs}, 2), one row per score. Received: shape {pairs.shape}"
        )
    return qualities[pairs].min(axis=1)


def _sums_from_here(counts: np.ndarray) -> np.ndarray:
    """Returns the sum of each entry and all after it, along the last axis."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _mean_error(pairs: np.ndarray, rejected: np.ndarray, max_discard: float) -> np.ndarray:
    """Returns the area under curves up to a discarded share, divided by the share.

    Args:
        pairs: `(..., k)` numbers of genuine pairs at each quality, lowest first.
        rejected: `(..., k)` numbers of those that are false non-matches.
        max_discard: the share.
    """
    remaining = _sums_from_here(pairs)
    total = remaining[..., :1]
    starts, ends = (total - remaining) / total, (total - remaining + pairs) / total
    widths = np.minimum(ends, max_discard) - np.minimum(starts, max_discard)
    return np.sum(_sums_from_here(rejected) / np.maximum(remaining, 1) * widths, axis=-1) / max_discard
