import numpy as np
import pytest

from keras_arcface.evaluation import ranking


@pytest.mark.parametrize("mates", [1, 2, 7])
@pytest.mark.parametrize("decimals", [1, 9])
def test_ranks_are_those_of_a_sorted_list(mates, decimals):
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = np.round(generator.normal(size=40), decimals).astype(np.float32)
        chosen = generator.permutation(40)
        own, ignored = chosen[:mates], chosen[mates : mates + 5]
        # Everything that counts, best first; of equal scores the mates last.
        listed = sorted(
            (i for i in range(40) if i not in ignored), key=lambda i, own=own, scores=scores: (-scores[i], i in own)
        )
        expected = [rank for rank, i in enumerate(listed) if i in own]
        assert ranking.ranks_of_mates(scores, own, ignored).tolist() == expected


def test_a_model_that_says_the_same_of_all_finds_nothing():
    assert ranking.ranks_of_mates(np.ones(10), np.array([3, 5])).tolist() == [8, 9]


def test_average_precisions_by_hand():
    ranks = np.array([0, 2, 5])  # right answers in places 1, 3 and 6
    assert ranking.average_precision(ranks) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    # Just before: nothing yet (1), 1 of 2, 2 of 5.
    assert ranking.average_precision_trapezoid(ranks) == pytest.approx(
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    )
    assert ranking.average_precision_at_r(ranks) == pytest.approx((1 + 2 / 3) / 3)
    assert ranking.r_precision(ranks) == pytest.approx(2 / 3)


def test_the_cmc_curve_by_hand():
    np.testing.assert_array_equal(ranking.cumulative_match(np.array([0, 0, 2, 9]), 4), [0.5, 0.5, 0.75, 0.75])


def test_members():
    members = ranking.Members(np.array([7, 5, 7, -1]))
    assert members[7].tolist() == [0, 2]
    assert members[-1].tolist() == [3]
    assert members[6].tolist() == members[8].tolist() == []


@pytest.mark.parametrize("k", [1, 100, 5000])
def test_the_highest_of_a_stream(k):
    generator = np.random.default_rng(0)
    scores = np.round(generator.normal(size=(60, 100_000)), 3).astype(np.float32)
    highest = ranking.HighestScores(k)
    for row in scores:
        highest.add(row)
        assert highest._count <= max(2 * k, 2**20)
    np.testing.assert_array_equal(highest.descending(), np.sort(scores, axis=None)[::-1][:k])
    few = ranking.HighestScores(10)
    few.add(np.array([1.0, 3.0, 2.0], np.float32))
    assert few.descending().tolist() == [3.0, 2.0, 1.0]
