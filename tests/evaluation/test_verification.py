import tracemalloc

import numpy as np
import pytest

from keras_arcface.evaluation import verify


def embeddings_with_cosines(cosines, spread=5):
    """Returns pairs of 2-d unit vectors with the given cosines."""
    angles = np.arccos(np.asarray(cosines, np.float64))
    start = np.linspace(0, spread, len(angles))
    turned = np.stack([start, start + angles], axis=1).ravel()
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def noisy_pairs(count=600, separation=1.0, seed=0):
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.5
    cosines = np.tanh(generator.normal(0.2 + separation * same, 0.6))
    return embeddings_with_cosines(cosines), same


def plain_lfw_procedure(embeddings, same, folds=10):
    """Loops over folds and thresholds, as in the protocol."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = ((unit[0::2] - unit[1::2]) ** 2).sum(axis=1)
    indices = np.arange(len(same))
    accuracies, thresholds = [], []
    for fold in np.array_split(indices, folds):
        rest = np.setdiff1d(indices, fold)
        best, best_threshold = -1.0, None
        for threshold in np.arange(0, 4, 0.01):
            accuracy = np.mean((distances[rest] < threshold) == same[rest])
            if accuracy > best:
                best, best_threshold = accuracy, threshold
        accuracies.append(np.mean((distances[fold] < best_threshold) == same[fold]))
        thresholds.append(1 - best_threshold / 2)
    return accuracies, thresholds


@pytest.mark.parametrize("count", [600, 603, 40])
def test_accuracy_matches_plain_implementation(count):
    embeddings, same = noisy_pairs(count)
    result = verify(embeddings, same)
    accuracies, thresholds = plain_lfw_procedure(embeddings, same)
    np.testing.assert_array_equal(result.grid.accuracies, accuracies)
    np.testing.assert_allclose(result.grid.thresholds, thresholds)
    assert result.accuracy == pytest.approx(np.mean(accuracies))
    assert result.accuracy_std == pytest.approx(np.std(accuracies))


def test_folds_are_consecutive_pairs():
    embeddings, same = noisy_pairs(100)
    result = verify(embeddings, same)
    # Swapping the images of a pair, or pairs within a fold, changes nothing.
    swapped = embeddings.reshape(100, 2, 2)[:, ::-1].reshape(200, 2)
    np.testing.assert_array_equal(verify(swapped, same).grid.accuracies, result.grid.accuracies)
    order = np.concatenate([np.arange(10)[::-1], np.arange(10, 100)])
    reordered = embeddings.reshape(100, 2, 2)[order].reshape(200, 2)
    np.testing.assert_array_equal(verify(reordered, same[order]).grid.accuracies, result.grid.accuracies)


def test_auc_is_the_probability_of_order():
    cosines = np.round(np.tanh(np.random.default_rng(1).normal(0.3, 0.5, 200)), 1)
    same = np.random.default_rng(2).random(200) < 0.5
    result = verify(embeddings_with_cosines(cosines), same)
    scores = np.round(result.scores, 6)
    wins = scores[same][:, None] - scores[~same][None]
    # Rounding errors of the embeddings separate some equal scores in verify.
    assert result.auc == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)), abs=0.03)
    exact = verify(np.repeat(np.eye(2), [300, 100], axis=0)[np.random.default_rng(3).permutation(400)], same)
    wins = exact.scores[same][:, None] - exact.scores[~same][None]
    assert exact.auc == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)), abs=1e-12)


@pytest.mark.parametrize("far", [0.5, 0.1, 0.01])
def test_tar_is_the_largest_within_the_far(far):
    embeddings, same = noisy_pairs(1000)
    result = verify(embeddings, same, fars=(far,))
    best = 0.0
    for threshold in np.concatenate([result.scores, [2.0]]):
        accepted = result.scores >= threshold
        if np.mean(accepted[~same]) <= far:
            best = max(best, np.mean(accepted[same]))
    assert result.tar[far] == best


def test_unmeasurable_far_is_nan():
    embeddings, same = noisy_pairs(100)
    tar = verify(embeddings, same, fars=(0.1, 0.001)).tar
    assert not np.isnan(tar[0.1])
    assert np.isnan(tar[0.001])


def test_perfect_separation():
    same = np.arange(40) % 2 == 0
    result = verify(embeddings_with_cosines(np.where(same, 0.9, 0.1)), same)
    assert (result.accuracy, result.auc, result.tar[0.1]) == (1.0, 1.0, 1.0)
    assert 0.1 < result.threshold < 0.9


def test_inverted_separation():
    same = np.arange(40) % 2 == 0
    result = verify(embeddings_with_cosines(np.where(same, 0.1, 0.9)), same)
    assert (result.auc, result.tar[0.1]) == (0.0, 0.0)
    assert result.accuracy <= 0.5


def test_norms_are_ignored():
    embeddings, same = noisy_pairs(100)
    scaled = embeddings * np.random.default_rng(0).uniform(0.1, 50, (200, 1))
    np.testing.assert_allclose(verify(scaled, same).scores, verify(embeddings, same).scores, atol=1e-12)


@pytest.mark.parametrize(
    ("embeddings", "same", "message"),
    [
        (
            np.ones((9, 2)),
            np.ones(5),
            r"embeddings must have the shape \(2n, dim\), two rows per pair.* Received: .*\(9, 2\)",
        ),
        (np.ones((10, 2)), np.ones(4), r"same must be bool of shape \(5,\).* Received: shape \(4,\)"),
        (np.ones((10, 2)), np.arange(5), r"same must be bool of shape \(5,\), true for each genuine pair"),
        (
            np.ones((10, 2)),
            np.ones(5),
            "both genuine and impostor pairs. Received: 5 genuine and 0 impostor",
        ),
        (
            np.ones((10, 2)),
            np.arange(5) > 2,
            r"folds must be in \[2, 5\], at most the number of pairs. Received: folds=10",
        ),
    ],
)
def test_invalid_arguments(embeddings, same, message):
    with pytest.raises(ValueError, match=message):
        verify(embeddings, same)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_invalid_embeddings_are_named(value):
    embeddings, same = noisy_pairs(100)
    embeddings[[3, 150]] = value
    with pytest.raises(
        ValueError, match=r"Received: 2 of 200 rows .*: image 3 \(of pair 1\), image 150 \(of pair 75\)"
    ):
        verify(embeddings, same)


@pytest.mark.parametrize("decimals", [1, 12])
def test_exact_search_tries_each_threshold(decimals):
    generator = np.random.default_rng(0)
    same = generator.random(200) < 0.5
    cosines = np.round(np.tanh(generator.normal(0.2 + same, 0.6)), decimals)
    result = verify(embeddings_with_cosines(cosines, spread=0), same)  # equal cosines give equal scores
    scores = result.scores
    assert len(np.unique(scores)) == len(np.unique(cosines))
    for number, fold in enumerate(np.array_split(np.arange(200), 10)):
        rest = np.setdiff1d(np.arange(200), fold)
        distinct = np.unique(scores[rest])
        candidates = [np.inf, *((distinct[1:] + distinct[:-1]) / 2)[::-1], -np.inf]
        accuracies = [np.mean((scores[rest] > threshold) == same[rest]) for threshold in candidates]
        best = candidates[int(np.argmax(accuracies))]
        assert result.exact.accuracies[number] == np.mean((scores[fold] > best) == same[fold])
        assert result.exact.thresholds[number] == pytest.approx(best)
    assert result.exact.mean == np.mean(result.exact.accuracies)


def test_exact_search_if_no_threshold_separates():
    same = np.arange(40) % 4 != 0  # three in four are genuine with lower scores: accepting all is best
    result = verify(embeddings_with_cosines(np.where(same, 0.1, 0.9)), same, folds=4)
    assert result.exact.mean == 0.75
    result = verify(embeddings_with_cosines(np.where(same, 0.9, 0.1)), ~same, folds=4)  # accepting none
    assert result.exact.mean == 0.75


def test_interpolated_tar_matches_plain_implementation():
    """The validation rate of LFW. Its interpolation is defined between different FARs only."""
    embeddings, same = noisy_pairs(3000)
    result = verify(embeddings, same, fars=(0.1, 0.01))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = ((unit[0::2] - unit[1::2]) ** 2).sum(axis=1)
    grid = np.arange(0, 4, 0.001)
    for far, (mean, std) in result.tar_published.items():
        tars = []
        for fold in np.array_split(np.arange(3000), 10):
            rest = np.setdiff1d(np.arange(3000), fold)
            impostor = distances[rest][~same[rest]]
            fars = np.array([np.mean(impostor < threshold) for threshold in grid])
            above = np.flatnonzero(fars > far)[0]  # first threshold with this FAR
            below = above - 1  # last threshold with this FAR
            share = (far - fars[below]) / (fars[above] - fars[below])
            threshold = grid[below] + share * (grid[above] - grid[below])
            tars.append(np.mean(distances[fold][same[fold]] < threshold))
        assert mean == pytest.approx(np.mean(tars), abs=1e-12)
        assert std == pytest.approx(np.std(tars), abs=1e-12)


def test_unmeasurable_fars():
    embeddings, same = noisy_pairs(100)
    result = verify(embeddings, same)
    assert [far for far in result.tar if np.isnan(result.tar[far])] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    assert [far for far in result.tar if np.isnan(result.tar_published[far][0])] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    with pytest.raises(ValueError, match=r"A threshold for FAR 0\.01 requires"):
        result.at_far(0.01)
    assert result.at_far(0.1).impostors == np.sum(~same)


def test_pairs_argument():
    """As on YTF, where an embedding is in several pairs."""
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 4)
    videos = generator.normal(size=(20, 8))[people] + generator.normal(size=(80, 8))
    pairs = generator.integers(0, 80, (400, 2))
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    result = verify(videos, same, pairs=pairs)
    expected = verify(videos[pairs.ravel()], same)
    np.testing.assert_array_equal(result.scores, expected.scores)
    np.testing.assert_array_equal(result.grid.accuracies, expected.grid.accuracies)
    with pytest.raises(ValueError, match=r"row indices of the 80 embeddings, .*Received: pairs\[0\]=\[80, 1\]"):
        verify(videos, [True, False], pairs=np.array([[80, 1], [0, 1]]), folds=2)
    with pytest.raises(ValueError, match=r"integers of shape \(n, 2\). Received: shape \(2, 3\)"):
        verify(videos, [True, False], pairs=np.zeros((2, 3), int), folds=2)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]. Received: far=2"):
        verify(videos, same, pairs=pairs, fars=(0.1, 2))


def test_shuffle_seed():
    embeddings, same = noisy_pairs(400)
    order = np.argsort(~same, kind="stable")  # genuine pairs first, as in LFW's View 1
    sorted_embeddings = embeddings.reshape(400, 2, 2)[order].reshape(800, 2)
    with pytest.warns(UserWarning, match="9 of 10 folds contain pairs of one kind only.*shuffle_seed"):
        verify(sorted_embeddings, same[order])
    result = verify(sorted_embeddings, same[order], shuffle_seed=0)
    assert np.bincount(result.fold_of_pair).tolist() == [40] * 10
    shuffled = np.random.default_rng(0).permutation(400)
    expected = verify(sorted_embeddings.reshape(400, 2, 2)[shuffled].reshape(800, 2), same[order][shuffled])
    np.testing.assert_array_equal(result.grid.accuracies, expected.grid.accuracies)
    assert verify(sorted_embeddings, same[order], shuffle_seed=0).accuracy == result.accuracy


@pytest.mark.parametrize("collapsed", [False, True])
def test_accuracy_is_the_share_of_correct_pairs(collapsed):
    """Also if all scores equal the threshold: for a constant embedding, up to rounding."""
    embeddings, same = noisy_pairs(300)
    if collapsed:
        embeddings = np.tile(np.random.default_rng(0).normal(size=128), (600, 1))
    result = verify(embeddings, same)
    for fold in range(10):
        assert np.mean(result.correct[result.fold_of_pair == fold]) == pytest.approx(result.grid.accuracies[fold])
    assert np.mean(result.correct) == pytest.approx(result.accuracy)
    low, high = result.intervals(samples=100)["accuracy"]
    assert low <= result.accuracy <= high


def test_memory_is_bounded():
    """Raw pixels make long rows."""
    embeddings = np.random.default_rng(0).normal(size=(400, 100_000)).astype(np.float32)
    tracemalloc.start()
    verify(embeddings, np.arange(200) % 2 == 0)
    added = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert added < 5 * 2**26  # all pairs in float64 would need 610 MB


def test_intervals_contain_the_figures():
    embeddings, same = noisy_pairs(600)
    result = verify(embeddings, same)
    intervals = result.intervals(samples=300)
    assert repr(intervals) == repr(result.intervals(samples=300))
    assert intervals["accuracy"][0] < result.accuracy < intervals["accuracy"][1]
    assert intervals["eer"][0] < result.eer < intervals["eer"][1]
    assert intervals["tar"][0.1][0] < result.tar[0.1] < intervals["tar"][0.1][1]
    assert np.isnan(intervals["tar"][1e-6][0])


def test_folds_of_unequal_size():
    embeddings, same = noisy_pairs(103)
    result = verify(embeddings, same, folds=10)
    assert np.bincount(result.fold_of_pair).tolist() == [11, 11, 11, *[10] * 7]


def test_all_scores_equal():
    same = np.arange(40) % 2 == 0
    result = verify(np.ones((80, 3)), same)
    assert (result.accuracy, result.exact.mean, result.auc, result.eer, result.tar[0.1]) == (0.5, 0.5, 0.5, 0.5, 0.0)
