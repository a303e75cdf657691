"""Scores of genuine and impostor pairs -> error rates at every threshold."""

import dataclasses
import functools
import math
from collections.abc import Iterable

import numpy as np

from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.vectors import false_accept_rates


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A threshold for a wanted false accept rate, with its uncertainty.

    Attributes:
        wanted_far: what was asked for.
        threshold: the cosine from which on a pair is accepted.
        squared_distance: the same threshold as a squared L2 distance between unit vectors, `2 - 2 * threshold`.
        far: the share of the impostor pairs that it accepts, at most `wanted_far`.
        tar: the share of the genuine pairs that it accepts.
        impostors_accepted: number of impostor pairs that it accepts; with few, the threshold is uncertain.
        impostors: how many impostor pairs there are.
        far_interval: 95% confidence interval of the FAR on other impostor pairs of the same kind; see `far_interval`.
    """

    wanted_far: float
    threshold: float
    far: float
    tar: float
    impostors_accepted: int
    impostors: int
    far_interval: tuple[float, float]

    @property
    def squared_distance(self) -> float:
        return 2 - 2 * self.threshold


class Roc:
    """The receiver operating characteristic of a set of scores.

    A pair is accepted if its score is at or above a threshold. FAR, the false accept rate, is the share of impostor
    pairs that are accepted; TAR, the true accept rate, that of genuine pairs. Equal scores are accepted together.

    Args:
        genuine: `(n,)` scores of pairs of one identity; the higher, the more alike.
        impostor: `(m,)` scores of pairs of two identities.

    Attributes:
        genuine, impostor: the scores, ascending.
        far, tar, thresholds: the corners of the curve, from (0, 0) to (1, 1), and the lowest threshold of each; all
            other points lie on straight lines between corners.
        auc: area under the curve: how often a genuine pair scores higher than an impostor pair, ties counting half.
        eer: the equal error rate, where FAR is 1 - TAR on the line between two corners.

    Raises:
        ValueError: if there are no genuine or no impostor scores, or one is not finite.

    >>> roc = Roc(genuine=[0.9, 0.7, 0.4], impostor=[0.5, 0.2, 0.1, 0.0])
    >>> roc.tar_at(0.25)
    1.0
    """

    def __init__(self, genuine, impostor):
        self.genuine, self.impostor = np.sort(genuine), np.sort(impostor)
        for name, scores in (("genuine", self.genuine), ("impostor", self.impostor)):
            if scores.ndim != 1 or len(scores) == 0:
                raise ValueError(
                    f"A ROC curve needs scores of both genuine and impostor pairs, each of shape (n,). Received: "
                    f"{name} scores of shape {scores.shape}"
                )
            if not np.isfinite(scores[[0, -1]]).all():  # NaN is sorted to the end
                raise ValueError(
                    f"{np.sum(~np.isfinite(scores))} of {len(scores)} {name} scores are not finite numbers"
                )
        impostors_accepted, genuine_accepted, self.thresholds = _corners(self.genuine, self.impostor)
        self.far = impostors_accepted / len(self.impostor)
        self.tar = genuine_accepted / len(self.genuine)

    def __repr__(self) -> str:
        return represent(self, auc=self.auc, eer=self.eer, genuine=len(self.genuine), impostor=len(self.impostor))

    @classmethod
    def of_pairs(cls, scores, same) -> "Roc":
        """From the scores `(n,)` of pairs, and whether each is genuine."""
        scores, same = np.asarray(scores), np.asarray(same, dtype=bool)
        return cls(scores[same], scores[~same])

    @classmethod
    def pooled(cls, rocs: Iterable["Roc"]) -> "Roc":
        """The curve of all scores of several curves together.

        More impostor pairs make a threshold more certain. Its FAR is that of the mixture, so pool sets that resemble
        what the threshold is for; a pair that is in two sets counts twice.

        >>> roc = Roc.pooled([Roc([0.9], [0.1, 0.2]), Roc([0.7], [0.3])])
        >>> len(roc.genuine), len(roc.impostor)
        (2, 3)
        """
        rocs = list(rocs)
        if not rocs:
            raise ValueError("Roc.pooled expects at least one curve. Received: none")
        return cls(*(np.concatenate([getattr(roc, name) for roc in rocs]) for name in ("genuine", "impostor")))

    @functools.cached_property
    def auc(self) -> float:
        return float(area_under(self.far, self.tar))

    @functools.cached_property
    def eer(self) -> float:
        return float(equal_error_rate(self.far, self.tar))

    def tar_at(self, far: float) -> float:
        """The largest TAR of any threshold whose FAR is at most `far`.

        NaN where there are fewer than `1 / far` impostor pairs, as such a FAR cannot be seen in them.
        """
        if not can_show(far, len(self.impostor)):
            return float("nan")
        return float(np.mean(self.genuine > self._last_rejected(far)))

    def nearest_tar(self, far: float) -> float:
        """The TAR at the point of the curve whose FAR is nearest to `far`, as published for IJB-B and IJB-C.

        The nearest FAR may be a higher one, and `tar_at` is then lower. Of equally near points, that of the higher FAR
        counts. The points are those that scikit-learn's `roc_curve` keeps, which the published figures are made with:
        of all thresholds, those where the next step differs from the last. NaN as of `tar_at`.
        """
        if not can_show(far, len(self.impostor)):
            return float("nan")
        fars, tars = self._kept_by_scikit_learn
        return float(tars[::-1][np.argmin(np.abs(fars[::-1] - far))])

    @functools.cached_property
    def _kept_by_scikit_learn(self):
        thresholds = np.unique(np.concatenate([self.genuine, self.impostor]))[::-1]
        impostors, genuine = (len(s) - np.searchsorted(s, thresholds) for s in (self.impostor, self.genuine))
        bends = (np.diff(impostors, 2) != 0) | (np.diff(genuine, 2) != 0)
        kept = np.concatenate([[True], bends, [True]])[: len(thresholds)]
        fars, tars = impostors[kept] / len(self.impostor), genuine[kept] / len(self.genuine)
        return np.concatenate([[0.0], fars]), np.concatenate([[0.0], tars])

    def at_far(self, far: float) -> OperatingPoint:
        """The lowest threshold whose FAR is at most `far`, halfway between the scores that it parts.

        Raises:
            ValueError: if there are fewer than `1 / far` impostor pairs: a threshold would be a guess.
        """
        false_accept_rates([far])
        impostors = len(self.impostor)
        if not can_show(far, impostors):
            raise ValueError(
                f"No threshold can be given for a FAR of {far:g}. Expected: at least {int(np.ceil(1 / far)):,} "
                f"impostor pairs. Received: {impostors:,}"
            )
        rejected = self._last_rejected(far)
        accepted_genuine, accepted_impostor = (
            scores[np.searchsorted(scores, rejected, side="right") :] for scores in (self.genuine, self.impostor)
        )
        lowest = min(
            [float(scores[0]) for scores in (accepted_genuine, accepted_impostor) if len(scores)], default=None
        )
        if lowest is None:  # no score is higher than the last that must be rejected
            threshold = float(np.nextafter(rejected, np.inf))
        elif np.isinf(rejected):  # none must be
            threshold = lowest
        else:
            threshold = (float(rejected) + lowest) / 2
            if threshold <= rejected:  # neighbors: what lies between them is rounded down
                threshold = lowest
        return OperatingPoint(
            wanted_far=far,
            threshold=threshold,
            far=len(accepted_impostor) / impostors,
            tar=len(accepted_genuine) / len(self.genuine),
            impostors_accepted=len(accepted_impostor),
            impostors=impostors,
            far_interval=far_interval(len(accepted_impostor), impostors, allowed_at(far, impostors)),
        )

    def _last_rejected(self, far):
        """The highest impostor score that must be rejected: whatever is above it may be accepted."""
        allowed = allowed_at(far, len(self.impostor))
        return self.impostor[-allowed - 1] if allowed < len(self.impostor) else -np.inf


class OfCurve:
    """What every result that holds a curve, as `roc`, says of it."""

    roc: Roc

    @property
    def auc(self) -> float:
        return self.roc.auc

    @property
    def eer(self) -> float:
        return self.roc.eer

    def at_far(self, far: float) -> OperatingPoint:
        """The threshold for a wanted false accept rate: see `Roc.at_far`."""
        return self.roc.at_far(far)


def measured(rates: dict[float, float]) -> dict[float, float]:
    """The rates, by false accept rate, without those that the impostor pairs cannot show."""
    return {far: rate for far, rate in rates.items() if not math.isnan(rate)}


def can_show(far: float, impostors: int) -> bool:
    """Whether so many impostor pairs can show such a FAR at all."""
    return allowed_at(far, impostors) >= 1


def allowed_at(far: float, impostors: int) -> int:
    """How many impostors may be accepted: the largest k with `k / impostors <= far`."""
    allowed = min(int(far * impostors) + 1, impostors)
    while allowed / impostors > far:  # at most twice: the product above is rounded
        allowed -= 1
    return allowed


def far_interval(accepted: int, impostors: int, allowed: int | None = None, level: float = 0.95):
    """Confidence interval of the FAR of a threshold that was chosen by the same impostor pairs.

    Of n independent impostor scores, the share of all impostors at or above the k-th highest has the distribution
    Beta(k, n - k + 1), whatever the distribution of the scores is. A threshold that accepts k of them lies between the
    k-th and the next one, so its FAR is at least the first's and at most the second's, Beta(k + 1, n - k). The
    quantiles of the two are the exact (Clopper-Pearson) binomial interval of k accepted of n: choosing the threshold
    by the same pairs costs nothing, as k is known before the scores are. Pairs that share people or images are not
    independent, and the truth is less certain than the interval says.

    Args:
        accepted: impostor pairs at or above the threshold.
        impostors: impostor pairs in all.
        allowed: how many could have been accepted: more than `accepted` where equal scores had to be rejected together;
            None for `accepted`.
        level: how often the interval holds the true FAR, at least.

    Returns:
        `(low, high)`.

    References:
        - [The use of confidence or fiducial limits](https://doi.org/10.1093/biomet/26.4.404), Clopper and Pearson, 1934
    """
    share = (1 - level) / 2
    low = 1 - _upper_limit(impostors - accepted, impostors, share)
    return low, _upper_limit(accepted if allowed is None else allowed, impostors, share)


def _upper_limit(successes: int, trials: int, share: float) -> float:
    """The probability at which `successes` or fewer of `trials` have the probability `share`."""
    if successes == trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(successes, trials, middle) > share else (low, middle)
    return high


def _at_most(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) of a binomial X whose mean is above that.

    Terms are taken from the largest on, each from the one before it; what is left out is below 1e-20 of the sum.
    """
    if probability >= 1:
        return 0.0
    log_largest = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(probability)
        + (trials - successes) * math.log1p(-probability)
    )
    spread = math.sqrt(min(successes, trials - successes) + 1)
    counts = np.arange(successes, max(0, successes - int(12 * spread) - 100), -1)
    ratios = counts * (1 - probability) / ((trials - counts + 1) * probability)
    return math.exp(log_largest) * (1 + float(np.sum(np.cumprod(ratios))))


