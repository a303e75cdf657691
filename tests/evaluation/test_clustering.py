"""Figures of clusters, compared with scikit-learn and with a slow program from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from keras_arcface.evaluation import results_table
from keras_arcface.evaluation import score_clusters
from keras_arcface.evaluation import to_json

# Rows of (label, cluster).
PARTITIONS = st.lists(st.tuples(st.integers(-2, 4), st.integers(-1, 4)), min_size=1, max_size=30)


def by_definition(labels, clusters):
    """Iterates over all pairs and images, with noise as clusters of one image."""
    n = len(labels)
    clusters = [("noise", i) if cluster == -1 else cluster for i, cluster in enumerate(clusters)]
    pairs = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i in range(n) for j in range(i)]
    both = sum(same and together for same, together in pairs)
    precisions, recalls = [], []
    for i in range(n):
        own_cluster = [j for j in range(n) if clusters[j] == clusters[i]]
        own_class = [j for j in range(n) if labels[j] == labels[i]]
        common = len(set(own_cluster) & set(own_class))
        precisions.append(common / len(own_cluster))
        recalls.append(common / len(own_class))
    num_together, num_same = sum(together for _, together in pairs), sum(same for same, _ in pairs)
    return {
        "pairwise_precision": both / num_together if num_together else math.nan,
        "pairwise_recall": both / num_same if num_same else math.nan,
        "bcubed_precision": sum(precisions) / n,
        "bcubed_recall": sum(recalls) / n,
    }


@given(PARTITIONS)
def test_matches_definitions(rows):
    labels, clusters = zip(*rows, strict=True)
    result = score_clusters(labels, clusters)
    expected = by_definition(labels, clusters)
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12, nan_ok=True), name
    for kind in ("pairwise", "bcubed"):
        precision, recall = expected[f"{kind}_precision"], expected[f"{kind}_recall"]
        undefined = math.isnan(precision) and math.isnan(recall)
        if math.isnan(precision) or math.isnan(recall) or precision + recall == 0:
            harmonic = math.nan if undefined else 0.0
        else:
            harmonic = 2 * precision * recall / (precision + recall)
        assert getattr(result, f"{kind}_f") == pytest.approx(harmonic, abs=1e-12, nan_ok=True)
    assert result.noise == clusters.count(-1)
    assert result.clusters == len(set(clusters) - {-1})
    assert (result.classes, result.images) == (len(set(labels)), len(labels))


@given(PARTITIONS)
def test_matches_scikit_learn(rows):
    labels, clusters = (np.array(column) for column in zip(*rows, strict=True))
    result = score_clusters(labels, clusters)
    singletons = np.where(clusters == -1, 100 + np.arange(len(clusters)), clusters)
    assert result.nmi == pytest.approx(normalized_mutual_info_score(labels, singletons), abs=1e-12)
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(labels, singletons)
    if true_positive:
        assert result.pairwise_precision == true_positive / (true_positive + false_positive)
        assert result.pairwise_recall == true_positive / (true_positive + false_negative)


def test_many_images():
    generator = np.random.default_rng(0)
    labels, clusters = generator.integers(0, 5000, 200_000), generator.integers(-1, 7000, 200_000)
    clusters[:1000] = 3  # more pairs than a 32-bit number of images squared
    result = score_clusters(labels, clusters)
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(
        labels, np.where(clusters == -1, 10_000 + np.arange(200_000), clusters)
    )
    assert result.pairwise_f == pytest.approx(
        2 * true_positive / (2 * true_positive + false_positive + false_negative), abs=1e-15
    )


def test_leaving_out_images_gains_nothing():
    labels = np.repeat(np.arange(5), 4)
    everything, nothing = score_clusters(labels, labels), score_clusters(labels, np.full(20, -1))
    assert (everything.pairwise_f, everything.bcubed_f, everything.nmi) == (1.0, 1.0, 1.0)
    assert (nothing.pairwise_f, nothing.bcubed_precision, nothing.bcubed_recall) == (0.0, 1.0, 0.25)
    assert (nothing.clusters, nothing.noise) == (0, 20)


def test_table_and_json():
    ours, none = score_clusters([0, 0, 1, 1], [0, 0, 0, 1]), score_clusters([0, 0, 1, 1], [-1] * 4)
    table = results_table({"ours": ours, "none": none})
    assert table.columns[1:4] == ["clusters", "noise", "pairwise precision"]
    assert table.columns[-2:] == ["BCubed F", "NMI"]
    assert table.rows == [
        ["ours", "2", "0", "33.33%", "50.00%", "40.00%", "66.67%", "75.00%", "70.59%", "0.3437"],
        ["none", "0", "4", "-", "0.00%", "0.00%", "100.00%", "50.00%", "66.67%", "0.6667"],
    ]
    figures = to_json(none)
    assert figures["pairwise_precision"] is None
    assert figures["bcubed_recall"] == 0.5


@pytest.mark.parametrize(
    ("labels", "clusters", "message"),
    [
        ([0, 1], [0, -2], r"clusters must be integers of at least -1 .*Received: shape \(2,\), int64, minimum -2"),
        ([], [], r"clusters must be integers .*Received: shape \(0,\), float64"),
        ([0, 1], [0.0, 1.0], r"Received: shape \(2,\), float64"),
        ([0, 1], [[0], [1]], r"Received: shape \(2, 1\), int64"),
        ([0, 1, 2], [0, 1], r"labels must be integers of shape \(2,\), one for each row of clusters.*shape \(3,\)"),
        ([0.5, 1], [0, 1], r"labels must be integers .*float64"),
    ],
)
def test_invalid_arguments(labels, clusters, message):
    with pytest.raises(ValueError, match=message):
        score_clusters(labels, clusters)
