"""The curve and its figures, compared with scikit-learn and with loops over all thresholds."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation import roc as roc_module
from keras_arcface.evaluation.far_interval import far_interval
from keras_arcface.evaluation.roc import max_accepted

# Few distinct values, so that ties are frequent.
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=40)
FARS = st.floats(1e-3, 1)


def make_scores(ties, seed=0, genuine=600, impostor=900):
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(1.2, 1, genuine), generator.normal(0, 1, impostor)])
    same = np.arange(genuine + impostor) < genuine
    return (np.round(scores, 1) if ties else scores), same


@pytest.mark.parametrize("ties", [False, True])
def test_curve_matches_scikit_learn(ties):
    scores, same = make_scores(ties)
    roc = Roc.from_pairs(scores, same)
    far, tar, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
    largest = max(abs(roc.auc - metrics.roc_auc_score(same, scores)), 0)
    print(f"AUC differs from scikit-learn's by {largest:.1e}, ties: {ties}")
    assert largest < 1e-15
    # Each corner is one of scikit-learn's points with its threshold.
    points = {(f, t): threshold for f, t, threshold in zip(far, tar, thresholds, strict=True)}
    for corner in zip(roc.far, roc.tar, roc.thresholds, strict=True):
        assert points[corner[:2]] == corner[2] or corner[:2] == (0, 0)
    # The points that remain when scikit-learn drops those on straight lines are on the curve.
    kept = set(zip(*metrics.roc_curve(same, scores)[:2], strict=True))
    corners = set(zip(roc.far, roc.tar, strict=True))
    if ties:  # scikit-learn keeps points on straight lines if the steps differ
        for f, t in kept - corners:
            assert any(far_ < f and tar_ == t for far_, tar_ in corners)
            assert any(far_ > f and tar_ == t for far_, tar_ in corners)
    else:
        assert kept <= corners


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("far", [1.0, 0.5, 0.1, 0.01, 1 / 900])
def test_tar_is_the_largest_within_the_far(far, ties):
    scores, same = make_scores(ties)
    fars, tars, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    assert Roc.from_pairs(scores, same).tar_at(far) == tars[fars <= far].max()


@settings(max_examples=100, deadline=None)
@given(SCORES, SCORES, FARS)
def test_operating_point_is_the_lowest_threshold_within_the_far(genuine, impostor, far):
    roc = Roc(genuine, impostor)
    if np.isnan(roc.tar_at(far)):
        return
    point = roc.at_far(far)
    accepted = roc.impostor >= point.threshold
    assert (point.far, point.tar) == (np.mean(accepted), np.mean(roc.genuine >= point.threshold))
    assert point.far <= far
    assert point.tar == roc.tar_at(far)
    assert (point.impostors_accepted, point.impostors) == (np.sum(accepted), len(impostor))
    assert point.squared_distance == 2 - 2 * point.threshold
    # The next lower score would accept too many impostors, if it exists.
    scores = np.concatenate([genuine, impostor])
    lower = scores[scores < point.threshold]
    assert not len(lower) or np.mean(roc.impostor >= lower.max()) > far


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES, FARS, FARS)
def test_rates_and_thresholds_are_monotone(genuine, impostor, first, second):
    roc, far = Roc(genuine, impostor), sorted((first, second))
    assert (np.diff(roc.far) >= 0).all()
    assert (np.diff(roc.tar) >= 0).all()
    assert (np.diff(roc.thresholds) < 0).all()
    if not np.isnan(roc.tar_at(far[0])):
        low, high = map(roc.at_far, far)
        assert low.threshold >= high.threshold
        assert low.tar <= high.tar


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES)
def test_exchanged_kinds_have_the_complementary_auc(genuine, impostor):
    assert Roc(genuine, impostor).auc + Roc(impostor, genuine).auc == pytest.approx(1, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4))
def test_pooled_curve_is_the_curve_of_all_scores(sets):
    pooled = Roc.from_rocs(Roc(*scores) for scores in sets)
    expected = Roc(*(np.concatenate(parts) for parts in zip(*sets, strict=True)))
    np.testing.assert_array_equal(pooled.thresholds, expected.thresholds)
    np.testing.assert_array_equal((pooled.far, pooled.tar), (expected.far, expected.tar))


def test_pooling_no_curves():
    with pytest.raises(ValueError, match=r"at least one curve. Received: rocs=\[\]"):
        Roc.from_rocs([])


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("impostors", [1, 2, 10, 450, 3000, 100_000, 15_000_000])
def test_far_interval_is_clopper_pearson(impostors, level):
    shares = {0, 1, 2, 5, 10, impostors // 100, impostors // 2, impostors - 1, impostors}
    for accepted in sorted(count for count in shares if count <= impostors):
        expected = stats.binomtest(accepted, impostors).proportion_ci(level, method="exact")
        received = far_interval(accepted, impostors, level=level)
        np.testing.assert_allclose(received, (expected.low, expected.high), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("far", "impostors"), [(0.01, 500), (0.01, 3000), (0.1, 60)])
def test_far_interval_contains_the_true_far(far, impostors, monkeypatch):
    """For uniform scores, the true FAR of a threshold is known."""
    # All sets accept the same number of pairs, so they have the same interval.
    monkeypatch.setattr(roc_module, "far_interval", functools.cache(far_interval))
    generator = np.random.default_rng(0)
    points = [Roc([2.0], generator.uniform(size=impostors)).at_far(far) for _ in range(2000)]
    true = np.array([1 - min(point.threshold, 1) for point in points])
    low, high = np.transpose([point.far_interval for point in points])
    coverage = np.mean((low <= true) & (true <= high))
    print(f"FAR {far:g}, {impostors} impostor pairs: 95% intervals contain the true FAR in {coverage:.1%} of 2000 sets")
    assert 0.945 <= coverage <= 0.99


def test_ties_widen_the_far_interval():
    point = Roc([0.9], [0.5] * 10 + [0.8]).at_far(0.3)
    assert (point.impostors_accepted, point.impostors) == (1, 11)
    assert point.far_interval == (far_interval(1, 11)[0], far_interval(3, 11)[1])


def test_threshold_between_neighboring_floats():
    high = 0.7
    low = np.nextafter(high, 0)
    point = Roc([high], [low] * 10).at_far(0.5)
    assert point.threshold == high  # the mean of neighboring floats is rounded to one of them
    assert (point.far, point.tar) == (0.0, 1.0)


def test_unmeasurable_far():
    roc = Roc.from_pairs(*make_scores(False))
    assert np.isnan(roc.tar_at(1e-3))
    assert np.isnan(roc.tar_at_nearest_far(1e-3))
    with pytest.raises(
        ValueError, match=r"FAR 0.001 requires at least 1,000 impostor pairs. Received: 900 impostor pairs"
    ):
        roc.at_far(1e-3)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]. Received: far=0"):
        roc.at_far(0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 20_000_000), st.integers(1, 20_000_000))
def test_rounding_loses_no_impostor(accepted, impostors):
    """For example, 0.29 * 100 is 28.999999999999996."""
    accepted = min(accepted, impostors)
    assert max_accepted(accepted / impostors, impostors) == accepted
    assert max_accepted(np.nextafter(accepted / impostors, 0), impostors) == max(accepted - 1, 0)


@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_is_interpolated(ties):
    scores, same = make_scores(ties)
    far, tar, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    excess = far - (1 - tar)
    index = np.flatnonzero(excess >= 0)[0]
    a, b = -excess[index - 1], excess[index]
    expected = (far[index - 1] * b + far[index] * a) / (a + b)
    assert Roc.from_pairs(scores, same).eer == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("far", [1 / 900, 0.0125, 0.1, 0.3])
@pytest.mark.parametrize("decimals", [0, 1, 2, 9])
@pytest.mark.parametrize("seed", range(3))
def test_tar_at_nearest_far_matches_published_procedure(far, decimals, seed):
    """For IJB: the first point with the nearest FAR on scikit-learn's curve in reverse order."""
    scores, same = make_scores(False, seed)
    scores = np.round(scores, decimals)
    fars, tars, _ = metrics.roc_curve(same, scores)
    fars, tars = np.flipud(fars), np.flipud(tars)
    nearest = min(zip(abs(fars - far), range(len(fars)), strict=True))[1]
    assert Roc.from_pairs(scores, same).tar_at_nearest_far(far) == tars[nearest]