def area_under(far, tar):
    """Area under curves whose points lie along the last axis."""
    return np.sum(np.diff(far) * (tar[..., 1:] + tar[..., :-1]), axis=-1) / 2


def equal_error_rate(far, tar) -> float:
    """Where a curve from (0, 0) to (1, 1) meets FAR = 1 - TAR."""
    excess = far - (1 - tar)
    after = np.argmax(excess >= 0)
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    return far[before] + share * (far[after] - far[before])


def _corners(genuine, impostor):
    """Accepted impostors and genuine pairs, and threshold, around every genuine score: above it, and at it."""
    steps = np.unique(genuine)[::-1]
    counts = []
    for scores in (impostor, genuine):
        above = len(scores) - np.searchsorted(scores, steps, side="right")
        at = len(scores) - np.searchsorted(scores, steps, side="left")
        counts.append(np.concatenate([[0], np.stack([above, at], axis=1).ravel(), [len(scores)]]))
    higher = [
        np.where(above > 0, scores[np.minimum(len(scores) - above, len(scores) - 1)], np.inf)
        for scores, above in ((impostor, counts[0][1:-1:2]), (genuine, counts[1][1:-1:2]))
    ]
    thresholds = np.stack([np.minimum(*higher), steps], axis=1).ravel()
    thresholds = np.concatenate([[np.inf], thresholds, [min(genuine[0], impostor[0])]])
    new = np.append(True, (np.diff(counts[0]) > 0) | (np.diff(counts[1]) > 0))
    return counts[0][new], counts[1][new], thresholds[new]
