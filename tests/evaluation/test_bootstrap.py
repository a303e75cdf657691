import numpy as np
import pytest

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation.bootstrap import accuracy_interval
from keras_arcface.evaluation.bootstrap import roc_intervals


def make_roc(genuine=300, impostor=500, seed=0):
    generator = np.random.default_rng(seed)
    return Roc(np.round(generator.normal(1, 1, genuine), 2), np.round(generator.normal(0, 1, impostor), 2))


def test_intervals_match_plain_bootstrap():
    """The plain bootstrap resamples the scores themselves."""
    roc, generator = make_roc(), np.random.default_rng(1)
    drawn = [Roc(generator.choice(roc.genuine, 300), generator.choice(roc.impostor, 500)) for _ in range(2000)]
    found = roc_intervals(roc, (0.1,), samples=2000)
    for name, values in (("auc", [r.auc for r in drawn]), ("eer", [r.eer for r in drawn])):
        np.testing.assert_allclose(found[name], np.quantile(values, [0.025, 0.975]), atol=0.004)
    tars = [r.tar_at(0.1) for r in drawn]
    np.testing.assert_allclose(found["tar"][0.1], np.quantile(tars, [0.025, 0.975]), atol=0.02)
    assert found["auc"][0] < roc.auc < found["auc"][1]


def test_interval_coverage():
    """The AUC of two normal distributions with means one standard deviation apart is Phi(1 / sqrt(2))."""
    truth = 0.7602499389065233
    found = [roc_intervals(make_roc(seed=seed), (), 200)["auc"] for seed in range(100)]
    assert 0.86 <= np.mean([low < truth < high for low, high in found]) <= 1.0
    # Each interval should be as wide as four standard deviations of the estimate.
    spread = np.std([make_roc(seed=seed).auc for seed in range(100)])
    assert np.mean([high - low for low, high in found]) == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_interval_of_unmeasurable_far_is_nan():
    low, high = roc_intervals(make_roc(), (1e-4,), samples=10)["tar"][1e-4]
    assert np.isnan(low)
    assert np.isnan(high)


def test_accuracy_interval():
    generator = np.random.default_rng(0)
    same = np.arange(1000) < 500
    correct = generator.random(1000) < np.where(same, 0.9, 0.7)
    low, high = accuracy_interval(correct, same)
    width = 2 * 1.96 * np.sqrt((0.9 * 0.1 + 0.7 * 0.3) / 2 / 1000)
    assert low < np.mean(correct) < high
    assert high - low == pytest.approx(width, rel=0.2)
    assert accuracy_interval(correct, same) == (low, high)
    assert accuracy_interval(np.ones(1000, bool), same) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be an integer of at least 1. Received: samples=0"),
        ({"level": 1.0}, r"level must be in \(0, 1\). Received: level=1.0"),
        ({"level": 0}, r"level must be in \(0, 1\). Received: level=0"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        roc_intervals(make_roc(), (), **arguments)
