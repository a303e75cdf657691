"""ROC curves of pair scores, with false and true accept rates at all thresholds."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np

from keras_arcface.evaluation.far_interval import far_interval
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Threshold for a target false accept rate (FAR), with its uncertainty.

    Attributes:
        target_far: the requested FAR.
        threshold: lowest cosine of an accepted pair.
        squared_distance: the same threshold as a squared L2 distance of unit vectors, `2 - 2 * threshold`.
        far: share of the impostor pairs that the threshold accepts, at most `target_far`.
        tar: share of the genuine pairs that the threshold accepts.
        impostors_accepted: number of impostor pairs that the threshold accepts. A low number makes the threshold
            uncertain.
        impostors: number of impostor pairs.
        far_interval: 95% confidence interval `(low, high)` of the FAR on other impostor pairs of the same distribution.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> roc = Roc(genuine=rng.normal(0.6, 0.1, 3000), impostor=rng.normal(0.0, 0.1, 3000))
        >>> point = roc.at_far(1e-3)
        >>> round(point.threshold, 3), round(point.squared_distance, 3)
        (0.312, 1.376)
        >>> point.impostors_accepted, point.impostors
        (3, 3000)
        >>> print("FAR on other pairs: {:.4f} to {:.4f}".format(*point.far_interval))
        FAR on other pairs: 0.0002 to 0.0029
    """

    target_far: float
    threshold: float
    far: float
    tar: float
    impostors_accepted: int
    impostors: int
    far_interval: tuple[float, float]

    @property
    def squared_distance(self) -> float:
        """Threshold as a squared L2 distance of unit vectors, at or below which a pair is accepted."""
        return 2 - 2 * self.threshold


