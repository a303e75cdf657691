"""Error rates of groups, against plain loops and known truths."""

import math
import warnings

import numpy as np
import pytest
from scipy.stats import beta

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation import by_group
from keras_arcface.evaluation import results_table
from keras_arcface.evaluation import to_json
from keras_arcface.evaluation.rate_differences import gini_coefficient
from keras_arcface.evaluation.rate_differences import worst_ratio
from keras_arcface.evaluation.tables import group_difference_table


def make_pairs(errors, pairs, seed=0):
    """Returns scores, same and groups in random order, so that `errors[kind][group]` pairs err at threshold 0.5.

    Kind 0 are impostor pairs, kind 1 genuine pairs.
    """
    rows = []
    for kind in (0, 1):
        for group, (wrong, count) in enumerate(zip(errors[kind], pairs[kind], strict=True)):
            rows += [((number < wrong) != bool(kind), bool(kind), f"group {group}") for number in range(count)]
    order = np.random.default_rng(seed).permutation(len(rows))
    accepted, same, groups = (np.array(column)[order] for column in zip(*rows, strict=True))
    return accepted.astype(float), same, groups


def slow_gini(rates):
    """Returns the Gini coefficient as written by Howard et al., 2022."""
    n, mean = len(rates), sum(rates) / len(rates)
    return n / (n - 1) * sum(abs(x - y) for x in rates for y in rates) / (2 * n**2 * mean)


def slow_rates(scores, same, groups, threshold):
    """Returns `{group: (fmr, fnmr)}`, counted pair by pair."""
    counts = {}
    for score, is_same, group in zip(scores, same, groups, strict=True):
        of_group = counts.setdefault(group, {True: [0, 0], False: [0, 0]})[bool(is_same)]
        of_group[0] += (score >= threshold) != is_same
        of_group[1] += 1
    return {group: tuple(np.divide(*of_kind[kind]) for kind in (False, True)) for group, of_kind in counts.items()}


def clopper_pearson(errors, pairs, level):
    tail = (1 - level) / 2
    low = beta.ppf(tail, errors, pairs - errors + 1) if errors else 0.0
    return low, beta.ppf(1 - tail, errors + 1, pairs - errors) if errors < pairs else 1.0


def test_rates_equal_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    same, groups = rng.random(3000) < 0.4, rng.choice(["x", "y", "a b"], 3000)
    scores = np.round(rng.normal(np.where(same, 0.4, 0.1) + 0.05 * (groups == "x"), 0.1), 2)  # with ties
    result = by_group(scores, same, groups, far=0.1, level=0.9)
    assert result.threshold == Roc.from_pairs(scores, same).at_far(0.1).threshold
    expected = slow_rates(scores, same, groups, result.threshold)
    assert list(result.groups) == sorted(expected)
    for group, rates in result.groups.items():
        assert (rates.fmr, rates.fnmr) == expected[group]
        assert (rates.far, rates.tar) == (rates.fmr, 1 - rates.fnmr)
        np.testing.assert_allclose(
            rates.fmr_interval, clopper_pearson(rates.false_matches, rates.impostors, 0.9), atol=1e-9
        )
        np.testing.assert_allclose(
            rates.fnmr_interval, clopper_pearson(rates.false_non_matches, rates.genuine, 0.9), atol=1e-9
        )
    assert result.overall.genuine == np.sum(same) == sum(rates.genuine for rates in result.groups.values())
    assert result.overall.fmr <= 0.1
    for kind, difference in enumerate((result.fmr_difference, result.fnmr_difference)):
        values = {group: rates[kind] for group, rates in expected.items()}
        assert difference.highest == max(values, key=values.get)
        assert difference.lowest == min(values, key=values.get)
        assert difference.ratio == max(values.values()) / min(values.values())
        assert difference.gini == pytest.approx(slow_gini(list(values.values())))
    ginis = [slow_gini([rates[kind] for rates in expected.values()]) for kind in (0, 1)]
    found = by_group(scores, same, groups, threshold=result.threshold, alpha=0.3)
    assert found.garbe == pytest.approx(0.3 * ginis[0] + 0.7 * ginis[1])
    assert found.groups["x"].fmr == result.groups["x"].fmr


