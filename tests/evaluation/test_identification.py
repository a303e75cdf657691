"""1:N and MegaFace, compared with plain implementations of the protocols."""

import numpy as np
import pytest

from keras_arcface.evaluation import IdentificationResult
from keras_arcface.evaluation import identification
from keras_arcface.evaluation import identify
from keras_arcface.evaluation import identify_among_distractors


def people(count, images, dim=8, seed=0, spread=0.8):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), images)
    rows = generator.normal(size=(count, dim))[labels] + spread * generator.normal(size=(len(labels), dim))
    return rows.astype(np.float32), labels


def unit(rows):
    return (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


def plain_one_to_many(probes, probe_labels, gallery, gallery_labels, fars):
    scores = unit(probes) @ unit(gallery).T
    ranks, best, outside = [], [], []
    for row, label in zip(scores, probe_labels, strict=True):
        mine = gallery_labels == label
        if mine.any():
            ranks.append(int(np.sum(row[~mine] >= row[mine].max())))
            best.append(row[mine].max())
        else:
            outside.append(row.max())
    ranks, best, outside = np.array(ranks), np.array(best), np.array(outside)
    dirs = {}
    for far in fars:
        thresholds = np.concatenate([outside, best, [np.inf]])
        allowed = [t for t in thresholds if np.mean(outside >= t) <= far]
        dirs[far] = max(np.mean((ranks == 0) & (best >= t)) for t in allowed)
    return np.array([np.mean(ranks < k) for k in range(1, 101)]), dirs


@pytest.mark.parametrize("seed", range(5))
def test_one_to_many_matches_plain_implementation(seed):
    rows, labels = people(60, 4, seed=seed)
    gallery = np.flatnonzero(np.arange(240) % 4 == 0)[:40]  # one image of each of 40 people; 20 people are not in it
    probes = np.setdiff1d(np.arange(240), gallery)
    sides = rows[probes], labels[probes], rows[gallery], labels[gallery]
    result = identify(*sides, fars=(0.01, 0.05, 0.1, 0.5), progress=False)
    cmc, dirs = plain_one_to_many(*sides, (0.05, 0.1, 0.5))
    np.testing.assert_array_equal(result.cmc, cmc)
    assert {far: result.dir[far] for far in dirs} == dirs
    assert (result.mated, result.nonmated) == (120, 80)
    assert result.rank(5) == cmc[4]
    assert np.isnan(result.dir[0.01])  # not measurable with 80 nonmated probes
    print(f"CMC and DIR differ by 0; rank-1 {result.rank(1):.3f}, DIR@0.1 {result.dir[0.1]:.3f}")


def test_closed_set_has_no_dir():
    rows, labels = people(10, 2)
    result = identify(rows[1::2], labels[1::2], rows[::2], labels[::2], progress=False)
    assert (result.dir, result.nonmated) == ({}, 0)
    for k in (0, 101):
        with pytest.raises(ValueError, match=rf"k must be in \[1, 100\], the ranks of the CMC curve. Received: k={k}"):
            result.rank(k)
    with pytest.raises(ValueError, match="10 probes without a label of the 10 gallery entries"):
        identify(rows[1::2], labels[1::2] + 100, rows[::2], labels[::2], progress=False)


def test_mean_over_galleries():
    rows, labels = people(60, 4)
    first, second = np.arange(0, 80, 4), np.arange(80, 200, 4)  # 20 and 30 people; 10 people are in no gallery
    probes = np.setdiff1d(np.arange(240), [*first, *second])
    results = [
        identify(rows[probes], labels[probes], rows[gallery], labels[gallery], fars=(0.1, 0.001), progress=False)
        for gallery in (first, second)
    ]
    mean = IdentificationResult.mean(results)
    plain = [plain_one_to_many(rows[probes], labels[probes], rows[g], labels[g], (0.1,)) for g in (first, second)]
    np.testing.assert_array_equal(mean.cmc, (plain[0][0] + plain[1][0]) / 2)
    assert mean.dir[0.1] == (plain[0][1][0.1] + plain[1][1][0.1]) / 2
    assert np.isnan(mean.dir[0.001])
    assert (mean.mated, mean.nonmated) == (150, 2 * len(probes) - 150)
    assert 0 < mean.dir[0.1] < mean.rank(1) < 1


def test_mean_of_different_results_is_refused():
    rows, labels = people(10, 2)
    sides = rows, labels, rows[:4], labels[:4]
    other = [identify(*sides, fars=fars, progress=False) for fars in ((0.1,), (0.2,))]
    with pytest.raises(
        ValueError, match=r"same false accept rates. Received: 2 results with the rates \[\[0.1\], \[0.2\]\]"
    ):
        IdentificationResult.mean(other)
    with pytest.raises(ValueError, match=r"results must be one or more results.* Received: 0 results"):
        IdentificationResult.mean([])


def plain_megaface(probes, labels, distractors, fars):
    p, d = unit(probes), unit(distractors)
    own, others = p @ p.T, p @ d.T
    ranks, genuine = [], []
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j and labels[i] == labels[j]:  # j is added to the distractors
                ranks.append(int(np.sum(others[i] >= own[i, j])))
                genuine.append(own[i, j])
    ranks, genuine, impostor = np.array(ranks), np.array(genuine), others.ravel()
    tars = {}
    for far in fars:
        allowed = [t for t in np.concatenate([genuine, [np.inf]]) if np.mean(impostor >= t) <= far]
        tars[far] = max(np.mean(genuine >= t) for t in allowed)
    return np.array([np.mean(ranks < k) for k in range(1, 101)]), tars


@pytest.mark.parametrize("seed", range(5))
def test_megaface_matches_plain_implementation(seed):
    rows, labels = people(12, 5, seed=seed)
    distractors = np.random.default_rng(seed + 100).normal(size=(700, 8)).astype(np.float32)
    result = identify_among_distractors(rows, labels, distractors, fars=(0.1, 1e-2, 1e-3, 1e-5), progress=False)
    cmc, tars = plain_megaface(rows, labels, distractors, (0.1, 1e-2, 1e-3))
    np.testing.assert_array_equal(result.cmc, cmc)
    assert {far: result.tar[far] for far in tars} == tars
    assert np.isnan(result.tar[1e-5])
    assert (result.genuine, result.impostor) == (12 * 5 * 4, 60 * 700)
    print(f"CMC and TAR differ by 0; rank-1 {result.rank(1):.3f}, TAR@1e-3 {result.tar[1e-3]:.3f}")


class Slices:
    """Rows that can only be read in slices, such as feature files. It records the slices."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.read.append(rows)
        return self.rows[rows]


def test_distractors_are_read_once_in_blocks(monkeypatch):
    monkeypatch.setattr(identification, "_DISTRACTORS_PER_BLOCK", 64)
    rows, labels = people(12, 5)
    distractors = np.random.default_rng(100).normal(size=(700, 8)).astype(np.float32)
    slices = Slices(distractors)
    result = identify_among_distractors(rows, labels, slices, fars=(0.1, 1e-2), progress=False)
    cmc, tars = plain_megaface(rows, labels, distractors, (0.1, 1e-2))
    np.testing.assert_array_equal(result.cmc, cmc)
    assert result.tar == tars
    assert slices.read == [slice(start, start + 64) for start in range(0, 700, 64)]
    distractors[130] = 0
    with pytest.raises(ValueError, match=r"distractors must have rows that are finite and not zero.*: row 130$"):
        identify_among_distractors(rows, labels, distractors, progress=False)
    with pytest.raises(ValueError, match=r"distractors must contain at least one embedding. Received: 0 embeddings"):
        identify_among_distractors(rows, labels, distractors[:0], progress=False)


def test_ranks_count_scores_that_are_not_kept():
    """Only the highest of a million scores are kept, but mates with lower scores are ranked among all."""
    rows, labels = people(12, 5, spread=2.0)
    distractors = np.random.default_rng(1).normal(size=(20_000, 8)).astype(np.float32)
    result = identify_among_distractors(rows, labels, distractors, fars=(1e-5, 1e-6), progress=False)
    cmc, tars = plain_megaface(rows, labels, distractors, (1e-5, 1e-6))
    np.testing.assert_array_equal(result.cmc, cmc)
    assert result.tar == tars
    assert cmc[-1] < 0.5


def test_identities_with_one_image_have_impostor_pairs_only():
    rows, labels = people(3, 2)
    labels[-1] = 99
    labels[-2] = 98
    result = identify_among_distractors(rows, labels, rows[:2] * -1, fars=(0.5,), progress=False)
    assert (result.genuine, result.impostor) == (4, 12)
    with pytest.raises(ValueError, match="6 probes of 6 identities"):
        identify_among_distractors(rows, np.arange(6), rows, progress=False)


def test_constant_embedding_finds_nothing():
    labels = np.repeat(np.arange(5), 2)
    result = identify_among_distractors(np.ones((10, 8)), labels, np.ones((50, 8)), fars=(0.1,), progress=False)
    assert (result.rank(1), result.rank(50), result.tar[0.1]) == (0.0, 0.0, 0.0)
    assert result.rank(51) == 1.0
