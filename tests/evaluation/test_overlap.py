import numpy as np
import pytest
from scipy import stats

from keras_arcface import evaluation
from keras_arcface.evaluation import find_overlap
from keras_arcface.evaluation import overlap as module


def make_people(count, images, noise=0.5, dim=16, seed=0):
    """Returns shuffled embeddings of any norm, and labels with gaps."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(3 * np.arange(count), images))
    embeddings = rng.normal(size=(count, dim))[labels // 3] + noise * rng.normal(size=(len(labels), dim))
    return embeddings * rng.uniform(0.5, 2, (len(labels), 1)), labels


def mean(embeddings, labels, label):
    total = sum(row for row, own in zip(embeddings, labels, strict=True) if own == label)
    return total / np.linalg.norm(total)


def best_images(first, first_labels, second, second_labels, label, other):
    found = (-2.0, -1, -1)
    for row in np.flatnonzero(first_labels == label).tolist():
        for column in np.flatnonzero(second_labels == other).tolist():
            a, b = first[row], second[column]
            found = max(found, (a @ b / np.linalg.norm(a) / np.linalg.norm(b), row, column))
    return found


def reference(first, first_labels, second, second_labels, threshold, is_one_set):
    """Returns (score, label, other label, row, other row, image score) of all pairs, by loops."""
    pairs = []
    for label in np.unique(first_labels).tolist():
        for other in np.unique(second_labels).tolist():
            if is_one_set and other <= label:
                continue
            score = mean(first, first_labels, label) @ mean(second, second_labels, other)
            if score >= threshold:
                image_score, row, column = best_images(first, first_labels, second, second_labels, label, other)
                pairs.append((score, label, other, row, column, image_score))
    return sorted(pairs, reverse=True)


def assert_equal(overlap, expected):
    scores, *indices, image_scores = zip(*expected, strict=True)
    np.testing.assert_allclose(overlap.scores, scores, atol=1e-6)
    np.testing.assert_allclose(overlap.image_scores, image_scores, atol=1e-6)
    names = ("first_labels", "second_labels", "first_rows", "second_rows")
    assert [getattr(overlap, name).tolist() for name in names] == list(map(list, indices))


@pytest.mark.parametrize("block_bytes", [2**28, 100])
def test_two_sets_match_plain_implementation(monkeypatch, block_bytes):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    first, second = make_people(14, 3), make_people(9, 2, seed=1)
    overlap = find_overlap(*first, *second, threshold=0.2, progress=False)
    expected = reference(*first, *second, 0.2, is_one_set=False)
    assert 10 < len(expected) < 60
    assert_equal(overlap, expected)
    assert (overlap.compared, overlap.threshold) == (14 * 9, 0.2)
    assert np.isnan(overlap.false_alarms)
    assert repr(overlap) == (f"Overlap(pairs={len(expected)}, threshold=0.2000, false_alarms=nan, compared=126)")


@pytest.mark.parametrize("block_bytes", [2**28, 100])
def test_one_set_matches_plain_implementation(monkeypatch, block_bytes):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    people = make_people(15, 3)
    overlap = find_overlap(*people, threshold=0.2, progress=False)
    expected = reference(*people, *people, 0.2, is_one_set=True)
    assert 10 < len(expected) < 60
    assert_equal(overlap, expected)
    assert overlap.compared == 15 * 14 // 2


def test_images_without_labels_are_people():
    first, second = make_people(10, 3), make_people(8, 2, seed=1)
    rows = np.arange(16)
    expected = reference(*first, second[0], rows, 0.2, is_one_set=False)
    assert_equal(find_overlap(*first, second[0], threshold=0.2, progress=False), expected)
    turned = find_overlap(second[0], None, *first, threshold=0.2, progress=False)
    assert turned.second_labels.tolist() == [pair[1] for pair in expected]
    assert turned.first_rows.tolist() == [pair[4] for pair in expected]
    alone = find_overlap(second[0], None, threshold=0.2, progress=False)
    assert_equal(alone, reference(second[0], rows, second[0], rows, 0.2, is_one_set=True))


def fitted_tail(scores, same_limit, false_alarms):
    """Returns mean and deviation of the normal distribution through two ranks, without pairs of the same person."""
    scores, same = np.sort(np.ravel(scores))[::-1], 0
    while True:
        others = scores[same:]
        ranks = np.array([same_limit, 10 * same_limit])
        deviation, center = np.polyfit(stats.norm.isf(ranks / len(others)), others[ranks - 1], 1)
        above = np.sum(scores >= stats.norm.isf(false_alarms / len(others), center, deviation))
        found = min(above - int(np.ceil(false_alarms)), same_limit)
        if found <= same:
            return center, deviation, len(others)
        same = found


@pytest.mark.parametrize(("labeled", "same_limit"), [((True, True), 120), ((True, False), 1300), ((False, True), 240)])
def test_threshold_of_an_expected_number(labeled, same_limit):
    (first, first_labels), (second, second_labels) = make_people(120, 2), make_people(1300, 1, seed=1)
    sides = (first, first_labels if labeled[0] else None, second, second_labels if labeled[1] else None)
    overlap = find_overlap(*sides, false_alarms=2.5, progress=False)
    means = first
    if labeled[0]:
        means = np.stack([mean(first, first_labels, label) for label in np.unique(first_labels)])
    means = means / np.linalg.norm(means, axis=1, keepdims=True)
    scores = means @ (second / np.linalg.norm(second, axis=1, keepdims=True)).T
    center, deviation, pairs = fitted_tail(scores, same_limit, 2.5)
    assert overlap.threshold == pytest.approx(stats.norm.isf(2.5 / pairs, center, deviation), abs=1e-5)
    assert overlap.false_alarms == pytest.approx(2.5)
    given = find_overlap(*sides, threshold=0.7, progress=False)
    center, deviation, pairs = fitted_tail(scores, same_limit, 1)
    assert given.false_alarms == pytest.approx(pairs * stats.norm.sf(0.7, center, deviation), rel=1e-3)


def test_one_set_has_as_many_pairs_of_the_same_person_as_people():
    embeddings, labels = make_people(210, 1)
    overlap = find_overlap(embeddings, labels, progress=False)
    normalized = embeddings[np.argsort(labels)]
    normalized /= np.linalg.norm(normalized, axis=1, keepdims=True)
    center, deviation, pairs = fitted_tail((normalized @ normalized.T)[np.triu_indices(210, 1)], 210, 1)
    assert overlap.threshold == pytest.approx(stats.norm.isf(1 / pairs, center, deviation), abs=1e-5)


def test_number_of_false_alarms_is_as_expected():
    """The embeddings have 256 dimensions, in which cosines of different people are nearly normal."""
    counts = []
    for seed in range(20):
        first, second = make_people(300, 1, dim=256, seed=2 * seed), make_people(300, 1, dim=256, seed=2 * seed + 1)
        counts.append(len(find_overlap(*first, *second, false_alarms=5, progress=False)))
    print(f"false alarms of 20 pairs of sets, 5 expected: mean {np.mean(counts)}")
    assert 3 < np.mean(counts) < 7


def test_people_in_both_sets_do_not_move_the_threshold():
    embeddings, labels = make_people(500, 4, dim=64)
    rng = np.random.default_rng(0)
    moved = np.zeros(len(labels), bool)
    for label in np.unique(labels)[:200]:
        moved[rng.permutation(np.flatnonzero(labels == label))[:2]] = True
    other = moved | (labels >= 3 * 300)
    sides = (embeddings[~other], labels[~other], embeddings[other], labels[other])
    overlap = find_overlap(*sides, progress=False)
    is_same = overlap.first_labels == overlap.second_labels
    assert is_same.sum() == 200
    assert (~is_same).sum() <= 5
    others = find_overlap(*make_people(300, 3, dim=64), *make_people(300, 3, dim=64, seed=9), progress=False)
    assert overlap.threshold == pytest.approx(others.threshold, abs=0.03)


def test_equal_embeddings_are_all_found():
    overlap = find_overlap(np.eye(2)[np.zeros(300, int)], np.arange(300), progress=False)
    assert len(overlap) == overlap.compared == 300 * 299 // 2
    assert overlap.false_alarms == overlap.compared - 300


def test_nothing_is_found():
    overlap = find_overlap(np.eye(3), [0, 1, 2], np.eye(3)[::-1] * -1, threshold=0.5, progress=False)
    assert len(overlap) == 0
    assert overlap.first_labels.dtype == overlap.first_rows.dtype == np.int64
    assert evaluation.to_json(overlap)["scores"] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"first_labels": [0.0, 1.0, 2.0]}, "first_labels must be integers"),
        ({"second_labels": [0, 1]}, r"second_labels must be integers of shape \(3,\)"),
        ({"second": None}, "second must be the embeddings of second_labels. Received: second=None, 3 labels"),
        ({"second": np.zeros((3, 3))}, "second must have rows that are finite and not zero.*row 0, row 1"),
        ({"second": np.ones((3, 4))}, r"\(n, dim\) and \(m, dim\). Received: shapes \(3, 3\) and \(3, 4\)"),
        ({"second": None, "second_labels": None, "first_labels": [4, 4, 4]}, "at least two people. Received: 1 person"),
        ({"threshold": float("nan")}, "threshold must be a finite number or None"),
        ({"threshold": None}, "only if 30 pairs are at most 10% of all pairs. Received: threshold=None, and 9 pairs"),
        ({"threshold": None, "false_alarms": 0}, "false_alarms must be above 0"),
    ],
)
def test_invalid_arguments(changes, named):
    arguments = {
        "first": np.eye(3),
        "first_labels": [0, 1, 2],
        "second": np.eye(3),
        "second_labels": [0, 1, 2],
        "threshold": 0.5,
        "progress": False,
    }
    with pytest.raises(ValueError, match=named):
        find_overlap(**{**arguments, **changes})


def test_too_many_pairs(monkeypatch):
    monkeypatch.setattr(module, "_MAX_PAIRS", 8)
    people = make_people(3, 2)
    assert len(find_overlap(*make_people(2, 2), *people, threshold=-1, progress=False)) == 6
    with pytest.raises(
        ValueError, match=r"at most 8 pairs .* reach it. Received: threshold=-1, which .* 9 pairs reach"
    ):
        find_overlap(*people, *people, threshold=-1, progress=False)
