"""Thresholds for one-to-many search."""

import warnings

import numpy as np
import pytest

from keras_arcface.evaluation.far_interval import far_interval
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import StaleThresholdWarning
from keras_arcface.gallery import extrapolate_threshold
from keras_arcface.gallery import identification_threshold


@pytest.mark.parametrize("fpir", [0.003, 0.01, 0.1, 0.5])
def test_is_the_lowest_threshold_of_at_most_this_rate(rng, fpir):
    scores = np.round(rng.normal(0.3, 0.1, 700), 2)  # with equal scores
    result = identification_threshold(scores, fpir, gallery_size=1000)
    assert result.fpir == np.mean(scores >= result.threshold) == result.accepted / 700 <= fpir
    lower = scores[scores < result.threshold].max()
    assert np.mean(scores >= lower) > fpir
    assert result.impostors == 700
    assert result.fpir_interval == far_interval(result.accepted, 700, int(fpir * 700 + 1e-9))
    assert result.fpir_interval[0] < fpir < result.fpir_interval[1]


def test_a_rate_of_one_accepts_everybody():
    assert identification_threshold([0.2, 0.4], 1.0, 10).threshold == 0.2


def test_too_few_searches_are_refused():
    with pytest.raises(ValueError, match=r"FPIR 0.001 requires at least 1,000 searches. Received: 999 searches"):
        identification_threshold(np.linspace(0, 1, 999), 0.001, 10)
    with pytest.raises(ValueError, match="Received: 0 searches"):
        identification_threshold([], 0.5, 10)


@pytest.mark.parametrize(
    ("scores", "fpir", "size", "message"),
    [
        ([0.1, np.nan], 0.5, 10, r"best_scores must be finite scores of shape \(n,\). Received: shape \(2,\), 1 not"),
        ([[0.1]], 0.5, 10, r"Received: shape \(1, 1\)"),
        ([0.1], 0.0, 10, r"fpir must be in \(0, 1\]. Received: fpir=0.0"),
        ([0.1], 1.5, 10, r"fpir must be in \(0, 1\]. Received: fpir=1.5"),
        ([0.1], 1.0, 0, "gallery_size must be an integer of at least 1. Received: gallery_size=0"),
    ],
)
def test_arguments_are_checked(scores, fpir, size, message):
    with pytest.raises(ValueError, match=message):
        identification_threshold(scores, fpir, size)


def test_extrapolation_from_pairs_holds_for_independent_scores(rng):
    size, fpir = 50, 0.2
    result = extrapolate_threshold(rng.normal(size=200_000), fpir, size)
    searches = rng.normal(size=(20_000, size)).max(axis=1)
    assert np.mean(searches >= result.threshold) == pytest.approx(fpir, abs=0.02)
    assert result.fpir == pytest.approx(fpir, abs=1e-3)
    assert result.fpir_interval[0] < np.mean(searches >= result.threshold) < result.fpir_interval[1]
    assert result.impostors == 200_000


def test_extrapolation_to_a_gallery_of_one_is_the_far(rng):
    scores = rng.normal(size=1000)
    assert extrapolate_threshold(scores, 0.01, 1).threshold == identification_threshold(scores, 0.01, 1).threshold


def test_extrapolation_requires_many_pairs():
    with pytest.raises(ValueError, match=r"FPIR 0.01 requires at least 99,500 pairs of different people. Received: 5 "):
        extrapolate_threshold(np.arange(5.0), 0.01, 1000)
    with pytest.raises(ValueError, match=r"fpir must be in \(0, 1\). Received: fpir=1"):
        extrapolate_threshold(np.arange(5.0), 1, 1000)


def test_a_calibrated_threshold_is_stored_with_its_evidence(path, rng):
    people, impostors = rng.normal(size=(200, 16)), rng.normal(size=(500, 16))
    with Gallery.open(path) as gallery:
        gallery.enroll_many((str(number), row[None], None) for number, row in enumerate(people))
        result = gallery.calibrate(impostors, fpir=0.02)
        strict = gallery.calibrate(impostors, fpir=0.002, name="strict")
    with Gallery.open(path, precision="int8") as gallery:
        assert gallery.thresholds() == {"fpir=0.02": result, "strict": strict}
        found = gallery.search(impostors, threshold="fpir=0.02")
        assert sum(map(bool, found)) == result.accepted == 10
        assert found == gallery.search(impostors, threshold=result.threshold)
        assert sum(map(bool, gallery.search(impostors, threshold="strict"))) == 1
        assert (result.gallery_size, result.impostors) == (200, 500)


def test_the_promised_rate_is_that_of_other_people(path, rng):
    with Gallery.open(path) as gallery:
        gallery.enroll_many((str(number), rng.normal(size=(1, 16)), None) for number in range(300))
        result = gallery.calibrate(rng.normal(size=(1000, 16)), fpir=0.05)
        found = gallery.search(rng.normal(size=(1000, 16)), top_k=1, threshold="fpir=0.05")
    assert result.fpir_interval[0] < np.mean(list(map(bool, found))) < result.fpir_interval[1]


def test_a_threshold_is_stale_when_the_gallery_has_changed_much(gallery, rng):
    gallery.enroll_many((str(number), rng.normal(size=(1, 16)), None) for number in range(40))
    gallery.calibrate(rng.normal(size=(10, 16)), fpir=0.1)
    probe = rng.normal(size=(1, 16))
    gallery.enroll_many((str(number), rng.normal(size=(1, 16)), None) for number in range(40, 44))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.search(probe, threshold="fpir=0.1")
    gallery.enroll("44", rng.normal(size=(1, 16)))
    with pytest.warns(
        StaleThresholdWarning, match=r"'fpir=0.1' was calibrated for 40 people, and .* now has 45"
    ) as all:
        gallery.search(probe, threshold="fpir=0.1")
    assert all[0].filename == __file__
    gallery.calibrate(rng.normal(size=(10, 16)), fpir=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gallery.search(probe, threshold="fpir=0.1")


def test_names_of_thresholds_are_checked(gallery):
    with pytest.raises(ValueError, match=r"must have at least one person. Received: none"):
        gallery.calibrate([[1.0]], fpir=1.0)
    gallery.enroll("ann", [[1.0]])
    gallery.calibrate([[1.0]], fpir=1.0)
    with pytest.raises(ValueError, match=r"stored in .*people\.db: \['fpir=1'\]. Received: threshold='fpir=0.1'"):
        gallery.search([[1.0]], threshold="fpir=0.1")
    with pytest.raises(ValueError, match=r"FPIR 0.1 requires at least 10 searches. Received: 1 searches"):
        gallery.calibrate([[1.0]], fpir=0.1)
