"""Confidence interval of the false accept rate of a threshold."""

import math

import numpy as np


def far_interval(
    accepted: int, impostors: int, max_accepted: int | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Returns the confidence interval of the FAR of a threshold that was chosen on the same impostor pairs.

    Of n independent impostor scores, the share of all impostors at or above the k-th highest has the distribution
    Beta(k, n - k + 1), for any distribution of the scores. A threshold that accepts k of them is between the k-th and
    the next score, so its FAR is at least that of the first and at most that of the second, Beta(k + 1, n - k). The
    quantiles of the two are the exact (Clopper-Pearson) binomial interval of k accepted of n. Choosing the threshold on
    the same pairs does not change it, because k is known before the scores are. Pairs that share people or images are
    not independent, and then the true FAR is less certain than the interval states.

    Args:
        accepted: number of impostor pairs at or above the threshold.
        impostors: number of impostor pairs.
        max_accepted: number of pairs that the target FAR allows to accept. It is larger than `accepted` if equal scores
            were rejected together. None means `accepted`.
        level: probability with which the interval contains the true FAR, at least.

    Returns:
        `(low, high)`.

    References:
        - [The use of confidence or fiducial limits](https://doi.org/10.1093/biomet/26.4.404), Clopper and Pearson, 1934
    """
    tail = (1 - level) / 2
    low = 1 - _upper_limit(impostors - accepted, impostors, tail)
    return low, _upper_limit(accepted if max_accepted is None else max_accepted, impostors, tail)


def _upper_limit(successes: int, trials: int, tail: float) -> float:
    """Returns the success probability at which P(X <= successes) is `tail`, by bisection."""
    if successes == trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial_cdf(successes, trials, middle) > tail else (low, middle)
    return high


def _binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Returns P(X <= successes) of a binomial X with a mean above `successes`.

    Sums the terms from the largest on, each computed from the previous one. The omitted terms are below 1e-20 of the
    sum.
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
