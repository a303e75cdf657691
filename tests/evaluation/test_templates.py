"""IJB 1:1, compared with a plain implementation of the protocol."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from keras_arcface.evaluation import pool_templates
from keras_arcface.evaluation import templates as templates_module
from keras_arcface.evaluation import verify_templates


def make_images(seed=0, people=20, templates=90, dim=10):
    generator = np.random.default_rng(seed)
    person_of = generator.integers(0, people, templates)
    numbers = generator.permutation(5000)[:templates]  # unordered, with gaps
    counts = generator.integers(1, 12, templates)
    template = np.repeat(np.arange(templates), counts)
    media = generator.integers(0, 4, len(template)) * 1000
    rows = generator.normal(size=(people, dim))[person_of[template]] + 1.5 * generator.normal(size=(len(template), dim))
    rows *= generator.uniform(0.5, 20, (len(template), 1))
    detector = generator.uniform(0.3, 1, len(template))
    order = generator.permutation(len(template))
    return (rows[order], numbers[template][order], media[order], detector[order]), numbers, person_of


def plain_pooling(embeddings, templates, media, weight_by_norm, detector):
    pooled = []
    for template in np.unique(templates):
        total = np.zeros(embeddings.shape[1])
        for medium in np.unique(media[templates == template]):
            chosen = (templates == template) & (media == medium)
            rows = embeddings[chosen]
            if not weight_by_norm:
                rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            if detector is not None:
                rows = rows * detector[chosen][:, None]
            total += rows.mean(axis=0)
        pooled.append(total / np.linalg.norm(total))
    return np.unique(templates), np.array(pooled)


@pytest.mark.parametrize("weight_by_norm", [True, False])
@pytest.mark.parametrize("with_detector", [True, False])
@pytest.mark.parametrize("chunk", [1, 37, 32768])
def test_pooling_matches_plain_implementation(weight_by_norm, with_detector, chunk, monkeypatch):
    monkeypatch.setattr(templates_module, "_IMAGES_PER_CHUNK", chunk)
    (rows, numbers, media, detector), _, _ = make_images()
    detector = detector if with_detector else None
    ids, pooled = pool_templates(rows, numbers, media, weight_by_norm, detector)
    expected_ids, expected = plain_pooling(rows, numbers, media, weight_by_norm, detector)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    print(f"templates differ by {np.abs(pooled - expected).max():.1e}")


def test_mean_of_a_video():
    rows = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    ids, pooled = pool_templates(rows, np.array([5, 5, 2]))
    np.testing.assert_array_equal(ids, [2, 5])
    np.testing.assert_allclose(pooled, [np.array([1, 1]) / np.sqrt(2), np.array([2, 1]) / np.sqrt(5)], rtol=1e-6)


@pytest.mark.parametrize("pairs_count", [30, 20000])
def test_verification_matches_plain_implementation(pairs_count):
    images, numbers, person_of = make_images()
    ids, pooled = pool_templates(*images[:3])
    generator = np.random.default_rng(1)
    chosen = generator.integers(0, len(numbers), (pairs_count, 2))
    same = person_of[chosen[:, 0]] == person_of[chosen[:, 1]]
    same[0] = True
    result = verify_templates(pooled, ids, numbers[chosen], same, fars=(1e-1, 1e-2, 1e-3), progress=False)
    vectors = dict(zip(*plain_pooling(*images[:3], True, None), strict=True))
    scores = np.array([vectors[numbers[a]] @ vectors[numbers[b]] for a, b in chosen])
    # Pairs that are drawn twice have equal scores. Rounding must not separate them in the reference.
    scores = np.round(scores, 6)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    for target, value in result.tar.items():
        if not np.isnan(value):
            assert value == pytest.approx(tar[far <= target].max(), abs=1e-12)
    kept_far, kept_tar = (np.flipud(side) for side in roc_curve(same, scores)[:2])
    for target, value in result.tar_published.items():
        if np.isnan(value):
            assert target * np.sum(~same) < 1
            continue
        nearest = min(zip(abs(kept_far - target), range(len(kept_far)), strict=True))[1]
        assert value == pytest.approx(kept_tar[nearest], abs=1e-12)


def test_invalid_arguments():
    (rows, numbers, media, _), _, _ = make_images()
    with pytest.raises(ValueError, match=r"media must be integers of shape \(\d+,\), one for each row of embeddings"):
        pool_templates(rows, numbers, media[:-1])
    with pytest.raises(ValueError, match=r"detector_scores must be finite numbers .* 1 not finite"):
        pool_templates(rows, numbers, media, detector_scores=np.where(np.arange(len(rows)) == 3, np.nan, 1))
    broken = rows.copy()
    broken[[7, 4]] = np.nan
    with pytest.raises(ValueError, match=r"embeddings must .* 2 of .* rows that are zero or not finite: row 4, row 7"):
        pool_templates(broken, numbers, media)
    with pytest.raises(
        ValueError, match=r"pooled templates must .* 1 of 1 rows that are zero or not finite: template 9"
    ):
        pool_templates(np.array([[1.0, 0], [-1, 0]]), np.array([9, 9]))
    ids, pooled = pool_templates(rows, numbers, media)
    with pytest.raises(ValueError, match=r"in ids \(90 templates\). Received: pairs\[1\]=\[.*99999.*\]"):
        verify_templates(pooled, ids, np.array([[ids[0], ids[1]], [99999, ids[0]]]), [True, False])
    with pytest.raises(ValueError, match=r"ids must be ascending.*Received: ids\[\d+\]=\d+, ids\[\d+\]=\d+"):
        verify_templates(pooled, ids[::-1], np.array([[ids[0], ids[1]]]), [True])
    with pytest.raises(ValueError, match="same must contain both genuine and impostor pairs"):
        verify_templates(pooled, ids, np.array([[ids[0], ids[1]]] * 2), [True, True])
    with pytest.raises(ValueError, match=r"embeddings must be numbers of shape \(n, dim\)"):
        pool_templates(np.ones(3), np.array([1, 1, 2]))
    with pytest.raises(ValueError, match=r"pairs must be integers of shape \(n, 2\)"):
        verify_templates(pooled, ids, np.array([ids[0], ids[1]]), [True, False])
