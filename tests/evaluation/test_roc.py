"""The curve and its figures, against scikit-learn and against loops over all thresholds."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation.roc import allowed_at
from keras_arcface.evaluation.roc import far_interval


def make_scores(ties, seed=0, genuine=600, impostor=900):
    generator = np.random.default_rng(seed)
    scores = np.concatenate([generator.normal(1.2, 1, genuine), generator.normal(0, 1, impostor)])
    same = np.arange(genuine + impostor) < genuine
    return (np.round(scores, 1) if ties else scores), same


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_is_that_of_scikit_learn(ties):
    scores, same = make_scores(ties)
    roc = Roc.of_pairs(scores, same)
    far, tar, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
    largest = max(abs(roc.auc - metrics.roc_auc_score(same, scores)), 0)
    print(f"AUC differs from scikit-learn's by {largest:.1e}, ties: {ties}")
    assert largest < 1e-15
    # Each corner is one of scikit-learn's points, with its threshold ...
    points = {(f, t): threshold for f, t, threshold in zip(far, tar, thresholds, strict=True)}
    for corner in zip(roc.far, roc.tar, roc.thresholds, strict=True):
        assert points[corner[:2]] == corner[2] or corner[:2] == (0, 0)
    # ... and what scikit-learn keeps when it drops points on straight lines is on the curve.
    kept = set(zip(*metrics.roc_curve(same, scores)[:2], strict=True))
    corners = set(zip(roc.far, roc.tar, strict=True))
    if ties:  # it keeps points on straight lines where the steps along them differ
        for f, t in kept - corners:
            assert any(far_ < f and tar_ == t for far_, tar_ in corners)
            assert any(far_ > f and tar_ == t for far_, tar_ in corners)
    else:
        assert kept <= corners


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("far", [1.0, 0.5, 0.1, 0.01, 1 / 900])
def test_tar_is_the_largest_of_all_thresholds_within_the_far(far, ties):
    scores, same = make_scores(ties)
    fars, tars, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    assert Roc.of_pairs(scores, same).tar_at(far) == tars[fars <= far].max()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("far", [1.0, 0.5, 0.1, 0.01, 1 / 900])
def test_a_threshold_does_what_its_point_says(far, ties):
    scores, same = make_scores(ties)
    roc = Roc.of_pairs(scores, same)
    point = roc.at_far(far)
    accepted = scores >= point.threshold
    assert (point.far, point.tar) == (np.mean(accepted[~same]), np.mean(accepted[same]))
    assert point.far <= far
    assert point.tar == roc.tar_at(far)
    assert (point.impostors_accepted, point.impostors) == (np.sum(accepted[~same]), 900)
    assert point.squared_distance == 2 - 2 * point.threshold
    # The next lower score would let too many through, if there is one.
    lower = scores[scores < point.threshold]
    assert not len(lower) or np.mean(scores[~same] >= lower.max()) > far


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("impostors", [1, 2, 10, 450, 3000, 100_000, 15_000_000])
def test_the_interval_of_a_far_is_that_of_clopper_and_pearson(impostors, level):
    shares = {0, 1, 2, 5, 10, impostors // 100, impostors // 2, impostors - 1, impostors}
    for accepted in sorted(count for count in shares if count <= impostors):
        expected = stats.binomtest(accepted, impostors).proportion_ci(level, method="exact")
        received = far_interval(accepted, impostors, level=level)
        np.testing.assert_allclose(received, (expected.low, expected.high), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("far", "impostors"), [(0.01, 500), (0.01, 3000), (0.1, 60)])
def test_the_interval_holds_the_true_far_of_a_threshold_chosen_by_the_same_pairs(far, impostors):
    """Uniform scores, whose FAR at a threshold is known; 2000 sets of impostor pairs."""
    generator = np.random.default_rng(0)
    points = [Roc([2.0], generator.uniform(size=impostors)).at_far(far) for _ in range(2000)]
    true = np.array([1 - min(point.threshold, 1) for point in points])
    low, high = np.transpose([point.far_interval for point in points])
    held = np.mean((low <= true) & (true <= high))
    print(f"FAR {far:g}, {impostors} impostor pairs: the 95% interval holds the true FAR in {held:.1%} of 2000 sets")
    assert 0.945 <= held <= 0.99


def test_equal_scores_that_had_to_be_rejected_together_count_at_the_upper_end():
    point = Roc([0.9], [0.5] * 10 + [0.8]).at_far(0.3)
    assert (point.impostors_accepted, point.impostors) == (1, 11)
    assert point.far_interval == (far_interval(1, 11)[0], far_interval(3, 11)[1])


def test_curves_are_pooled():
    first, second = (make_scores(False, seed) for seed in (0, 1))
    pooled = Roc.pooled(Roc.of_pairs(*scores) for scores in (first, second))
    expected = Roc.of_pairs(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))
    np.testing.assert_array_equal(pooled.thresholds, expected.thresholds)
    np.testing.assert_array_equal((pooled.far, pooled.tar), (expected.far, expected.tar))
    assert pooled.at_far(1e-3).impostors == 1800  # which neither of them can show
    with pytest.raises(ValueError, match=r"at least one curve. Received: none"):
        Roc.pooled([])


def test_neighboring_scores_are_parted():
    high = 0.7
    low = np.nextafter(high, 0)
    point = Roc([high], [low] * 10).at_far(0.5)
    assert point.threshold == high  # what lies halfway is rounded to one of the two
    assert (point.far, point.tar) == (0.0, 1.0)


def test_a_far_that_the_impostors_cannot_show_is_refused():
    roc = Roc.of_pairs(*make_scores(False))
    assert np.isnan(roc.tar_at(1e-3))
    assert np.isnan(roc.nearest_tar(1e-3))
    with pytest.raises(ValueError, match=r"for a FAR of 0.001. Expected: at least 1,000 impostor pairs. Received: 900"):
        roc.at_far(1e-3)
    with pytest.raises(ValueError, match=r"lies in \(0, 1\]. Received: 0"):
        roc.at_far(0)


@pytest.mark.parametrize(("far", "impostors", "allowed"), [(1e-6, 10**6, 1), (1e-6, 10**6 - 1, 0), (0.1, 30, 3)])
@pytest.mark.parametrize("scale", [1, 7])
def test_rounding_loses_no_impostor(far, impostors, allowed, scale):
    assert allowed_at(far, impostors * scale) == (allowed * scale if allowed else int(far * impostors * scale))
    assert [allowed_at(k / 100, 100) for k in range(101)] == list(range(101))  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize("ties", [False, True])
def test_the_equal_error_rate_is_where_the_lines_cross(ties):
    scores, same = make_scores(ties)
    far, tar, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    excess = far - (1 - tar)
    index = np.flatnonzero(excess >= 0)[0]
    a, b = -excess[index - 1], excess[index]
    expected = (far[index - 1] * b + far[index] * a) / (a + b)
    assert Roc.of_pairs(scores, same).eer == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("far", [1 / 900, 0.0125, 0.1, 0.3])
@pytest.mark.parametrize("decimals", [0, 1, 2, 9])
@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_tar_is_that_of_the_published_procedure(far, decimals, seed):
    """For IJB: scikit-learn's curve, upside down, and the first point whose FAR is nearest."""
    scores, same = make_scores(False, seed)
    scores = np.round(scores, decimals)
    fars, tars, _ = metrics.roc_curve(same, scores)
    fars, tars = np.flipud(fars), np.flipud(tars)
    nearest = min(zip(abs(fars - far), range(len(fars)), strict=True))[1]
    assert Roc.of_pairs(scores, same).nearest_tar(far) == tars[nearest]