def test_perfect_inverted_and_constant_scores():
    perfect, inverted = Roc([0.9, 0.8], [0.2, 0.1, 0.0]), Roc([0.1, 0.2], [0.7, 0.8, 0.9])
    constant = Roc([0.5] * 4, [0.5] * 8)
    assert (perfect.auc, perfect.eer, perfect.tar_at(0.5)) == (1.0, 0.0, 1.0)
    assert (inverted.auc, inverted.eer, inverted.tar_at(0.5)) == (0.0, 1.0, 0.0)
    assert (constant.auc, constant.eer, constant.tar_at(0.5)) == (0.5, 0.5, 0.0)
    point = constant.at_far(0.5)  # accepts all pairs or none
    assert (point.far, point.tar, point.impostors_accepted) == (0.0, 0.0, 0)
    assert point.threshold > 0.5


@pytest.mark.parametrize(
    ("genuine", "impostor", "message"),
    [
        ([], [0.1], r"genuine must be scores of shape \(n,\), n at least 1. Received: genuine scores of shape \(0,\)"),
        ([0.1], [], r"impostor scores of shape \(0,\)"),
        ([0.1, np.nan], [0.2], "1 of 2 genuine scores that are not finite"),
        ([0.1], [-np.inf, 0.2, np.inf], "2 of 3 impostor scores that are not finite"),
        ([[0.1]], [0.2], r"genuine scores of shape \(1, 1\)"),
    ],
)
def test_invalid_scores(genuine, impostor, message):
    with pytest.raises(ValueError, match=message):
        Roc(genuine, impostor)
