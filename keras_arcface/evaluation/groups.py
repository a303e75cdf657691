"""Error rates of groups of people at a common threshold, and how much they differ."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface._messages import short
from keras_arcface.evaluation.design_effect import design_effect
from keras_arcface.evaluation.far_interval import far_interval
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_same
from keras_arcface.evaluation.rate_differences import RateDifference
from keras_arcface.evaluation.rate_differences import RateSamples
from keras_arcface.evaluation.rate_differences import gini_coefficient
from keras_arcface.evaluation.rate_differences import rate_difference
from keras_arcface.evaluation.roc import Roc

# With fewer errors than this, the ends of the 95% interval of a rate differ by a factor of more than four.
_MIN_EXPECTED_ERRORS = 10


@dataclasses.dataclass(frozen=True)
class GroupRates:
    """Error rates of a group at the common threshold. `by_group` returns one for each group.

    Attributes:
        genuine: number of genuine pairs.
        impostors: number of impostor pairs.
        false_non_matches: number of genuine pairs below the threshold.
        false_matches: number of impostor pairs at or above the threshold.
        fnmr: false non-match rate, the share of the genuine pairs below the threshold.
        fmr: false match rate, the share of the impostor pairs at or above the threshold.
        fnmr_interval: confidence interval `(low, high)` of the FNMR.
        fmr_interval: confidence interval of the FMR.
        tar: true accept rate, `1 - fnmr`.
        far: false accept rate, equal to `fmr`. (In a system that fails to acquire some images, they differ.)

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> same, groups = np.arange(12000) % 2 == 0, np.repeat(["a", "b", "c"], 4000)
        >>> scores = rng.normal(np.where(same, 0.45, np.where(groups == "c", 0.03, 0.0)), 0.1)
        >>> rates = by_group(scores, same, groups, far=0.01).groups["c"]
        >>> rates
        GroupRates(fnmr=0.0195, fmr=0.0160, genuine=2000, impostors=2000)
        >>> print(f"TAR {rates.tar:.1%}, FMR {rates.fmr_interval[0]:.1%} to {rates.fmr_interval[1]:.1%}")
        TAR 98.0%, FMR 1.1% to 2.3%
    """

    genuine: int
    impostors: int
    false_non_matches: int
    false_matches: int
    fnmr: float
    fmr: float
    fnmr_interval: tuple[float, float]
    fmr_interval: tuple[float, float]

    def __repr__(self) -> str:
        return format_result(self, fnmr=self.fnmr, fmr=self.fmr, genuine=self.genuine, impostors=self.impostors)

    @property
    def tar(self) -> float:
        """True accept rate, `1 - fnmr`."""
        return 1 - self.fnmr

    @property
    def far(self) -> float:
        """False accept rate, equal to `fmr`."""
        return self.fmr


@dataclasses.dataclass(frozen=True)
class GroupResult:
    """Result of `by_group`.

    Attributes:
        threshold: the common threshold, the lowest score of an accepted pair.
        groups: `GroupRates` of each group, by its name.
        overall: `GroupRates` of all pairs.
        fmr_difference: `RateDifference` of the false match rates.
        fnmr_difference: `RateDifference` of the false non-match rates.
        garbe: `alpha` times the Gini coefficient of the FMRs plus `1 - alpha` times that of the FNMRs (GARBE, Gini
            aggregation rate for biometric equitability), from 0 to 1. NaN without false matches or without false
            non-matches.
        garbe_interval: confidence interval of `garbe`. It contains 0 if the groups may not differ.
        garbe_by_chance: mean `garbe` of groups that do not differ, with as many pairs and errors.
        alpha: weight of the FMR in `garbe`.
        level: confidence level of the intervals.
        too_small: names of the groups that have too few pairs to be compared, `{"fmr": [...], "fnmr": [...]}`.
        design_effects: number of pairs that say as much as one independent pair, `{"fmr": ..., "fnmr": ...}`. 1 without
            `people`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> same, groups = np.arange(12000) % 2 == 0, np.repeat(["a", "b", "c"], 4000)
        >>> scores = rng.normal(np.where(same, 0.45, np.where(groups == "c", 0.03, 0.0)), 0.1)
        >>> result = by_group(scores, same, groups, far=0.01)
        >>> result
        GroupResult(threshold=0.2399, groups=3, fmr_ratio=3.2000, fmr_p_value=0.0080, fnmr_ratio=1.0811,
            fnmr_p_value=0.9590, garbe=0.1963)
        >>> results_table(result)
          group     TAR                  FNMR  false non-matches                   FMR  false matches
              a  98.15%  1.85% [1.31%, 2.54%]        37 of 2,000  0.9% [0.534%, 1.42%]    18 of 2,000
              b  98.00%     2% [1.43%, 2.71%]        40 of 2,000  0.5% [0.24%, 0.918%]    10 of 2,000
              c  98.05%  1.95% [1.39%, 2.66%]        39 of 2,000    1.6% [1.1%, 2.25%]    32 of 2,000
            all  98.07%   1.93% [1.6%, 2.31%]       116 of 6,000    1% [0.764%, 1.29%]    60 of 6,000
    """

    threshold: float
    groups: dict[str, GroupRates]
    overall: GroupRates
    fmr_difference: RateDifference
    fnmr_difference: RateDifference
    garbe: float
    garbe_interval: tuple[float, float]
    garbe_by_chance: float
    alpha: float
    level: float
    too_small: dict[str, list[str]]
    design_effects: dict[str, float]

    def __repr__(self) -> str:
        return format_result(
            self,
            threshold=self.threshold,
            groups=len(self.groups),
            fmr_ratio=self.fmr_difference.ratio,
            fmr_p_value=self.fmr_difference.p_value,
            fnmr_ratio=self.fnmr_difference.ratio,
            fnmr_p_value=self.fnmr_difference.p_value,
            garbe=self.garbe,
        )


def by_group(
    scores,
    same,
    groups,
    threshold: float | None = None,
    far: float | None = None,
    people=None,
    alpha: float = 0.5,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> GroupResult:
    """Computes the error rates of groups of people at a common threshold, and how much they differ.

    A system has one threshold for everybody. An overall error rate can hide that nearly all errors concern one group.

    Pairs that share people are not independent: few people differ by chance, whatever their group. Pass `people` for
    such pairs; without it, their intervals are too narrow, and their p-values too low.

    Args:
        scores: `(n,)` scores of pairs, such as the cosines of `pair_scores` or of `verify(...).scores`. A higher score
            means more similar.
        same: `(n,)` bool, a mask of the genuine pairs.
        groups: `(n,)` group of each pair, strings or integers. Usually both people of a pair belong to its group. Leave
            out impostor pairs of people from different groups: they are easier, and have no genuine counterpart.
        threshold: lowest score of an accepted pair.
        far: chooses the lowest threshold whose false accept rate on all impostor pairs is at most this rate, instead of
            `threshold`. Each group counts with its number of pairs.
        people: `(n, 2)` people of each pair, strings or integers. Intervals and p-values then treat the pairs as fewer
            pairs that are independent, by the design effect of sharing people. None if the pairs share no people.
        alpha: weight of the false match rate in GARBE, in [0, 1]. The weight of the false non-match rate is
            `1 - alpha`.
        samples: number of bootstrap samples and of permutations.
        level: confidence level of the intervals, in (0, 1).
        seed: seed of the random generator.

    Returns:
        A `GroupResult`. The intervals of the rates are Clopper-Pearson intervals. Those of the ratios, Gini
        coefficients and GARBE are bootstrap intervals over the pairs of each group. They are extended to the value
        without a difference unless a permutation test rejects it.

    Raises:
        ValueError: if an array has another shape, a score is not finite, there are fewer than two groups, a group has
            no genuine or no impostor pairs, not exactly one of `threshold` and `far` is given, there are fewer than
            `1 / far` impostor pairs, or another argument is outside its range.

    Warns:
        UserWarning: if a group has too few pairs: at the overall rate, fewer than 10 errors are expected. The ends of
            the interval of its rate then differ by a factor of more than four.

    Examples:
        Scores of 12,000 pairs in three groups, of which `c` has a higher FMR:

        >>> rng = np.random.default_rng(0)
        >>> same, groups = np.arange(12000) % 2 == 0, np.repeat(["a", "b", "c"], 4000)
        >>> scores = rng.normal(np.where(same, 0.45, np.where(groups == "c", 0.03, 0.0)), 0.1)
        >>> result = by_group(scores, same, groups, far=0.01)
        >>> {group: rates.fmr for group, rates in result.groups.items()}
        {'a': 0.009, 'b': 0.005, 'c': 0.016}
        >>> result.fmr_difference.p_value < 0.05, result.fnmr_difference.p_value < 0.05
        (True, False)

    References:
        - [Evaluating Proposed Fairness Models for Face Recognition Algorithms](https://arxiv.org/abs/2203.05051),
          Howard et al., 2022: GARBE
        - [Statistical Methods for Assessing Differences in False Non-Match Rates Across Demographic
          Groups](https://arxiv.org/abs/2208.10948), Schuckers et al., 2022: differences by chance
        - [Face Recognition Vendor Test, Part 3: Demographic Effects](https://doi.org/10.6028/NIST.IR.8280), NIST, 2019
    """
    scores = _check_scores(scores)
    same = check_same(same, len(scores))
    names, group_of_pair = _check_groups(groups, same)
    check_number("alpha", alpha, lambda alpha: 0 <= alpha <= 1, "in [0, 1]")
    check_integer("samples", samples, minimum=1)
    check_number("level", level, lambda level: 0 < level < 1, "in (0, 1)")
    threshold = _common_threshold(scores, same, threshold, far)

    is_wrong = (scores >= threshold) != same
    of_person = None if people is None else _check_people(people, len(scores))
    effects = [1.0, 1.0]
    counts = np.zeros((2, 2, len(names)), np.int64)  # errors or pairs, impostor or genuine, group
    for kind, of_kind in enumerate((~same, same)):
        counts[0, kind] = np.bincount(group_of_pair[of_kind & is_wrong], minlength=len(names))
        counts[1, kind] = np.bincount(group_of_pair[of_kind], minlength=len(names))
        if of_person is not None:
            effects[kind] = design_effect(is_wrong[of_kind], group_of_pair[of_kind], of_person[of_kind])
    rates = {name: _rates(counts[:, :, row], effects, level) for row, name in enumerate(names)}
    overall = _rates(counts.sum(axis=2), effects, level)
    errors, num_pairs = _independent(counts, np.array(effects)[:, None])
    sampled = RateSamples(errors, num_pairs, samples, seed)
    too_small = {
        "fmr": [name for name in names if rates[name].impostors * overall.fmr < _MIN_EXPECTED_ERRORS * effects[0]],
        "fnmr": [name for name in names if rates[name].genuine * overall.fnmr < _MIN_EXPECTED_ERRORS * effects[1]],
    }
    _warn_if_too_small(too_small, overall)
    observed = counts[0] / counts[1]
    fmr, fnmr = (rate_difference(names, observed[kind], sampled, kind, level) for kind in range(2))

    def garbe(rates: np.ndarray) -> np.ndarray:
        return gini_coefficient(rates) @ [alpha, 1 - alpha]

    # The weighted sum of two lower ends is too low: both are rarely too high together.
    lowest_garbe = alpha * fmr.gini_interval[0] + (1 - alpha) * fnmr.gini_interval[0]
    return GroupResult(
        threshold=threshold,
        groups=rates,
        overall=overall,
        fmr_difference=fmr,
        fnmr_difference=fnmr,
        garbe=float(garbe(observed)),
        garbe_interval=(lowest_garbe, float(np.fmax(sampled.upper_end(garbe, level), garbe(observed)))),
        garbe_by_chance=alpha * fmr.gini_by_chance + (1 - alpha) * fnmr.gini_by_chance,
        alpha=alpha,
        level=level,
        too_small=too_small,
        design_effects={"fmr": effects[0], "fnmr": effects[1]},
    )


def _check_scores(scores: Any) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores must have the shape (n,), one for each pair. Received: shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite. Received: scores[{np.argmin(np.isfinite(scores))}] is not finite")
    return scores


def _check_groups(groups: Any, same: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Returns the sorted names of the groups, and the index of the group of each pair."""
    groups = np.asarray(groups)
    is_strings = groups.dtype.kind == "U" or all(isinstance(group, str) for group in groups.ravel())
    if groups.shape != same.shape or not (is_strings or groups.dtype.kind in "iu"):
        raise ValueError(
            f"groups must be strings or integers of shape {same.shape}, one for each pair. "
            f"Received: shape {groups.shape}, {groups.dtype}"
        )
    names, group_of_pair = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"groups must contain at least two groups. Received: only {short(names[0])}")
    for row, name in enumerate(names):
        genuine = same[group_of_pair == row]
        if genuine.all() or not genuine.any():
            raise ValueError(
                "Each group must have both genuine and impostor pairs. Received: "
                f"{np.sum(genuine)} genuine and {np.sum(~genuine)} impostor pairs of {short(name)}"
            )
    return [str(name) for name in names], group_of_pair


def _check_people(people: Any, num_pairs: int) -> np.ndarray:
    """Returns the people of each pair as numbers from 0."""
    people = np.asarray(people)
    is_strings = people.dtype.kind == "U" or all(isinstance(person, str) for person in people.ravel())
    if people.shape != (num_pairs, 2) or not (is_strings or people.dtype.kind in "iu"):
        raise ValueError(
            f"people must be strings or integers of shape ({num_pairs}, 2), two for each pair. "
            f"Received: shape {people.shape}, {people.dtype}"
        )
    return np.unique(people, return_inverse=True)[1].reshape(people.shape)


def _common_threshold(scores: np.ndarray, same: np.ndarray, threshold: float | None, far: float | None) -> float:
    if threshold is not None and far is None:
        check_number("threshold", threshold, np.isfinite, "a finite number")
        return float(threshold)
    if far is not None and threshold is None:
        return Roc.from_pairs(scores, same).at_far(far).threshold
    raise ValueError(f"Expected either threshold or far, the other None. Received: threshold={threshold}, far={far}")


def _rates(counts: np.ndarray, effects: list[float], level: float) -> GroupRates:
    """Returns the rates of a group with the counts `(2, 2)`, errors or pairs of impostor or genuine pairs."""
    (false_matches, false_non_matches), (impostors, genuine) = counts.tolist()
    errors, pairs = _independent(counts, np.array(effects))
    fmr_interval, fnmr_interval = (far_interval(int(errors[kind]), int(pairs[kind]), level=level) for kind in range(2))
    return GroupRates(
        genuine=genuine,
        impostors=impostors,
        false_non_matches=false_non_matches,
        false_matches=false_matches,
        fnmr=false_non_matches / genuine,
        fmr=false_matches / impostors,
        fnmr_interval=fnmr_interval,
        fmr_interval=fmr_interval,
    )


def _independent(counts: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Returns numbers of errors and of pairs, `(2, kinds, ...)`, as if the pairs were independent."""
    errors, pairs = np.rint(counts / effects).astype(np.int64)
    return np.stack([errors, np.maximum(pairs, 1)])


def _warn_if_too_small(too_small: dict[str, list[str]], overall: GroupRates) -> None:
    pairs = {"fmr": ("FMR", overall.fmr, "impostor"), "fnmr": ("FNMR", overall.fnmr, "genuine")}
    for rate, names in too_small.items():
        if names:
            name, value, kind = pairs[rate]
            warnings.warn(
                f"{', '.join(names)}: too few {kind} pairs to compare the {name}. At the overall {name} of "
                f"{value:.3g}, fewer than {_MIN_EXPECTED_ERRORS} errors of a group are expected",
                stacklevel=3,
            )
