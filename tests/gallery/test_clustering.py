"""Clusters of embeddings, compared with a slow program from the definition and scikit-learn, and their constraints."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN

from keras_arcface.evaluation import score_clusters
from keras_arcface.gallery import cluster
from keras_arcface.gallery import mean_linkage
from keras_arcface.gallery.constraints import ContradictoryPairs


def people(num_people=12, spread=0.35, dim=8, seed=0):
    """Embeddings of people with 1 to 12 images in random order, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_people), np.arange(num_people) % 12 + 1)
    labels = labels[generator.permutation(len(labels))]
    centers = generator.normal(size=(num_people, dim))
    return centers[labels] + spread * generator.normal(size=(len(labels), dim)), labels


def is_same_partition(first, second):
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


def by_definition(embeddings, threshold, must_link, cannot_link):
    """Merges in each round all pairs of clusters that are each other's nearest."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    clusters = [{image} for image in range(len(unit))]
    for a, b in must_link:
        joined = [c for c in clusters if a in c or b in c]
        clusters = [c for c in clusters if c not in joined] + [set().union(*joined)]
    merged = True
    while merged:
        means = [unit[list(images)].mean(axis=0) for images in clusters]
        nearest = []
        for first, images in enumerate(clusters):
            best = (-2.0, -1)
            for second, others in enumerate(clusters):
                apart = any((a in images and b in others) or (b in images and a in others) for a, b in cannot_link)
                if first != second and not apart:
                    cosine = means[first] @ means[second] / np.linalg.norm(means[first]) / np.linalg.norm(means[second])
                    best = max(best, (cosine, second))
            nearest.append(best)
        merged = [
            (first, second)
            for first, (cosine, second) in enumerate(nearest)
            if first < second and nearest[second][1] == first and cosine >= threshold
        ]
        pairs = [clusters[first] | clusters[second] for first, second in merged]
        clusters = [c for i, c in enumerate(clusters) if i not in {i for pair in merged for i in pair}] + pairs
    found = np.empty(len(unit), int)
    for number, images in enumerate(clusters):
        found[list(images)] = number
    return found


@pytest.mark.parametrize("threshold", [0.9, 0.7, 0.5, -1.0])
def test_agglomerative_matches_definition(threshold):
    embeddings, _ = people(30)
    found = cluster(embeddings, threshold=threshold, min_size=1)
    assert is_same_partition(found, by_definition(embeddings, threshold, (), ()))
    assert len(set(found)) > 1 or threshold == -1.0


def test_people_are_found():
    embeddings, labels = people(30, dim=64)
    assert score_clusters(labels, cluster(embeddings)).pairwise_f == 1.0


def test_result_does_not_depend_on_block_size(monkeypatch):
    embeddings, _ = people(30)
    expected = cluster(embeddings, threshold=0.3)
    monkeypatch.setattr(mean_linkage, "_BLOCK_BYTES", 1)
    assert cluster(embeddings, threshold=0.3).tolist() == expected.tolist()


def test_merged_clusters_that_are_nearer_than_their_parts():
    """With few dimensions, this changes which clusters are each other's nearest."""
    for seed in range(20):
        embeddings = np.random.default_rng(seed).normal(size=(60, 3))
        found = cluster(embeddings, threshold=0.5, min_size=1)
        assert is_same_partition(found, by_definition(embeddings, 0.5, (), ()))


def test_cosines_that_differ_by_rounding(monkeypatch):
    """The cosine of two clusters, computed in either order, can differ. Then no two may be each other's nearest."""
    rounds = []

    def find_nearest(rows, columns, means, apart, nearest, cosine):
        rounds.append(len(rows))
        assert len(rounds) < 10
        exact(rows, columns, means, apart, nearest, cosine)
        if len(rounds) == 1:
            nearest[:] = [1, 2, 0]

    exact = mean_linkage._find_nearest
    monkeypatch.setattr(mean_linkage, "_find_nearest", find_nearest)
    assert cluster(np.eye(3) + 1).tolist() == [0, 0, 0]


@given(st.data())
def test_agglomerative_with_constraints_matches_definition(data):
    n = data.draw(st.integers(1, 12))
    embeddings = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(size=(n, 3))
    threshold = data.draw(st.sampled_from([-0.5, 0.0, 0.3, 0.7]))
    must_link, cannot_link = draw_consistent_pairs(data, n)
    found = cluster(embeddings, threshold=threshold, min_size=1, must_link=must_link, cannot_link=cannot_link)
    assert is_same_partition(found, by_definition(embeddings, threshold, must_link, cannot_link))


def draw_consistent_pairs(data, n):
    """Draws pairs that a hidden labeling satisfies."""
    hidden = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=12))
    must_link = [(a, b) for a, b in pairs if hidden[a] == hidden[b]]
    return must_link, [(a, b) for a, b in pairs if hidden[a] != hidden[b]]


@given(st.data(), st.sampled_from(["agglomerative", "hdbscan"]))
def test_constraints_are_kept(data, method):
    """Also with equal images, opposite images and clusters below the minimum size."""
    n = data.draw(st.integers(1, 30))
    points = data.draw(st.lists(st.sampled_from([(1, 0), (1, 0.1), (-1, 0), (0, 1), (0.1, 1)]), min_size=n, max_size=n))
    must_link, cannot_link = draw_consistent_pairs(data, n)
    min_size = data.draw(st.integers(2, 5))
    found = cluster(np.array(points), method, min_size=min_size, must_link=must_link, cannot_link=cannot_link)
    assert found.shape == (n,)
    for a, b in must_link:
        assert a == b or found[a] == found[b] >= 0
    for a, b in cannot_link:
        assert found[a] != found[b] or found[a] == found[b] == -1
    sizes = np.bincount(found[found >= 0]).tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert 0 not in sizes
    linked = {found[a] for a, b in must_link if a != b}
    assert all(size >= min_size or number in linked for number, size in enumerate(sizes))