class Roc:
    """Receiver operating characteristic (ROC) of pair scores.

    Use it for scores of any origin. `verify` and `verify_templates` compute scores from embeddings and return a curve
    with their other metrics.

    A pair is accepted if its score is at or above a threshold. The false accept rate (FAR) is the share of impostor
    pairs that are accepted, and the true accept rate (TAR) that of genuine pairs. Equal scores are accepted together.

    Args:
        genuine: `(n,)` scores of pairs of the same identity. A higher score means more similar.
        impostor: `(m,)` scores of pairs of different identities.

    Attributes:
        genuine: scores of the genuine pairs, ascending.
        impostor: scores of the impostor pairs, ascending.
        far: false accept rates of the corners of the curve, from 0 to 1. The curve is linear between corners.
        tar: true accept rates of the corners, from 0 to 1.
        thresholds: lowest threshold of each corner.
        auc: area under the curve, the probability that a genuine pair scores higher than an impostor pair. A tie adds
            one half.
        eer: equal error rate, where FAR equals 1 - TAR on the line between two corners.

    Raises:
        ValueError: if there are no genuine or no impostor scores, a score is not finite, or the scores have more than
            one axis.

    Examples:
        >>> roc = Roc(genuine=[0.9, 0.7, 0.4], impostor=[0.5, 0.2, 0.1, 0.0])
        >>> roc
        Roc(auc=0.9167, eer=0.2500, genuine=3, impostor=4)
        >>> roc.tar_at(0.25)  # one of four impostor pairs is accepted
        1.0
        >>> roc.at_far(0.25).threshold  # halfway between the scores 0.2 and 0.4
        0.30000000000000004
    """

    def __init__(self, genuine, impostor):
        self.genuine, self.impostor = np.sort(genuine), np.sort(impostor)
        for name, scores in (("genuine", self.genuine), ("impostor", self.impostor)):
            if scores.ndim != 1 or len(scores) == 0:
                raise ValueError(
                    f"{name} must be scores of shape (n,), n at least 1. Received: {name} scores of shape "
                    f"{scores.shape}"
                )
            if not np.isfinite(scores[[0, -1]]).all():  # NaN is sorted to the end
                raise ValueError(
                    f"{name} must be finite scores. Received: {np.sum(~np.isfinite(scores))} of {len(scores)} {name} "
                    "scores that are not finite"
                )
        impostors_accepted, genuine_accepted, self.thresholds = _corners(self.genuine, self.impostor)
        self.far = impostors_accepted / len(self.impostor)
        self.tar = genuine_accepted / len(self.genuine)

    def __repr__(self) -> str:
        return format_result(self, auc=self.auc, eer=self.eer, genuine=len(self.genuine), impostor=len(self.impostor))

    @classmethod
    def from_pairs(cls, scores, same) -> "Roc":
        """Creates a curve from the scores of pairs.

        Args:
            scores: `(n,)` scores. A higher score means more similar.
            same: `(n,)` bool, a mask of the genuine pairs.

        Returns:
            The curve.

        Raises:
            IndexError: if the lengths differ.
            ValueError: if there are no genuine or no impostor pairs, or a score is not finite.

        Examples:
            >>> Roc.from_pairs([0.9, 0.1, 0.7, 0.3], [True, False, True, False]).auc
            1.0
        """
        scores, same = np.asarray(scores), np.asarray(same, dtype=bool)
        return cls(scores[same], scores[~same])

    @classmethod
    def from_rocs(cls, rocs: Iterable["Roc"]) -> "Roc":
        """Creates a curve from the scores of several curves.

        More impostor pairs make a threshold more certain. The FAR is that of the mixture of the pair sets, so they
        should resemble the intended use. A pair that is in two sets counts twice.

        Args:
            rocs: curves with scores of the same model, at least one.

        Returns:
            The curve.

        Raises:
            ValueError: if there is no curve.

        Examples:
            >>> roc = Roc.from_rocs([Roc([0.9], [0.1, 0.2]), Roc([0.7], [0.3])])
            >>> len(roc.genuine), len(roc.impostor)
            (2, 3)
        """
        rocs = list(rocs)
        if not rocs:
            raise ValueError("rocs must contain at least one curve. Received: rocs=[]")
        return cls(np.concatenate([roc.genuine for roc in rocs]), np.concatenate([roc.impostor for roc in rocs]))

    @functools.cached_property
    def auc(self) -> float:
        """Area under the curve, in [0, 1]."""
        return float(area_under(self.far, self.tar))

    @functools.cached_property
    def eer(self) -> float:
        """Equal error rate, in [0, 1]."""
        return float(equal_error_rate(self.far, self.tar))

    def tar_at(self, far: float) -> float:
        """Returns the largest TAR of any threshold whose FAR is at most `far`.

        Args:
            far: false accept rate, in (0, 1].

        Returns:
            The true accept rate, or NaN if there are fewer than `1 / far` impostor pairs, which is too few to measure
            this FAR.
        """
        if not has_enough_impostors(far, len(self.impostor)):
            return float("nan")
        return float(np.mean(self.genuine > self._highest_rejected(far)))

    def tar_at_nearest_far(self, far: float) -> float:
        """Returns the TAR at the point of the curve whose FAR is nearest to `far`, as published for IJB-B and IJB-C.

        The nearest FAR may be higher than `far`; `tar_at` is then lower. Of two equally near points, the one with the
        higher FAR is used. The points are those of scikit-learn's `roc_curve`, which the published evaluation code
        uses: thresholds in the middle of a straight segment are dropped.

        Args:
            far: false accept rate, in (0, 1].

        Returns:
            The true accept rate, or NaN if there are fewer than `1 / far` impostor pairs.
        """
        if not has_enough_impostors(far, len(self.impostor)):
            return float("nan")
        fars, tars = self._scikit_learn_points
        return float(tars[::-1][np.argmin(np.abs(fars[::-1] - far))])

    @functools.cached_property
    def _scikit_learn_points(self) -> tuple[np.ndarray, np.ndarray]:
        thresholds = np.unique(np.concatenate([self.genuine, self.impostor]))[::-1]
        impostors, genuine = (len(s) - np.searchsorted(s, thresholds) for s in (self.impostor, self.genuine))
        bends = (np.diff(impostors, 2) != 0) | (np.diff(genuine, 2) != 0)
        kept = np.concatenate([[True], bends, [True]])[: len(thresholds)]
        fars, tars = impostors[kept] / len(self.impostor), genuine[kept] / len(self.genuine)
        return np.concatenate([[0.0], fars]), np.concatenate([[0.0], tars])

    def at_far(self, far: float) -> OperatingPoint:
        """Returns the lowest threshold whose FAR is at most `far`, halfway between the two scores that it separates.

        Args:
            far: false accept rate, in (0, 1].

        Returns:
            The threshold, with its rates, the numbers of pairs and the confidence interval of its FAR.

        Raises:
            ValueError: if `far` is outside (0, 1], or there are fewer than `1 / far` impostor pairs.
        """
        check_fars([far])
        impostors = len(self.impostor)
        if not has_enough_impostors(far, impostors):
            raise ValueError(
                f"A threshold for FAR {far:g} requires at least {int(np.ceil(1 / far)):,} impostor pairs. "
                f"Received: {impostors:,} impostor pairs"
            )
        rejected = self._highest_rejected(far)
        accepted_genuine, accepted_impostor = (
            scores[np.searchsorted(scores, rejected, side="right") :] for scores in (self.genuine, self.impostor)
        )
        accepted = np.concatenate([accepted_genuine[:1], accepted_impostor[:1]])
        return OperatingPoint(
            target_far=far,
            threshold=threshold_between(float(rejected), float(accepted.min()) if len(accepted) else None),
            far=len(accepted_impostor) / impostors,
            tar=len(accepted_genuine) / len(self.genuine),
            impostors_accepted=len(accepted_impostor),
            impostors=impostors,
            far_interval=far_interval(len(accepted_impostor), impostors, max_accepted(far, impostors)),
        )

    def _highest_rejected(self, far: float) -> float:
        """Returns the highest impostor score that is rejected at a FAR; -inf if no score is rejected."""
        accepted = max_accepted(far, len(self.impostor))
        return self.impostor[-accepted - 1] if accepted < len(self.impostor) else -np.inf


