"""Differences of an error rate between groups: ratio, Gini coefficient, their intervals, and a permutation test."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_arcface.evaluation.formatting import format_result


@dataclasses.dataclass(frozen=True)
class RateDifference:
    """Difference of an error rate, FMR or FNMR, between groups. `by_group` returns two of them.

    Groups that do not differ still have different rates in a sample, so `ratio` is above 1 and `gini` above 0 even
    then. Read them with `p_value` and `gini_by_chance`. If `p_value` is at least 0.05, the 95% intervals contain the
    values without a difference, 1 and 0.

    Attributes:
        highest: group with the highest rate.
        lowest: group with the lowest rate.
        ratio: highest rate divided by the lowest rate. Infinite if the lowest rate is 0, NaN if all rates are 0.
        ratio_interval: confidence interval `(low, high)` of the ratio. `high` is infinite if a group has no errors.
        gini: Gini coefficient of the rates, from 0 (equal rates) to 1 (all errors in one group). NaN without errors.
        gini_interval: confidence interval of the Gini coefficient.
        gini_by_chance: mean Gini coefficient of groups that do not differ, with as many pairs and errors.
        p_value: probability that groups that do not differ are at least as different as these groups.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> same, groups = np.arange(12000) % 2 == 0, np.repeat(["a", "b", "c"], 4000)
        >>> scores = rng.normal(np.where(same, 0.45, np.where(groups == "c", 0.03, 0.0)), 0.1)
        >>> result = by_group(scores, same, groups, far=0.01)
        >>> result.fmr_difference
        RateDifference(ratio=3.2000, p_value=0.0080, gini=0.3667, gini_by_chance=0.1275, highest='c', lowest='b')
        >>> print("FMR ratio: {:.1f} to {:.1f}".format(*result.fmr_difference.ratio_interval))
        FMR ratio: 1.5 to 6.4
        >>> result.fnmr_difference  # the groups may not differ
        RateDifference(ratio=1.0811, p_value=0.9590, gini=0.0259, gini_by_chance=0.0868, highest='b', lowest='a')
    """

    highest: str
    lowest: str
    ratio: float
    ratio_interval: tuple[float, float]
    gini: float
    gini_interval: tuple[float, float]
    gini_by_chance: float
    p_value: float

    def __repr__(self) -> str:
        return format_result(
            self,
            ratio=self.ratio,
            p_value=self.p_value,
            gini=self.gini,
            gini_by_chance=self.gini_by_chance,
            highest=self.highest,
            lowest=self.lowest,
        )


def gini_coefficient(rates: np.ndarray) -> np.ndarray:
    """Returns the Gini coefficients of rates `(..., groups)`, with the factor `n / (n - 1)` for n groups.

    NaN if all rates are 0.
    """
    spread = np.abs(rates[..., :, None] - rates[..., None, :]).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        return spread / (2 * (rates.shape[-1] - 1) * rates.sum(axis=-1))


def worst_ratio(rates: np.ndarray) -> np.ndarray:
    """Returns the highest rates divided by the lowest, for rates `(..., groups)`. NaN if all rates are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return rates.max(axis=-1) / rates.min(axis=-1)