def test_hdbscan_without_pairs_is_that_of_scikit_learn():
    embeddings, labels = people(20, spread=0.2)
    found = cluster(embeddings, "hdbscan", min_size=3)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = HDBSCAN(min_cluster_size=3, min_samples=1, copy=True).fit_predict(unit.astype(np.float32))
    assert is_same_partition(found, expected)
    assert -1 in found
    assert score_clusters(labels, found).pairwise_f > 0.9


@pytest.mark.parametrize("method", ["agglomerative", "hdbscan"])
def test_one_pair_corrects_a_cluster(method):
    """Two people who look alike are one cluster, which one pair splits into the two."""
    axes = np.eye(8)
    centers = np.stack([axes[0], axes[0] + 0.5 * axes[1], axes[2], axes[3]])
    labels = np.repeat(np.arange(4), 10)
    embeddings = centers[labels] + 0.1 * np.random.default_rng(0).normal(size=(40, 8))
    before = cluster(embeddings, method)
    assert before.tolist() == [0] * 20 + [1] * 10 + [2] * 10
    split = cluster(embeddings, method, cannot_link=[(0, 10)])
    assert score_clusters(labels, split).pairwise_f == 1.0
    joined = cluster(embeddings, method, must_link=[(20, 30)])
    assert joined[20] == joined[30] >= 0
    assert joined[:20].tolist() == [0] * 20


def test_minimum_size_and_order():
    axes = np.eye(4)
    embeddings = axes[[3, 1, 0, 1, 2, 2, 2, 0]]
    assert cluster(embeddings, min_size=1).tolist() == [3, 1, 2, 1, 0, 0, 0, 2]
    assert cluster(embeddings).tolist() == [-1, 1, 2, 1, 0, 0, 0, 2]
    assert cluster(embeddings, min_size=3).tolist() == [-1, -1, -1, -1, 0, 0, 0, -1]
    assert cluster(embeddings, min_size=9).tolist() == [-1] * 8
    # A user's word keeps a cluster that is too small.
    assert cluster(embeddings, min_size=4, must_link=[(0, 1)]).tolist() == [0, 0, -1, 0, -1, -1, -1, -1]


@pytest.mark.parametrize("method", ["agglomerative", "hdbscan"])
def test_no_image_and_one_image(method):
    assert cluster(np.zeros((0, 4)), method).tolist() == []
    assert cluster(np.ones((1, 4)), method).tolist() == [-1]
    assert cluster(np.ones((1, 4)), method).dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dbscan"}, "method must be one of agglomerative, hdbscan. Received: method='dbscan'"),
        ({"threshold": 1.5}, r"threshold must be a cosine in \[-1, 1\]. Received: threshold=1.5"),
        ({"method": "hdbscan", "threshold": 0.4}, 'threshold must be None for method="hdbscan".*threshold=0.4'),
        ({"method": "hdbscan", "min_size": 1}, "min_size must be an integer of at least 2. Received: min_size=1"),
        ({"min_size": 0}, "min_size must be an integer of at least 1"),
        ({"must_link": [(0, 1), (1, 4)]}, r"must_link .* in \[0, 4\). Received: must_link\[1\]=\(1, 4\)"),
        ({"must_link": [(0, 1, 2)]}, r"Received: must_link\[0\]=\(0, 1, 2\)"),
        ({"cannot_link": [(0, 1), [0.0, 1.0]]}, r"Received: cannot_link\[1\]=\[0.0, 1.0\]"),
        ({"cannot_link": [(-1, 1)]}, r"Received: cannot_link\[0\]=\(-1, 1\)"),
        ({"cannot_link": [7]}, r"Received: cannot_link\[0\]=7"),
        ({"cannot_link": [(0, 1), (2, 2)]}, r"Received: cannot_link\[1\]=\(2, 2\), an image and itself"),
        (
            {"must_link": [(0, 1), (3, 2), (1, 2)], "cannot_link": [(3, 0)]},
            r"Received: cannot_link\[0\]=\(3, 0\), which must_link joins, directly or through others",
        ),
        ({"embeddings": [[1.0, 0.0], [np.nan, 0.0]]}, "embeddings must .* row 1"),
        ({"embeddings": [1.0, 0.0]}, r"embeddings must be numbers of shape \(n, dim\)"),
        ({"embeddings": np.zeros((0, 3)), "must_link": [(0, 1)]}, r"Received: must_link\[0\]=\(0, 1\)"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster(**{"embeddings": np.eye(4), **arguments})


def test_contradiction_gives_the_number_of_the_pair():
    with pytest.raises(ContradictoryPairs) as caught:
        cluster(np.eye(4), must_link=[(0, 1), (1, 2)], cannot_link=[(0, 3), (2, 0)])
    assert caught.value.number == 1


def test_hdbscan_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ModuleNotFoundError, match=r"requires sklearn.cluster.*keras-arcface\[clustering\]"):
        cluster(np.eye(8), "hdbscan")
    assert cluster(np.ones((2, 2))).tolist() == [0, 0]
