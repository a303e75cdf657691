"""Retrieval, compared with a plain implementation and with pytorch-metric-learning."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from keras_arcface.evaluation import clustering_nmi
from keras_arcface.evaluation import retrieve


def clusters(classes=30, spread=0.9, dim=12, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), generator.integers(1, 9, classes))
    embeddings = generator.normal(size=(classes, dim))[labels] + spread * generator.normal(size=(len(labels), dim))
    order = generator.permutation(len(labels))
    return embeddings[order], labels[order]


def plain_retrieval(embeddings, labels, ks):
    """Sorts all images for each query, as in the definitions."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    recalls, at_r = {k: [] for k in ks}, []
    for query in range(len(unit)):
        others = [i for i in range(len(unit)) if i != query]
        relevant = sum(labels[i] == labels[query] for i in others)
        if not relevant:
            continue
        answers = sorted(others, key=lambda i, query=query: -float(unit[query] @ unit[i]))
        hits = [labels[i] == labels[query] for i in answers]
        for k in ks:
            recalls[k].append(any(hits[:k]))
        precisions = [sum(hits[: i + 1]) / (i + 1) if hits[i] else 0.0 for i in range(relevant)]
        at_r.append(sum(precisions) / relevant)
    return {k: np.mean(values) for k, values in recalls.items()}, np.mean(at_r), len(at_r)


def test_matches_plain_implementation():
    embeddings, labels = clusters()
    result = retrieve(embeddings, labels, ks=(1, 2, 4, 8), progress=False)
    recalls, map_at_r, queries = plain_retrieval(embeddings, labels, (1, 2, 4, 8))
    assert result.recall == recalls
    assert result.map_at_r == pytest.approx(map_at_r, abs=1e-12)
    assert (result.queries, result.skipped) == (queries, len(labels) - queries)
    assert result.skipped > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_matches_pytorch_metric_learning():
    torch = pytest.importorskip("torch", reason="the peer needs PyTorch, which is absent")
    pytest.importorskip("pytorch_metric_learning", reason="the peer pytorch-metric-learning is absent")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    embeddings, labels = clusters(classes=60, spread=1.1, seed=1)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def k_means(rows, count, *_):
        model = KMeans(count, init="random", n_init=1, max_iter=20, random_state=0)
        return torch.tensor(model.fit_predict(rows.numpy().astype(np.float32)))

    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r", "r_precision", "NMI"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=k_means,
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(torch.tensor(unit), torch.tensor(labels))
    ours = retrieve(embeddings, labels, progress=False)
    differences = {
        "Recall@1": abs(ours.recall[1] - theirs["precision_at_1"]),
        "mAP@R": abs(ours.map_at_r - theirs["mean_average_precision_at_r"]),
        "R-precision": abs(ours.r_precision - theirs["r_precision"]),
        "NMI": abs(clustering_nmi(embeddings, labels) - theirs["NMI"]),
    }
    print({name: f"{difference:.1e}" for name, difference in differences.items()})
    assert max(differences.values()) < 1e-6


def test_separate_gallery():
    embeddings, labels = clusters(spread=0.5)
    result = retrieve(embeddings, labels, ks=(1,), gallery=embeddings, gallery_labels=labels, progress=False)
    assert (result.recall[1], result.skipped) == (1.0, 0)  # each finds itself


def test_constant_embedding_finds_nothing():
    _, labels = clusters()
    result = retrieve(np.ones((len(labels), 8)), labels, ks=(1,), progress=False)
    assert (result.recall[1], result.map_at_r) == (0.0, 0.0)


@pytest.mark.parametrize("ks", [(), (0, 1)])
def test_invalid_ks(ks):
    with pytest.raises(ValueError, match="ks must be one or more integers of at least 1"):
        retrieve(*clusters(), ks=ks, progress=False)


def test_nmi_matches_formula():
    embeddings, labels = clusters(classes=10, spread=1.5)
    found = KMeans(10, init="random", n_init=1, max_iter=20, random_state=3).fit_predict(
        (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    )
    table = np.zeros((10, 10))
    np.add.at(table, (labels, found), 1 / len(labels))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    information = sum(
        table[i, j] * np.log(table[i, j] / (rows[i] * columns[j])) for i in range(10) for j in range(10) if table[i, j]
    )
    entropies = [-np.sum(p[p > 0] * np.log(p[p > 0])) for p in (rows, columns)]
    assert clustering_nmi(embeddings, labels, seed=3) == pytest.approx(information / np.mean(entropies), abs=1e-12)
    assert normalized_mutual_info_score(labels, found) == pytest.approx(information / np.mean(entropies), abs=1e-12)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.ones((3, 2)), np.array([0, 1]), r"labels must be integers of shape \(3,\), one for each row of embeddings"),
        (np.ones((3, 2)), np.array([0.0, 1, 1]), "Received: shape \\(3,\\), float64"),
        (np.ones((3, 2)), np.arange(3), "3 queries of 3 classes without a match among 3 images"),
        (
            np.array([[1, 0], [np.nan, 0], [0, 0]]),
            np.zeros(3, int),
            "embeddings must .* 2 of 3 rows .*: row 1, row 2",
        ),
        (np.ones(3), np.zeros(3, int), r"embeddings must be numbers of shape \(n, dim\).*Received: shape \(3,\)"),
    ],
)
def test_invalid_arguments(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        retrieve(embeddings, labels, progress=False)