def test_gini_coefficient_and_ratio_of_known_rates():
    rates = np.array([[0.1, 0.1, 0.1], [0.0, 0.0, 0.3], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(gini_coefficient(rates), [0, 1, 1 / 3, np.nan], atol=1e-12)
    np.testing.assert_allclose(worst_ratio(rates), [1, np.inf, 3, np.nan])


def test_p_value_is_that_of_permuted_labels():
    """The plain permutation test permutes the groups of the pairs."""
    scores, same, groups = make_pairs([[8, 12, 22], [20, 30, 25]], [[300, 400, 500], [200, 300, 250]])
    result = by_group(scores, same, groups, threshold=0.5, samples=4000)
    rng = np.random.default_rng(1)
    for kind, difference in ((False, result.fmr_difference), (True, result.fnmr_difference)):
        wrong, labels = (scores[same == kind] >= 0.5) != kind, groups[same == kind]
        statistics, ginis = [], []
        for number in range(2000):
            permuted = labels if number == 0 else rng.permutation(labels)
            counts = [(np.sum(wrong[permuted == g]), np.sum(permuted == g)) for g in np.unique(groups)]
            statistics.append(sum((k - n * wrong.mean()) ** 2 / (n * wrong.mean()) for k, n in counts))
            ginis.append(slow_gini([k / n for k, n in counts]))
        expected = np.mean(np.array(statistics) >= statistics[0] - 1e-9)
        assert difference.p_value == pytest.approx(expected, abs=0.03)
        assert difference.gini_by_chance == pytest.approx(np.mean(ginis[1:]), rel=0.05)
    assert result.garbe_by_chance == pytest.approx(
        (result.fmr_difference.gini_by_chance + result.fnmr_difference.gini_by_chance) / 2
    )


def sets(fmrs, fnmrs, pairs, number):
    """Yields results for sets with known rates."""
    for seed in range(number):
        rng = np.random.default_rng(seed)
        errors = [rng.binomial(pairs, fmrs), rng.binomial(pairs, fnmrs)]
        yield by_group(*make_pairs(errors, [[pairs] * len(fmrs)] * 2), threshold=0.5, samples=300, seed=seed)


def contains(interval, value):
    return interval[0] - 1e-12 <= value <= interval[1] + 1e-12


def test_a_known_difference_is_found():
    fmrs, fnmrs = [0.02, 0.03, 0.08], [0.1, 0.1, 0.2]
    found = list(sets(fmrs, fnmrs, 1000, 40))
    assert all(result.fmr_difference.p_value < 0.05 and result.fmr_difference.highest == "group 2" for result in found)
    inside = {
        "FMR ratio": [contains(r.fmr_difference.ratio_interval, 4) for r in found],
        "FNMR ratio": [contains(r.fnmr_difference.ratio_interval, 2) for r in found],
        "FMR Gini": [contains(r.fmr_difference.gini_interval, slow_gini(fmrs)) for r in found],
        "GARBE": [contains(r.garbe_interval, (slow_gini(fmrs) + slow_gini(fnmrs)) / 2) for r in found],
    }
    for name, values in inside.items():
        print(f"{name}: {np.mean(values):.0%} of the intervals contain the true value")
        assert np.mean(values) >= 0.85
    # An interval that says nothing would contain everything.
    assert np.median([r.fmr_difference.ratio_interval[0] for r in found]) > 1.8
    assert np.median([r.fmr_difference.ratio_interval[1] for r in found]) < 8
    assert np.median([r.garbe_interval[0] for r in found]) > 0.1


def test_no_difference_is_reported_where_there_is_none():
    found = list(sets([0.02] * 4, [0.1] * 4, 1000, 60))
    for differences in ([r.fmr_difference for r in found], [r.fnmr_difference for r in found]):
        assert np.mean([d.p_value < 0.05 for d in differences]) <= 0.15
        assert np.mean([contains(d.ratio_interval, 1) and contains(d.gini_interval, 0) for d in differences]) >= 0.85
        # The Gini coefficient of the sample is that by chance, not 0.
        assert np.mean([d.gini for d in differences]) == pytest.approx(
            np.mean([d.gini_by_chance for d in differences]), rel=0.15
        )
        assert min(d.ratio for d in differences) > 1
    assert np.mean([contains(r.garbe_interval, 0) for r in found]) >= 0.85


def test_an_interval_contains_no_difference_if_the_test_does_not_reject_it():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        errors = rng.binomial(500, [[0.1, 0.12, 0.15], [0.1, 0.12, 0.15]])
        result = by_group(*make_pairs(errors, [[500] * 3] * 2), threshold=0.5, samples=200, seed=seed)
        for difference in (result.fmr_difference, result.fnmr_difference):
            for interval, value, equal in (
                (difference.ratio_interval, difference.ratio, 1),
                (difference.gini_interval, difference.gini, 0),
            ):
                assert equal <= interval[0] <= value <= interval[1]
                assert interval[0] == equal or difference.p_value < 0.05


def test_a_group_without_errors():
    scores, same, groups = make_pairs([[0, 30], [20, 30]], [[1000, 1000], [500, 500]])
    difference = by_group(scores, same, groups, threshold=0.5).fmr_difference
    assert difference.ratio == math.inf
    assert difference.ratio_interval[1] == math.inf
    assert (
        3 < difference.ratio_interval[0] < 30
    )  # the FMR of the first group is at most 0.0037, of the other about 0.03
    assert difference.gini == 1
    assert difference.p_value < 0.01
    assert to_json(difference)["ratio"] is None


def test_no_errors_at_all():
    with pytest.warns(UserWarning, match=r"too few impostor pairs to compare the FMR. At the overall FMR of 0, fewer"):
        result = by_group(*make_pairs([[0, 0], [20, 30]], [[100, 100], [200, 200]]), threshold=0.5)
    difference = result.fmr_difference
    assert np.isnan([difference.ratio, difference.gini, difference.gini_by_chance, result.garbe]).all()
    assert difference.p_value == 1
    assert difference.ratio_interval == (1, math.inf)
    assert contains(difference.gini_interval, 0)
    assert group_difference_table({"": result}).rows[0][4:] == ["-", "-", "-", "1.000"]


def test_small_groups_are_named():
    errors, pairs = [[10, 10, 1], [50, 50, 5]], [[1000, 1000, 900], [500, 500, 60]]
    warning = (
        r"group 2: too few impostor pairs to compare the FMR. At the overall FMR of 0.00724, fewer than 10 errors of a "
        "group are expected"
    )
    with pytest.warns(UserWarning, match="too few") as caught:
        result = by_group(*make_pairs(errors, pairs), threshold=0.5)
    assert result.too_small == {"fmr": ["group 0", "group 1", "group 2"], "fnmr": ["group 2"]}
    assert [str(w.message).replace("group 0, group 1, ", "") for w in caught] == [
        warning,
        warning.replace("impostor", "genuine").replace("FMR", "FNMR").replace("0.00724", "0.0991"),
    ]
    assert caught[0].filename == __file__
    # Few errors of a large group are information, not a lack of it.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = by_group(*make_pairs([[40, 1], [50, 50]], [[1000, 1000], [500, 500]]), threshold=0.5)
    assert result.too_small == {"fmr": [], "fnmr": []}


def test_the_order_of_pairs_and_the_type_of_labels_do_not_matter():
    scores, same, groups = make_pairs([[12, 30], [40, 30]], [[500, 600], [300, 300]])
    order = np.random.default_rng(3).permutation(len(scores))
    result = by_group(scores, same, groups, threshold=0.5)
    assert by_group(scores[order], same[order], groups[order], threshold=0.5) == result
    numbered = by_group(scores.tolist(), same.tolist(), [int(group[-1]) for group in groups], threshold=0.5)
    assert list(numbered.groups) == ["0", "1"]
    assert numbered.fmr_difference.p_value == result.fmr_difference.p_value
    assert by_group(scores, same, groups.astype(object), threshold=0.5) == result
    assert by_group(scores, same, groups, threshold=0.5, seed=1) != result


def test_table_and_json():
    result = by_group(*make_pairs([[12, 30], [40, 30]], [[500, 600], [300, 300]]), threshold=0.5)
    table = results_table({"ours": result})
    assert list(table.columns) == ["", "group", "TAR", "FNMR", "false non-matches", "FMR", "false matches"]
    assert table.rows[0][:5] == ["ours", "group 0", "86.67%", "13.3% [9.7%, 17.7%]", "40 of 300"]
    assert [row[1] for row in table.rows] == ["group 0", "group 1", "all"]
    assert table.rows[2][6] == "42 of 1,100"
    found = to_json(result)
    assert found["groups"]["group 1"]["fmr"] == 0.05
    assert found["overall"]["genuine"] == 600
    assert found["fmr_difference"]["p_value"] == result.fmr_difference.p_value
    rows = group_difference_table({"ours": result}).rows
    assert [row[:4] for row in rows] == [
        ["ours", "FMR", "group 1", "group 0"],
        ["ours", "FNMR", "group 0", "group 1"],
        ["ours", "GARBE, alpha 0.5", "-", "-"],
    ]
    assert rows[0][4].startswith("2.08 [")


SAME, GROUPS = [True, False, True, False], ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": [[0.1, 0.2]]}, r"scores must have the shape \(n,\), one for each pair. Received: shape \(1, 2\)"),
        ({"scores": [1, 0, np.nan, 0]}, r"scores must be finite. Received: scores\[2\] is not finite"),
        ({"same": [True, False]}, r"same must be bool of shape \(4,\)"),
        (
            {"groups": ["a", "a", "b"]},
            r"groups must be .* of shape \(4,\), one for each pair. Received: shape \(3,\), <U1",
        ),
        ({"groups": [["a", "b"]] * 4}, r"groups must be .* Received: shape \(4, 2\)"),
        ({"groups": [0.5, 0.5, 1.0, 1.0]}, r"groups must be strings or integers .* Received: shape \(4,\), float64"),
        ({"groups": ["a", "a", None, None]}, r"groups must be strings or integers .* Received: shape \(4,\), object"),
        ({"groups": ["a"] * 4}, "groups must contain at least two groups. Received: only 'a'"),
        (
            {"groups": ["a", "a", "b", "c"]},
            "must have both genuine and impostor pairs. Received: 1 genuine and 0 impostor",
        ),
        ({"far": 0.5}, "Expected either threshold or far, the other None. Received: threshold=0.5, far=0.5"),
        ({"threshold": None}, "Expected either threshold or far, the other None. Received: threshold=None, far=None"),
        ({"threshold": None, "far": 0.01}, "requires at least 100 impostor pairs. Received: 2 impostor pairs"),
        ({"threshold": np.inf}, "threshold must be a finite number. Received: threshold=inf"),
        (
            {"people": [0, 1, 2, 3]},
            r"people must be .* of shape \(4, 2\), two for each pair. Received: shape \(4,\), int64",
        ),
        ({"people": [[0, 0.5]] * 4}, r"people must be strings or integers .* Received: shape \(4, 2\), float64"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\]. Received: alpha=1.1"),
        ({"samples": 0}, "samples must be an integer of at least 1. Received: samples=0"),
        ({"level": 1}, r"level must be in \(0, 1\). Received: level=1"),
    ],
)
def test_invalid_arguments_are_named(changed, message):
    arguments = {"scores": [0.9, 0.1, 0.8, 0.2], "same": SAME, "groups": GROUPS, "threshold": 0.5, **changed}
    with pytest.raises(ValueError, match=message):
        by_group(**arguments)