def test_perfect_inverted_and_blind():
    perfect, inverted = Roc([0.9, 0.8], [0.2, 0.1, 0.0]), Roc([0.1, 0.2], [0.7, 0.8, 0.9])
    blind = Roc([0.5] * 4, [0.5] * 8)
    assert (perfect.auc, perfect.eer, perfect.tar_at(0.5)) == (1.0, 0.0, 1.0)
    assert (inverted.auc, inverted.eer, inverted.tar_at(0.5)) == (0.0, 1.0, 0.0)
    assert (blind.auc, blind.eer, blind.tar_at(0.5)) == (0.5, 0.5, 0.0)
    point = blind.at_far(0.5)  # all or none: none
    assert (point.far, point.tar, point.impostors_accepted) == (0.0, 0.0, 0)
    assert point.threshold > 0.5


@pytest.mark.parametrize(
    ("genuine", "impostor", "message"),
    [
        ([], [0.1], r"both genuine and impostor pairs.*genuine scores of shape \(0,\)"),
        ([0.1], [], r"impostor scores of shape \(0,\)"),
        ([0.1, np.nan], [0.2], "1 of 2 genuine scores are not finite"),
        ([0.1], [-np.inf, 0.2, np.inf], "2 of 3 impostor scores are not finite"),
        ([[0.1]], [0.2], r"genuine scores of shape \(1, 1\)"),
    ],
)
def test_scores_that_make_no_curve_are_refused(genuine, impostor, message):
    with pytest.raises(ValueError, match=message):
        Roc(genuine, impostor)