class RocMetricsMixin:
    """Mixin that adds the metrics of the attribute `roc` to a result."""

    roc: Roc

    @property
    def auc(self) -> float:
        """Area under the ROC curve, in [0, 1]."""
        return self.roc.auc

    @property
    def eer(self) -> float:
        """Equal error rate, in [0, 1]."""
        return self.roc.eer

    def at_far(self, far: float) -> OperatingPoint:
        """Returns the operating point for a target false accept rate, as `Roc.at_far` does.

        Args:
            far: false accept rate, in (0, 1].

        Returns:
            The threshold, with its rates, the numbers of pairs and the confidence interval of its FAR.

        Raises:
            ValueError: if `far` is outside (0, 1], or there are fewer than `1 / far` impostor pairs.
        """
        return self.roc.at_far(far)


def drop_nan_rates(rates: dict[float, float]) -> dict[float, float]:
    """Returns the rates without NaN entries, which mark false accept rates with too few impostor pairs."""
    return {far: rate for far, rate in rates.items() if not math.isnan(rate)}


def has_enough_impostors(far: float, impostors: int) -> bool:
    """Returns whether a number of impostor pairs suffices to measure a false accept rate."""
    return max_accepted(far, impostors) >= 1


def max_accepted(far: float, impostors: int) -> int:
    """Returns the largest number of accepted impostor pairs k with `k / impostors <= far`."""
    accepted = min(int(far * impostors) + 1, impostors)
    while accepted / impostors > far:  # corrects the rounding of the product, in at most two steps
        accepted -= 1
    return accepted


def area_under(far: np.ndarray, tar: np.ndarray) -> np.ndarray:
    """Returns the area under curves whose points are along the last axis."""
    return np.sum(np.diff(far) * (tar[..., 1:] + tar[..., :-1]), axis=-1) / 2


def equal_error_rate(far: np.ndarray, tar: np.ndarray) -> float:
    """Returns the FAR at the intersection of a curve with the line FAR = 1 - TAR."""
    excess = far - (1 - tar)
    after = np.argmax(excess >= 0)
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return far[before] + share * (far[after] - far[before])


def threshold_between(rejected: float, accepted: float | None) -> float:
    """Returns a threshold between the highest rejected score and the lowest accepted score, None if no score is."""
    if accepted is None:
        return float(np.nextafter(rejected, np.inf))
    if np.isinf(rejected):
        return accepted
    halfway = (rejected + accepted) / 2
    return halfway if halfway > rejected else accepted  # rounded down between neighboring floats


def _corners(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the accepted impostor pairs, accepted genuine pairs and threshold of each corner of the curve.

    Corners lie just above and at each genuine score.
    """
    steps = np.unique(genuine)[::-1]
    counts = []
    for scores in (impostor, genuine):
        above = len(scores) - np.searchsorted(scores, steps, side="right")
        at = len(scores) - np.searchsorted(scores, steps, side="left")
        counts.append(np.concatenate([[0], np.stack([above, at], axis=1).ravel(), [len(scores)]]))
    next_higher = [
        np.where(above > 0, scores[np.minimum(len(scores) - above, len(scores) - 1)], np.inf)
        for scores, above in ((impostor, counts[0][1:-1:2]), (genuine, counts[1][1:-1:2]))
    ]
    thresholds = np.stack([np.minimum(*next_higher), steps], axis=1).ravel()
    thresholds = np.concatenate([[np.inf], thresholds, [min(genuine[0], impostor[0])]])
    new = np.append(True, (np.diff(counts[0]) > 0) | (np.diff(counts[1]) > 0))
    return counts[0][new], counts[1][new], thresholds[new]