def slow_design_effect(errors, groups, people):
    """Returns the design effect of pairs, by leaving out one person after the other."""
    variance = independent = 0
    for group in sorted(set(groups)):
        rows = [row for row in range(len(errors)) if groups[row] == group]
        rate = sum(errors[row] for row in rows) / len(rows)
        without = []
        for person in {person for row in rows for person in people[row]}:
            kept = [errors[row] for row in rows if person not in people[row]]
            without.append(sum(kept) / len(kept))
        of_two = {}
        for row in rows:
            if people[row][0] != people[row][1]:
                two = frozenset(people[row])
                of_two[two] = of_two.get(two, 0) + errors[row] - rate
        count = len(without)
        variance += (count - 1) / count * sum((value - rate) ** 2 for value in without)
        variance -= sum(value**2 for value in of_two.values()) / len(rows) ** 2
        independent += rate * (1 - rate) / len(rows)
    return max(1, variance / independent)


def make_people(seed, num_people=120, dim=12):
    """Returns scores, same, groups and people of two pairs of any two people, and four genuine pairs of each person.

    Groups are random. Some people are easier to confuse, or harder to recognize, than others.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_people, dim)) + 0.4 * rng.normal(size=dim)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(num_people, 1)
    within = first % 4 == second % 4
    one, other = first[within], second[within]
    first, second = np.concatenate([one, other]), np.concatenate([other, one])
    impostor = np.einsum("nd,nd->n", vectors[first], vectors[second]) + 0.05 * rng.normal(size=len(first))
    genuine = 0.8 + np.repeat(0.3 * rng.normal(size=num_people), 4) + 0.1 * rng.normal(size=4 * num_people)
    people = np.concatenate([np.stack([first, second], 1), np.repeat(np.arange(num_people), 8).reshape(-1, 2)])
    same = np.arange(len(people)) >= len(first)
    return np.concatenate([impostor, genuine]), same, people[:, 0] % 4, people


@pytest.mark.filterwarnings("ignore:.*too few")
def test_design_effect_equals_a_plain_jackknife():
    scores, same, groups, people = make_people(0)
    result = by_group(scores, same, groups, far=0.1, people=people)
    wrong = (scores >= result.threshold) != same
    for rate, kind in (("fmr", ~same), ("fnmr", same)):
        expected = slow_design_effect(wrong[kind].tolist(), groups[kind].tolist(), people[kind].tolist())
        assert result.design_effects[rate] == pytest.approx(expected)
        assert expected > 1.5
    # Four pairs of the same person with nearly the same scores say little more than one.
    assert 2 < result.design_effects["fnmr"] < 4.5
    named = by_group(scores, same, groups, far=0.1, people=np.array([f"person {n}" for n in range(120)])[people])
    assert named.design_effects == pytest.approx(result.design_effects)
    without = by_group(scores, same, groups, far=0.1)
    assert without.design_effects == {"fmr": 1, "fnmr": 1}
    assert [rates.fmr for rates in without.groups.values()] == [rates.fmr for rates in result.groups.values()]
    for group, rates in result.groups.items():
        effect = result.design_effects["fmr"]
        errors, pairs = round(rates.false_matches / effect), round(rates.impostors / effect)
        np.testing.assert_allclose(rates.fmr_interval, clopper_pearson(errors, pairs, 0.95), atol=1e-9)
        assert rates.fmr_interval[1] > without.groups[group].fmr_interval[1]


@pytest.mark.filterwarnings("ignore:.*too few")
def test_people_who_differ_by_chance_make_no_difference_between_groups():
    below = {"with people": [], "without": []}
    for seed in range(40):
        scores, same, groups, people = make_people(seed)
        for name, given in (("with people", people), ("without", None)):
            result = by_group(scores, same, groups, far=0.1, people=given, samples=200)
            below[name] += [result.fmr_difference.p_value < 0.05, result.fnmr_difference.p_value < 0.05]
    print({name: f"{np.mean(values):.0%} of the p-values are below 0.05" for name, values in below.items()})
    assert np.mean(below["with people"]) <= 0.12
    assert np.mean(below["without"]) >= 0.2
