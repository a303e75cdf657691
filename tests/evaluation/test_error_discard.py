"""Error versus discard, compared with a slow program from the definition."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation import error_versus_discard
from keras_arcface.evaluation import plot_error_versus_discard
from keras_arcface.evaluation import results_table
from keras_arcface.evaluation import to_json

SHARES = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 0.9]
# Rows of (score, qualities of both images). Few values, so that there are ties.
GENUINE = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25)


def problem(n=600, levels=40):
    """Returns scores, same and image qualities, where low qualities cause low scores, with ties between qualities."""
    rng = np.random.default_rng(0)
    same = rng.random(n) < 0.5
    qualities = rng.integers(0, levels, 2 * n) / levels
    scores = same + 0.8 * qualities.reshape(n, 2).min(axis=1) + rng.normal(0, 0.3, n)
    return scores, same, qualities


def by_definition(scores, same, qualities, far, max_discard):
    """Discards one quality at a time; the areas are sums over a grid that contains all steps."""
    impostors = sorted((score for score, is_same in zip(scores, same, strict=True) if not is_same), reverse=True)
    accepted = int(far * len(impostors) + 1e-9)
    rejected_impostor = impostors[accepted] if accepted < len(impostors) else -np.inf
    pairs = [
        (min(qualities[2 * i], qualities[2 * i + 1]), scores[i] <= rejected_impostor)
        for i in range(len(scores))
        if same[i]
    ]

    def rate(limit):
        kept = [is_error for quality, is_error in pairs if quality >= limit]
        return sum(kept) / len(kept)

    def share(limit):
        return sum(quality < limit for quality, _ in pairs) / len(pairs)

    def rate_at(discarded):
        return rate(max(limit for limit, _ in pairs if share(limit) <= discarded + 1e-12))

    def best_rate_at(discarded):
        first = int(discarded * len(pairs) + 1e-9)
        remaining = sorted((is_error for _, is_error in pairs), reverse=True)[first:]
        return sum(remaining) / len(remaining)

    def mean(function):
        steps = [k / len(pairs) for k in range(len(pairs)) if k / len(pairs) < max_discard]
        widths = np.diff([*steps, max_discard])
        return sum(function(step) * width for step, width in zip(steps, widths, strict=True)) / max_discard

    return {
        "fnmr": {discarded: rate_at(discarded) for discarded in SHARES},
        "pauc": mean(rate_at),
        "best_pauc": mean(best_rate_at),
        "limits": [(limit, share(limit), rate(limit)) for limit in sorted({quality for quality, _ in pairs})],
        "false_non_matches": sum(is_error for _, is_error in pairs),
    }


def assert_matches_definition(scores, same, qualities, far, max_discard):
    result = error_versus_discard(scores, same, qualities, far, max_discard)
    expected = by_definition(scores, same, qualities, far, max_discard)
    assert {share: result.fnmr_at(share) for share in SHARES} == pytest.approx(expected["fnmr"], abs=1e-12)
    assert result.pauc == pytest.approx(expected["pauc"], abs=1e-12)
    assert result.best_pauc == pytest.approx(expected["best_pauc"], abs=1e-12)
    assert result.false_non_matches == expected["false_non_matches"]
    curve = np.column_stack([result.min_quality, result.discarded, result.fnmr])
    np.testing.assert_allclose(curve, expected["limits"], atol=1e-12)
    assert (result.genuine, result.far, result.max_discard) == (sum(same), far, max_discard)
    return result


@pytest.mark.parametrize("levels", [3, 40, 10**6])
@pytest.mark.parametrize("max_discard", [0.2, 0.3, 0.95])
def test_matches_definition(levels, max_discard):
    result = assert_matches_definition(*problem(levels=levels), far=0.01, max_discard=max_discard)
    assert result.false_non_matches > 20


@given(GENUINE, st.sampled_from([0.1, 0.2, 0.3, 0.7]))
def test_matches_definition_for_few_pairs_with_ties(genuine, max_discard):
    impostors = [(0, 2, 2), (1, 0, 4), (2, 1, 1)]
    scores, *sides = zip(*genuine, *impostors, strict=True)
    same = [True] * len(genuine) + [False] * len(impostors)
    assert_matches_definition(scores, same, np.ravel(sides, order="F"), 1 / 3, max_discard)


@given(st.randoms(use_true_random=False))
def test_the_order_of_pairs_and_of_their_images_has_no_effect(random):
    scores, same, qualities = problem(60, levels=5)
    result = error_versus_discard(scores, same, qualities, far=0.1)
    order = random.sample(range(60), 60)
    sides = np.array([random.sample(range(2), 2) for _ in range(60)])
    shuffled = np.take_along_axis(qualities.reshape(60, 2)[order], sides, axis=1)
    other = error_versus_discard(scores[order], same[order], shuffled.ravel(), far=0.1)
    for field in dataclasses.fields(result):
        np.testing.assert_array_equal(getattr(other, field.name), getattr(result, field.name))


def test_the_threshold_is_that_of_all_pairs():
    scores, same, qualities = problem()
    result = error_versus_discard(scores, same, qualities, far=0.02)
    point = Roc.from_pairs(scores, same).at_far(0.02)
    assert result.threshold == point.threshold
    assert result.fnmr_at(0) == pytest.approx(1 - point.tar)
    # Impostor pairs are not discarded: their qualities have no effect.
    changed = qualities.reshape(-1, 2).copy()
    changed[~same] = -5
    assert error_versus_discard(scores, same, changed.ravel(), far=0.02).pauc == result.pauc


def test_extreme_qualities():
    scores, same, _ = problem()
    point = Roc.from_pairs(scores, same).at_far(0.02)
    errors = same & (scores < point.threshold)
    perfect = error_versus_discard(scores, same, np.repeat(scores, 2), far=0.02)
    assert perfect.pauc == pytest.approx(perfect.best_pauc, abs=1e-12)
    assert perfect.relative_pauc == pytest.approx(0, abs=1e-9)
    discarded, fnmr = perfect.best()
    assert (len(discarded), discarded[0], fnmr[-1]) == (errors.sum() + 1, 0, 0)
    np.testing.assert_allclose([perfect.fnmr_at(share) for share in discarded], fnmr, atol=1e-12)
    constant = error_versus_discard(scores, same, np.ones(2 * len(scores)), far=0.02)
    assert len(constant.fnmr) == 1
    assert constant.pauc == pytest.approx(constant.fnmr_at(0.9))
    assert constant.relative_pauc == pytest.approx(1)
    worst = error_versus_discard(scores, same, -np.repeat(scores, 2), far=0.02)
    assert worst.relative_pauc > 1


def test_images_in_several_pairs_and_images_without_quality():
    qualities = np.array([3.0, -np.inf, 1.0, 2.0])
    pairs = [[0, 3], [3, 2], [0, 1], [1, 2], [0, 2]]
    scores, same = [0.9, 0.1, 0.2, 0.5, 0.4], [True, True, True, False, False]
    result = error_versus_discard(scores, same, qualities, far=0.5, pairs=pairs)
    assert result.min_quality.tolist() == [-np.inf, 1.0, 2.0]
    np.testing.assert_allclose(result.fnmr, [2 / 3, 1 / 2, 0])
    flat = error_versus_discard(scores, same, qualities[np.ravel(pairs)], far=0.5)
    np.testing.assert_array_equal(flat.fnmr, result.fnmr)


def test_no_or_only_false_non_matches():
    for genuine, rate in ((1.0, 0.0), (-1.0, 1.0)):
        result = error_versus_discard([genuine] * 4 + [0.0, 0.1], [True] * 4 + [False] * 2, np.arange(12), far=0.5)
        assert (result.pauc, result.best_pauc) == (rate, rate)
        assert np.isnan(result.relative_pauc)
        assert "relative_pauc=nan" in repr(result)
        assert to_json(result)["relative_pauc"] is None
        assert results_table(result).rows[0][-1] == "-"


def test_interval_resamples_pairs():
    scores, same, qualities = problem(400, levels=4)
    result = error_versus_discard(scores, same, qualities, far=0.01)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(same)
    paucs = []
    for _ in range(500):
        chosen = np.concatenate([rng.choice(rows, len(rows)), np.flatnonzero(~same)])
        paired = qualities.reshape(-1, 2)[chosen].ravel()
        paucs.append(error_versus_discard(scores[chosen], same[chosen], paired, far=0.01).pauc)
    np.testing.assert_allclose(result.interval(2000), np.quantile(paucs, [0.025, 0.975]), rtol=0.05)


def test_table_json_and_plot(tmp_path):
    scores, same, qualities = problem()
    rng = np.random.default_rng(3)
    results = {
        "good": error_versus_discard(scores, same, qualities, far=0.02, max_discard=0.2),
        "$unrelated": error_versus_discard(scores, same, rng.random(len(qualities)), far=0.02, max_discard=0.2),
    }
    table = results_table(results)
    assert table.columns == ["", "genuine", "FNMR", "-5%", "-10%", "-20%", "pAUC 20%", "lowest", "relative"]
    good = results["good"]
    assert table.rows[0][2:4] == [f"{good.fnmr_at(0):.2%}", f"{good.fnmr_at(0.05):.2%}"]
    assert table.rows[0][-3:] == [f"{good.pauc:.2%}", f"{good.best_pauc:.2%}", f"{good.relative_pauc:.2f}"]
    figures = json.loads(json.dumps(to_json(results), allow_nan=False))["good"]
    assert figures["fnmr"] == {f"{share:g}": good.fnmr_at(share) for share in (0.0, 0.05, 0.1, 0.2)}
    assert (figures["genuine_pairs"], figures["false_non_matches"]) == (sum(same), good.false_non_matches)
    assert (figures["pauc"], figures["best_pauc"], figures["far"]) == (good.pauc, good.best_pauc, 0.02)
    picture = cv2.imread(str(plot_error_versus_discard(results, tmp_path / "quality.png")))
    assert picture.std() > 10
    other = error_versus_discard(scores, same, qualities, far=0.02, max_discard=0.3)
    with pytest.raises(ValueError, match=r"Received: max_discard=\[0\.2, 0\.3\]"):
        results_table({**results, "other": other})
    with pytest.raises(ValueError, match=r"Received: results=\{\}"):
        plot_error_versus_discard({}, tmp_path / "quality.png")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scores": np.ones((4, 1))}, r"scores must have the shape \(n,\)"),
        ({"scores": [0.1, np.nan, 0.2, 0.3]}, "finite"),
        ({"same": [True, True, False]}, "same must be bool"),
        ({"same": [True] * 4}, "both genuine and impostor"),
        ({"qualities": np.ones(7)}, r"shape \(8,\), two images per pair.*shape \(7,\)"),
        ({"qualities": np.ones((4, 2))}, r"Received: qualities of shape \(4, 2\)"),
        ({"qualities": [1, 2, np.nan, 3, 4, np.nan, 5, 6]}, "NaN for 2 of 8 images, the first is image 2"),
        ({"pairs": [[0, 8]] * 4}, r"pairs\[0\]=\[0, 8\]"),
        ({"pairs": [[0, 1]] * 3}, r"shape \(4, 2\), one row per score"),
        ({"far": 0.1}, "requires at least 10 impostor pairs"),
        ({"far": 0}, "far=0"),
        ({"max_discard": 1.0}, r"max_discard must be in \(0, 1\)"),
    ],
)
def test_invalid_arguments(changes, named):
    arguments = {"scores": [0.9, 0.8, 0.1, 0.2], "same": [True, True, False, False], "qualities": np.arange(8)}
    with pytest.raises(ValueError, match=named):
        error_versus_discard(**{**arguments, "far": 0.5, **changes})


def test_invalid_share():
    scores, same, qualities = problem(60)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\). Received: share=1"):
        error_versus_discard(scores, same, qualities, far=0.1).fnmr_at(1)
