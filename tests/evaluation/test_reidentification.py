"""Re-identification, compared with a plain implementation of the protocol."""

import numpy as np
import pytest

from keras_arcface.evaluation import reidentify


def make_set(people=25, cameras=4, dim=8, seed=0, spread=1.0):
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(people, dim))

    def side(count):
        ids, cams = generator.integers(0, people, count), generator.integers(0, cameras, count)
        return centers[ids] + spread * generator.normal(size=(count, dim)), ids, cams

    query, gallery = side(60), side(300)
    gallery[1][::17] = -1  # junk
    return query, gallery


def plain_market(query, gallery):
    """Ranks all images for each query, ignores junk, and sums precision over changes of recall."""
    (q, q_ids, q_cams), (g, g_ids, g_cams) = query, gallery
    q, g = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, g))
    precisions, trapezoids, cmcs = [], [], []
    for i in range(len(q)):
        good = [j for j in range(len(g)) if g_ids[j] == q_ids[i] and g_cams[j] != q_cams[i]]
        junk = {j for j in range(len(g)) if g_ids[j] == -1 or (g_ids[j] == q_ids[i] and g_cams[j] == q_cams[i])}
        if not good:
            continue
        walked = [j for j in sorted(range(len(g)), key=lambda j, i=i: -float(q[i] @ g[j])) if j not in junk]
        found, precision_before, recall_before, plain, trapezoid = 0, 1.0, 0.0, 0.0, 0.0
        cmc = np.zeros(50)
        for place, j in enumerate(walked):
            if j in good:
                found += 1
                cmc[place:] = 1
                plain += found / (place + 1) / len(good)
            precision, recall = found / (place + 1), found / len(good)
            trapezoid += (recall - recall_before) * (precision_before + precision) / 2
            precision_before, recall_before = precision, recall
        precisions.append(plain)
        trapezoids.append(trapezoid)
        cmcs.append(cmc)
    return np.mean(precisions), np.mean(trapezoids), np.mean(cmcs, axis=0), len(precisions)


@pytest.mark.parametrize("seed", range(5))
def test_matches_plain_implementation(seed):
    query, gallery = make_set(seed=seed)
    result = reidentify(*query, *gallery, progress=False)
    plain, trapezoid, cmc, queries = plain_market(query, gallery)
    differences = (
        abs(result.mean_average_precision - plain),
        abs(result.mean_average_precision_trapezoid - trapezoid),
        np.abs(result.cmc - cmc).max(),
    )
    print("mAP {:.1e}, trapezoid {:.1e}, CMC {:.1e}".format(*differences))
    assert max(differences) < 1e-12
    assert result.queries == queries
    assert result.rank(1) == result.cmc[0]


def test_same_camera_and_junk_are_ignored():
    query = (np.array([[1.0, 0.0]]), np.array([7]), np.array([0]))
    rows = np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.2], [1.0, 0.5]])
    # The nearest images are of the same camera and junk. The match comes after them.
    result = reidentify(*query, rows, np.array([7, -1, 7, 8]), np.array([0, 1, 1, 1]), progress=False)
    assert (result.rank(1), result.mean_average_precision) == (1.0, 1.0)


def test_queries_without_a_match_are_skipped():
    rows = np.eye(3)
    ids, cameras = np.array([1, 2, -1]), np.zeros(3, int)
    other = reidentify(rows, ids, cameras, rows[:1], ids[:1], cameras[:1] + 1, progress=False)
    assert (other.queries, other.skipped) == (1, 2)
    with pytest.raises(ValueError, match="3 queries without a match among 3 gallery images"):
        reidentify(rows, ids, cameras, rows, ids, cameras, progress=False)


def test_invalid_arguments():
    query, gallery = make_set()
    with pytest.raises(ValueError, match=r"gallery_cameras must be integers of shape \(300,\)"):
        reidentify(*query, gallery[0], gallery[1], gallery[2][:5], progress=False)
    query[0][4] = np.nan
    with pytest.raises(ValueError, match=r"query must .* 1 of 60 rows that are zero or not finite: row 4"):
        reidentify(*query, *gallery, progress=False)
