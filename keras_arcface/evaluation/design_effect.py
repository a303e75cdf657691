"""Design effect of pairs that share people: how many pairs say as much as one independent pair."""

import numpy as np


def design_effect(errors: np.ndarray, groups: np.ndarray, people: np.ndarray) -> float:
    """Returns the variance of the error rates of groups, relative to that of as many independent pairs.

    The variance is estimated by the jackknife: one person after the other is left out, with all pairs of this person.
    The pairs of two people are left out twice, so their common noise counts twice, and is subtracted once. Numbers of
    pairs and of errors that are divided by the design effect can be analyzed as if pairs were independent.

    Args:
        errors: `(n,)` bool, a mask of the pairs that are decided wrongly.
        groups: `(n,)` int, the group of each pair.
        people: `(n, 2)` int, the people of each pair, from 0.

    Returns:
        The design effect of all groups together, at least 1.

    References:
        - [A Simple Method for the Analysis of Clustered Binary Data](https://doi.org/10.2307/2532311), Rao and Scott,
          1992
    """
    variance = independent = 0.0
    for group in np.unique(groups):
        wrong, (first, second) = errors[groups == group].astype(float), people[groups == group].T
        is_two, num_people = first != second, int(people.max()) + 1
        pairs_of, errors_of = (
            np.bincount(first, weights, num_people) + np.bincount(second[is_two], weights[is_two], num_people)
            for weights in (np.ones(len(wrong)), wrong)
        )
        rate, found = float(wrong.mean()), (pairs_of > 0) & (pairs_of < len(wrong))
        without = (wrong.sum() - errors_of[found]) / (len(wrong) - pairs_of[found])
        two_people = np.minimum(first, second) * num_people + np.maximum(first, second)
        _, of_two = np.unique(two_people[is_two], return_inverse=True)
        twice = np.sum(np.bincount(of_two, wrong[is_two] - rate) ** 2) / len(wrong) ** 2
        jackknife = (1 - 1 / max(len(without), 1)) * float(np.sum((without - rate) ** 2))
        variance += jackknife - float(twice)
        independent += rate * (1 - rate) / len(wrong)
    return max(1.0, variance / independent) if independent > 0 else 1.0
