import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_arcface.evaluation import ranking

# Few distinct values, so that ties are frequent.
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=30).map(lambda values: np.array(values, np.float32))


@settings(max_examples=100, deadline=None)
@given(SCORES, st.data())
def test_ranks_match_a_sorted_list(scores, data):
    order = data.draw(st.permutations(range(len(scores))))
    mates = order[: data.draw(st.integers(1, len(scores)))]
    ignored = order[len(mates) : len(mates) + data.draw(st.integers(0, 5))]
    # Best first. Mates come last among equal scores.
    ranked = sorted(set(order) - set(ignored), key=lambda index: (-scores[index], index in mates))
    expected = [rank for rank, index in enumerate(ranked) if index in mates]
    assert ranking.ranks_of_mates(scores, np.array(mates), np.array(ignored, int)).tolist() == expected


def test_average_precisions_by_hand():
    ranks = np.array([0, 2, 5])  # mates in places 1, 3 and 6
    assert ranking.average_precision(ranks) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    # Precision just before each mate: 1 by definition, 1 of 2, 2 of 5.
    assert ranking.average_precision_trapezoid(ranks) == pytest.approx(
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    )
    assert ranking.average_precision_at_r(ranks) == pytest.approx((1 + 2 / 3) / 3)
    assert ranking.r_precision(ranks) == pytest.approx(2 / 3)


def test_cmc_curve_by_hand():
    np.testing.assert_array_equal(ranking.cmc_curve(np.array([0, 0, 2, 9]), 4), [0.5, 0.5, 0.75, 0.75])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-2, 6), min_size=1, max_size=20), st.integers(-3, 7))
def test_rows_by_label(labels, label):
    rows = ranking.RowsByLabel(np.array(labels))[label]
    assert rows.tolist() == [row for row, other in enumerate(labels) if other == label]


@settings(max_examples=50, deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=20), st.integers(1, 30))
def test_top_scores_of_a_stream(chunks, k):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_MIN_BUFFER", 8)
        top = ranking.TopScores(k)
        for chunk in chunks:
            top.add(chunk)
            assert top._count <= max(2 * k, 8)
        expected = np.sort(np.concatenate(chunks))[::-1][:k]
        np.testing.assert_array_equal(top.descending(), expected)
