"""Retrieval and clustering, as on CUB-200-2011, Cars196 and Stanford Online Products."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._optional import optional_import
from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import l2_normalize


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Result of `retrieve`, averaged over all queries.

    Attributes:
        recall: Recall@K by K, the share of queries with an image of their class among the first K images.
        map_at_r: mean average precision over the first R images, where R is the number of other images of the class.
        r_precision: share of images of the class among the first R images.
        queries: number of queries.
        skipped: number of images without another image of their class, which are not queries.

    Examples:
        >>> embeddings = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 1.0]]
        >>> result = retrieve(embeddings, labels=[0, 0, 1, 1, 2], ks=(1, 2), progress=False)
        >>> result
        RetrievalResult(recall={1: 1.0000, 2: 1.0000}, map_at_r=1.0000, r_precision=1.0000, queries=4, skipped=1)
        >>> result.recall[1]
        1.0
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    queries: int
    skipped: int

    def __repr__(self) -> str:
        return format_result(self, **vars(self))


def retrieve(
    embeddings,
    labels,
    ks: Sequence[int] = (1, 2, 4, 8, 10, 100, 1000),
    gallery=None,
    gallery_labels=None,
    progress: bool = True,
) -> RetrievalResult:
    """Searches images of the same class for each image, by cosine.

    Without a gallery, each image is compared with all others, as on CUB-200-2011, Cars196 and Stanford Online Products.
    An image with the same score as a match ranks before it.

    Args:
        embeddings: `(n, dim)` embeddings of the images, of any norm.
        labels: `(n,)` int, the class of each image.
        ks: values of K for Recall@K, integers of at least 1.
        gallery: `(m, dim)` embeddings of a separate gallery, as on In-Shop Clothes; None for no separate gallery.
        gallery_labels: `(m,)` int, the class of each gallery image.
        progress: if true, shows a progress bar.

    Returns:
        A `RetrievalResult`.

    Raises:
        ValueError: if the shapes do not match, labels are not integers, an embedding is zero or not finite (the error
            names its row), `ks` is empty or contains a number below 1, or no query has a match.

    Examples:
        The fourth image is more similar to an image of another class than to the other one of its class:

        >>> embeddings = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.6]]
        >>> result = retrieve(embeddings, labels=[0, 0, 1, 1], ks=(1, 2, 3), progress=False)
        >>> result.recall
        {1: 0.75, 2: 0.75, 3: 1.0}

        A separate gallery:

        >>> gallery = [[0.0, 1.0], [1.0, 1.0]]
        >>> retrieve(embeddings, [0, 0, 1, 1], ks=(1,), gallery=gallery, gallery_labels=[1, 0], progress=False).recall
        {1: 0.75}

    References:
        - [Deep Metric Learning via Lifted Structured Feature Embedding](https://arxiv.org/abs/1511.06452)
        - [A Metric Learning Reality Check](https://arxiv.org/abs/2003.08505)
    """
    check("ks", ks, len(ks) > 0 and min(ks) >= 1, "one or more integers of at least 1")
    queries = l2_normalize(embeddings, "embeddings")
    labels = check_labels(labels, queries, "labels", "embeddings")
    images, image_labels = queries, labels
    if gallery is not None:
        images = l2_normalize(gallery, "gallery")
        image_labels = check_labels(gallery_labels, images, "gallery_labels", "gallery")
    rows_of = ranking.RowsByLabel(image_labels)
    first_ranks, at_r, r_precisions = [], [], []
    for rows, scores in score_blocks(queries, images, progress="retrieval" if progress else None):
        for query, row in zip(range(rows.start, rows.stop), scores, strict=True):
            itself = np.array([query] if gallery is None else [], np.int64)
            matches = np.setdiff1d(rows_of[labels[query]], itself, assume_unique=True)
            if len(matches):
                ranks = ranking.ranks_of_mates(row, matches, itself)
                first_ranks.append(ranks[0])
                at_r.append(ranking.average_precision_at_r(ranks))
                r_precisions.append(ranking.r_precision(ranks))
    if not first_ranks:
        raise ValueError(
            f"labels must contain the class of another image. Received: {len(queries)} queries of "
            f"{len(np.unique(labels))} classes without a match among {len(images)} images"
        )
    cmc = ranking.cmc_curve(first_ranks, max(ks))
    return RetrievalResult(
        recall={k: float(cmc[k - 1]) for k in ks},
        map_at_r=float(np.mean(at_r)),
        r_precision=float(np.mean(r_precisions)),
        queries=len(first_ranks),
        skipped=len(queries) - len(first_ranks),
    )


def clustering_nmi(embeddings, labels, seed: int = 0, iterations: int = 20) -> float:
    """Clusters embeddings by k-means, with one cluster per class, and compares the clusters with the classes.

    The metric is the mutual information divided by the mean of the two entropies. K-means starts from random centers,
    so the result depends slightly on the seed and on the implementation.

    Args:
        embeddings: `(n, dim)`, of any norm.
        labels: `(n,)` int, the class of each embedding.
        seed: seed of the initial centers.
        iterations: maximum number of k-means iterations, at least 1.

    Returns:
        The normalized mutual information (NMI), from 0 (independent) to 1 (identical).

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed. The message says what to install.
        ValueError: if the shapes do not match, labels are not integers, an embedding is zero or not finite (the error
            names its row), or `iterations` is below 1.

    Examples:
        >>> embeddings = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> clustering_nmi(embeddings, labels=[0, 0, 1, 1])
        1.0
    """
    with optional_import("clustering", "clustering_nmi"):
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    normalized = l2_normalize(embeddings, "embeddings")
    labels = check_labels(labels, normalized, "labels", "embeddings")
    k_means = KMeans(len(np.unique(labels)), init="random", n_init=1, max_iter=iterations, random_state=seed)
    return float(normalized_mutual_info_score(labels, k_means.fit_predict(normalized)))