class RateSamples:
    """Random samples of the error rates of groups, and what they say about a measure of their difference.

    A measure is a function of rates `(..., kinds, groups)`, whose kinds are the FMR and the FNMR.

    Args:
        errors: `(kinds, groups)` number of errors.
        pairs: `(kinds, groups)` number of pairs.
        samples: number of samples.
        seed: seed of the random generator.

    Attributes:
        rates: `(kinds, groups)` observed rates.
        around: `(samples, kinds, groups)` rates of a smoothed bootstrap over the pairs of each group: of the
            distribution Beta(errors + 1/2, pairs - errors + 1/2). In the plain bootstrap, the rate of a group without
            errors is always 0.
        by_chance: `(samples, kinds, groups)` rates after the errors are permuted among the pairs of all groups.
    """

    def __init__(self, errors: np.ndarray, pairs: np.ndarray, samples: int, seed: int):
        self._pairs, self._samples, self._seed = pairs, samples, seed
        generator = np.random.default_rng(seed)
        self.rates = errors / pairs
        self.around = generator.beta(errors + 0.5, pairs - errors + 0.5, size=(samples, *errors.shape))
        permuted = [
            generator.multivariate_hypergeometric(of_kind, total, size=samples)
            for of_kind, total in zip(pairs, errors.sum(axis=1), strict=True)
        ]
        self.by_chance = np.stack(permuted, axis=1) / pairs
        self._common_rates = errors.sum(axis=1, keepdims=True) / pairs.sum(axis=1, keepdims=True)

    def p_value(self, measure: Callable[[np.ndarray], np.ndarray]) -> float:
        """Returns the share of permutations, with the observed one, in which a measure is at least as high.

        The test is exact for independent pairs, also if the threshold was chosen on the same pairs, because that choice
        does not depend on their groups.
        """
        at_least = np.sum(measure(self.by_chance) >= measure(self.rates) * (1 - 1e-9))  # equal up to rounding
        return float((1 + at_least) / (1 + self._samples))

    def chi_squared(self, kind: int) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a measure, the chi-squared statistic of equal rates up to a factor that permutations do not change.

        Unlike the Gini coefficient, it gives little weight to the noise of groups with few pairs.
        """
        return lambda rates: np.sum(self._pairs[kind] * (rates[..., kind, :] - self._common_rates[kind]) ** 2, axis=-1)

    def upper_end(self, measure: Callable[[np.ndarray], np.ndarray], level: float) -> float:
        """Returns the upper end of the interval of a measure, a percentile of `around`."""
        return float(np.quantile(measure(self.around), (1 + level) / 2))

    def lower_end(self, measure: Callable[[np.ndarray], np.ndarray], level: float) -> float:
        """Returns the lower end of the interval of a measure that grows with the differences between groups.

        A percentile of `around` would be too high: noise adds to the differences between groups, and the bootstrap adds
        noise again. Instead, the rates are moved toward each other until their bootstrap samples reach the observed
        measure with the probability `(1 - level) / 2`.
        """
        tail, observed = (1 - level) / 2, measure(self.rates)
        low, high = 0.0, 1.0
        if np.mean(measure(self._sample(low)) >= observed) < tail:
            for _ in range(10):
                middle = (low + high) / 2
                rarely = np.mean(measure(self._sample(middle)) >= observed) < tail
                low, high = (middle, high) if rarely else (low, middle)
        return float(measure(self._moved(low)))

    def _moved(self, share: float) -> np.ndarray:
        """Returns rates between those without a difference (share 0) and the observed ones (share 1)."""
        return self._common_rates + share * (self.rates - self._common_rates)

    def _sample(self, share: float) -> np.ndarray:
        """Returns bootstrap samples around moved rates. Every call uses the same random numbers."""
        generator = np.random.default_rng(self._seed)
        return generator.binomial(self._pairs, self._moved(share), size=self.around.shape) / self._pairs


def rate_difference(
    names: Sequence[str], rates: np.ndarray, samples: RateSamples, kind: int, level: float
) -> RateDifference:
    """Returns the difference between groups in a kind of error.

    Args:
        names: names of the groups.
        rates: `(groups,)` observed rates. Those of the samples are rounded if pairs share people.
        samples: samples of the rates.
        kind: index of the kind of error in the samples.
        level: confidence level of the intervals.
    """

    def ratio(rates: np.ndarray) -> np.ndarray:
        return worst_ratio(rates[..., kind, :])

    def gini(rates: np.ndarray) -> np.ndarray:
        return gini_coefficient(rates[..., kind, :])

    p_value = samples.p_value(samples.chi_squared(kind))

    def interval(measure: Callable[[np.ndarray], np.ndarray], equal: float, observed: float) -> tuple[float, float]:
        """Returns the interval of a measure, whose value without a difference is `equal`."""
        low = samples.lower_end(measure, level) if p_value < 1 - level else equal
        return float(np.fmin(low, observed)), float(np.fmax(samples.upper_end(measure, level), observed))

    found_ratio, found_gini = float(worst_ratio(rates)), float(gini_coefficient(rates))
    ratio_interval = interval(ratio, 1.0, found_ratio)
    return RateDifference(
        highest=names[int(np.argmax(rates))],
        lowest=names[int(np.argmin(rates))],
        ratio=found_ratio,
        ratio_interval=ratio_interval if samples.rates[kind].min() > 0 else (ratio_interval[0], float("inf")),
        gini=found_gini,
        gini_interval=interval(gini, 0.0, found_gini),
        gini_by_chance=float(np.mean(gini(samples.by_chance))),
        p_value=p_value,
    )
