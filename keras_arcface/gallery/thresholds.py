"""Thresholds for one-to-many search, from the scores of people who are not in the gallery."""

import dataclasses
import math

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.evaluation.far_interval import far_interval
from keras_arcface.evaluation.roc import has_enough_impostors
from keras_arcface.evaluation.roc import max_accepted
from keras_arcface.evaluation.roc import threshold_between

# A threshold is stale if the gallery has grown or shrunk by more than this share, which changes the rate by about as
# much.
_STALE_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class IdentificationThreshold:
    """Threshold for a target false positive identification rate (FPIR), with its uncertainty.

    FPIR is the share of searches for people who are not in the gallery that return somebody.

    Attributes:
        target_fpir: the requested rate.
        threshold: lowest score of a match.
        accepted: number of impostor scores at or above the threshold. A low number makes the threshold uncertain.
        impostors: number of impostor scores: searches, or pairs if the threshold is extrapolated.
        fpir: measured or extrapolated rate of the threshold, at most `target_fpir`.
        fpir_interval: 95% confidence interval `(low, high)` of the rate for other people of the same population.
        gallery_size: number of people in the gallery.

    Examples:
        >>> best_scores = np.random.default_rng(0).normal(0.3, 0.05, 1000)
        >>> result = identification_threshold(best_scores, fpir=0.01, gallery_size=500)
        >>> round(result.threshold, 3), result.accepted, result.impostors
        (0.413, 10, 1000)
        >>> print("FPIR for other people: {:.4f} to {:.4f}".format(*result.fpir_interval))
        FPIR for other people: 0.0048 to 0.0183
        >>> result.is_stale(520), result.is_stale(1000)
        (False, True)
    """

    target_fpir: float
    threshold: float
    accepted: int
    impostors: int
    fpir: float
    fpir_interval: tuple[float, float]
    gallery_size: int

    def is_stale(self, gallery_size: int) -> bool:
        """Returns whether a gallery differs by more than a tenth from the size that the threshold is for.

        Args:
            gallery_size: number of people in the gallery.

        Returns:
            True if the threshold should be calibrated again.
        """
        return abs(gallery_size - self.gallery_size) > _STALE_SHARE * self.gallery_size


def identification_threshold(best_scores, fpir: float, gallery_size: int) -> IdentificationThreshold:
    """Returns the lowest threshold at which at most a share of searches for people outside the gallery find somebody.

    A search finds somebody if its best score reaches the threshold, so only the best score of each search counts.

    Args:
        best_scores: `(n,)`, the best score in the gallery of each probe of a person who is not in the gallery. Use one
            probe per person: several of one person are not independent, and the interval is then too narrow.
        fpir: false positive identification rate, in (0, 1].
        gallery_size: number of people in the gallery.

    Returns:
        The threshold, with the number of searches behind it and the confidence interval of its rate.

    Raises:
        ValueError: if `fpir` is outside (0, 1], there are fewer than `1 / fpir` scores, or a score is not finite.

    Examples:
        >>> identification_threshold([0.3, 0.2, 0.5, 0.4], fpir=0.25, gallery_size=100).threshold
        0.45

    References:
        - [Ongoing Face Recognition Vendor Test, Part 2: Identification](https://doi.org/10.6028/NIST.IR.8271)
    """
    scores, threshold, accepted = _lowest_threshold(best_scores, "best_scores", fpir, fpir, "searches")
    check_integer("gallery_size", gallery_size, 1)
    return IdentificationThreshold(
        target_fpir=float(fpir),
        threshold=threshold,
        accepted=accepted,
        impostors=len(scores),
        fpir=accepted / len(scores),
        fpir_interval=far_interval(accepted, len(scores), max_accepted(fpir, len(scores))),
        gallery_size=int(gallery_size),
    )


def extrapolate_threshold(pair_scores, fpir: float, gallery_size: int) -> IdentificationThreshold:
    """Estimates a threshold for a gallery from the scores of pairs of different people.

    This is an approximation for a gallery that does not exist yet. It assumes that the scores of a probe with the
    people in the gallery are independent: `fpir = 1 - (1 - far) ** gallery_size`. Scores of one probe are not, and the
    most similar people of a gallery (relatives, people of the same origin) are more similar than random pairs, so
    calibrate on searches when the gallery exists.

    Args:
        pair_scores: `(n,)` scores of pairs of different people.
        fpir: false positive identification rate, in (0, 1).
        gallery_size: number of people in the gallery.

    Returns:
        The threshold. Its rate and interval are extrapolated as well.

    Raises:
        ValueError: if `fpir` is outside (0, 1), there are too few pairs for the FAR that it requires, or a score is
            not finite.

    Examples:
        >>> scores = np.random.default_rng(0).normal(0.0, 0.1, 100_000)
        >>> result = extrapolate_threshold(scores, fpir=0.1, gallery_size=100)
        >>> round(result.threshold, 2), result.accepted
        (0.31, 105)
    """
    check_integer("gallery_size", gallery_size, 1)
    check_number("fpir", fpir, lambda rate: 0 < rate < 1, "in (0, 1)")
    far = -math.expm1(math.log1p(-fpir) / gallery_size)
    scores, threshold, accepted = _lowest_threshold(pair_scores, "pair_scores", far, fpir, "pairs of different people")
    low, high = far_interval(accepted, len(scores), max_accepted(far, len(scores)))
    return IdentificationThreshold(
        target_fpir=float(fpir),
        threshold=threshold,
        accepted=accepted,
        impostors=len(scores),
        fpir=_rate_in_gallery(accepted / len(scores), gallery_size),
        fpir_interval=(_rate_in_gallery(low, gallery_size), _rate_in_gallery(high, gallery_size)),
        gallery_size=int(gallery_size),
    )


def _lowest_threshold(scores, name: str, rate: float, fpir: float, unit: str) -> tuple[np.ndarray, float, int]:
    """Returns the ascending scores, the lowest threshold that accepts at most a share of them, and their number."""
    scores = np.sort(np.asarray(scores, np.float64))
    check_number("fpir", fpir, lambda rate: 0 < rate <= 1, "in (0, 1]")
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(
            f"{name} must be finite scores of shape (n,). Received: shape {scores.shape}, "
            f"{np.sum(~np.isfinite(scores))} not finite"
        )
    if not len(scores) or not has_enough_impostors(rate, len(scores)):
        raise ValueError(
            f"A threshold for FPIR {fpir:g} requires at least {math.ceil(1 / rate):,} {unit}. "
            f"Received: {len(scores):,} {unit}"
        )
    allowed = max_accepted(rate, len(scores))
    rejected = scores[-allowed - 1] if allowed < len(scores) else -np.inf
    accepted = scores[np.searchsorted(scores, rejected, side="right") :]
    return scores, threshold_between(float(rejected), float(accepted[0]) if len(accepted) else None), len(accepted)


def _rate_in_gallery(far: float, gallery_size: int) -> float:
    """Returns the probability that at least one of many independent comparisons is accepted."""
    return -math.expm1(gallery_size * math.log1p(-far)) if far < 1 else 1.0
