"""Confidence interval of the false accept rate of a threshold."""

import math

import numpy as np


def far_interval(
    accepted: int, impostors: int, max_accepted: int | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Returns the confidence interval of the FAR of a threshold that was chosen on the same impostor pairs.

    If the threshold is the k-th highest of n independent impostor scores, its FAR has the distribution
    Beta(k, n - k + 1), for any distribution of the scores. A threshold that accepts k pairs lies between the k-th and
    the (k + 1)-th highest score, so its FAR lies between the FARs of these two scores. The quantiles of their
    distributions are the exact (Clopper-Pearson) binomial interval of k accepted pairs among n. The interval holds
    although the threshold is chosen on the same pairs, because k does not depend on the scores. Pairs that share people
    or images are not independent; the true interval is then wider.

    Args:
        accepted: number of impostor pairs at or above the threshold.
        impostors: number of impostor pairs.
        max_accepted: largest number of accepted pairs at the target FAR. It is larger than `accepted` if equal scores
            are rejected together. None for `accepted`.
        level: lower bound of the probability that the interval contains the true FAR.

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

    The terms are summed from the largest to the smallest. The sum of the omitted terms is below 1e-20 of the result.
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
