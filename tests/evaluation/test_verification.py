import numpy as np
import pytest

from keras_arcface.evaluation import verify


def embeddings_with_cosines(cosines):
    """Pairs of 2-d unit vectors, each with the wanted cosine."""
    angles = np.arccos(np.asarray(cosines, np.float64))
    start = np.linspace(0, 5, len(angles))
    turned = np.stack([start, start + angles], axis=1).ravel()
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def noisy_pairs(count=600, separation=1.0, seed=0):
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.5
    cosines = np.tanh(generator.normal(0.2 + separation * same, 0.6))
    return embeddings_with_cosines(cosines), same


def slow_lfw_procedure(embeddings, same, folds=10):
    """Written from the protocol: loops over folds and thresholds."""
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
def test_accuracy_is_that_of_the_procedure_written_out(count):
    embeddings, same = noisy_pairs(count)
    result = verify(embeddings, same)
    accuracies, thresholds = slow_lfw_procedure(embeddings, same)
    np.testing.assert_array_equal(result.fold_accuracies, accuracies)
    np.testing.assert_allclose(result.fold_thresholds, thresholds)
    assert result.accuracy == pytest.approx(np.mean(accuracies))
    assert result.accuracy_std == pytest.approx(np.std(accuracies))


def test_folds_are_runs_of_pairs_in_order():
    embeddings, same = noisy_pairs(100)
    result = verify(embeddings, same)
    # Swapping the two images of a pair, or two pairs of one fold, changes nothing; moving a pair to another fold may.
    swapped = embeddings.reshape(100, 2, 2)[:, ::-1].reshape(200, 2)
    np.testing.assert_array_equal(verify(swapped, same).fold_accuracies, result.fold_accuracies)
    order = np.concatenate([np.arange(10)[::-1], np.arange(10, 100)])
    reordered = embeddings.reshape(100, 2, 2)[order].reshape(200, 2)
    np.testing.assert_array_equal(verify(reordered, same[order]).fold_accuracies, result.fold_accuracies)


def test_auc_counts_ordered_pairs_and_ties_half():
    cosines = np.round(np.tanh(np.random.default_rng(1).normal(0.3, 0.5, 200)), 1)
    same = np.random.default_rng(2).random(200) < 0.5
    result = verify(embeddings_with_cosines(cosines), same)
    scores = np.round(result.scores, 6)
    wins = scores[same][:, None] - scores[~same][None]
    # verify sees scores with rounding errors of the embeddings, which split some ties.
    assert result.auc == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)), abs=0.03)
    exact = verify(np.repeat(np.eye(2), [300, 100], axis=0)[np.random.default_rng(3).permutation(400)], same)
    wins = exact.scores[same][:, None] - exact.scores[~same][None]
    assert exact.auc == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)), abs=1e-12)


@pytest.mark.parametrize("far", [0.5, 0.1, 0.01])
def test_tar_is_the_largest_of_all_thresholds_within_the_far(far):
    embeddings, same = noisy_pairs(1000)
    result = verify(embeddings, same, fars=(far,))
    best = 0.0
    for threshold in np.concatenate([result.scores, [2.0]]):
        accepted = result.scores >= threshold
        if np.mean(accepted[~same]) <= far:
            best = max(best, np.mean(accepted[same]))
    assert result.tar[far] == best


def test_a_far_that_the_impostors_cannot_show_is_nan():
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


def test_norms_do_not_matter():
    embeddings, same = noisy_pairs(100)
    scaled = embeddings * np.random.default_rng(0).uniform(0.1, 50, (200, 1))
    np.testing.assert_allclose(verify(scaled, same).scores, verify(embeddings, same).scores, atol=1e-12)


@pytest.mark.parametrize(
    ("embeddings", "same", "message"),
    [
        (np.ones((9, 2)), np.ones(5), r"\(2n, dim\) for `same` of shape \(n,\). Received: .*\(9, 2\).*\(5,\)"),
        (np.ones((10, 2)), np.ones(5), "both genuine and impostor pairs. Received: 5 genuine and 0 impostor"),
        (np.ones((10, 2)), np.arange(5) > 2, "folds must be between 2 and the number of pairs, 5. Received: folds=10"),
    ],
)
def test_input_of_another_kind_is_refused(embeddings, same, message):
    with pytest.raises(ValueError, match=message):
        verify(embeddings, same)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_embeddings_that_say_nothing_are_named(value):
    embeddings, same = noisy_pairs(100)
    embeddings[[3, 150]] = value
    with pytest.raises(ValueError, match=r"2 of 200 embeddings are zero or not finite. Rows .*: 3, 150"):
        verify(embeddings, same)
