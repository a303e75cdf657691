"""Retrieval, as on CUB-200-2011 and Stanford Online Products: every image asks for the others of its class."""

import dataclasses

import numpy as np

from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import labels_for
from keras_arcface.evaluation.vectors import unit_rows


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """What `retrieve` found, means over all queries.

    Attributes:
        recall: for K, the share of queries with an image of their class among the first K answers.
        map_at_r: mean average precision over the first R answers, R being the number of other images of the class.
        r_precision: the share of images of the class among the first R answers.
        queries: how many images asked.
        skipped: how many did not, as they are alone in their class.
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    queries: int
    skipped: int

    def __repr__(self) -> str:
        return represent(self, **vars(self))


def retrieve(
    embeddings, labels, ks=(1, 2, 4, 8, 10, 100, 1000), gallery=None, gallery_labels=None, progress=True
) -> RetrievalResult:
    """Asks with every image for images of its class, by cosine.

    Without a gallery the images are asked of each other, none of itself, as on CUB-200-2011, Cars196 and Stanford
    Online Products. An answer that scores as high as a right one counts as standing before it.

    Args:
        embeddings: `(n, dim)`, any norm.
        labels: `(n,)` int, the class of each.
        ks: the K of Recall@K.
        gallery: `(m, dim)`, to ask of other images instead, as on In-Shop Clothes.
        gallery_labels: `(m,)` int.
        progress: whether to show a progress bar.

    Returns:
        A `RetrievalResult`.

    Raises:
        ValueError: if the shapes do not fit, an embedding is zero or not finite (named by its row), or no query has
            anything to find.

    References:
        - [Deep Metric Learning via Lifted Structured Feature Embedding](https://arxiv.org/abs/1511.06452)
        - [A Metric Learning Reality Check](https://arxiv.org/abs/2003.08505)
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be one or more numbers from 1 on. Received: {ks}")
    queries = unit_rows(embeddings, "embeddings")
    labels = labels_for(labels, queries, "labels", "embeddings")
    answers, answer_labels = queries, labels
    if gallery is not None:
        answers = unit_rows(gallery, "gallery")
        answer_labels = labels_for(gallery_labels, answers, "gallery_labels", "gallery")
    members = ranking.Members(answer_labels)
    first_ranks, at_r, r_precisions = [], [], []
    for rows, scores in score_blocks(queries, answers, progress="retrieval" if progress else None):
        for query, row in zip(range(rows.start, rows.stop), scores, strict=True):
            itself = np.array([query] if gallery is None else [], np.int64)
            mates = np.setdiff1d(members[labels[query]], itself, assume_unique=True)
            if len(mates):
                ranks = ranking.ranks_of_mates(row, mates, itself)
                first_ranks.append(ranks[0])
                at_r.append(ranking.average_precision_at_r(ranks))
                r_precisions.append(ranking.r_precision(ranks))
    if not first_ranks:
        raise ValueError(
            f"Retrieval needs queries with another image of their class. Received: {len(queries)} queries of "
            f"{len(np.unique(labels))} classes, none with a right answer among {len(answers)} images"
        )
    cmc = ranking.cumulative_match(np.array(first_ranks), max(ks))
    return RetrievalResult(
        recall={k: float(cmc[k - 1]) for k in ks},
        map_at_r=float(np.mean(at_r)),
        r_precision=float(np.mean(r_precisions)),
        queries=len(first_ranks),
        skipped=len(queries) - len(first_ranks),
    )


def clustering_nmi(embeddings, labels, seed: int = 0, iterations: int = 20) -> float:
    """Clusters embeddings by k-means into as many clusters as there are classes, and compares clusters with classes.

    Normalized mutual information as the field reports it: divided by the mean of the two entropies. The start of
    k-means is drawn at random, so figures of two seeds differ a little, as do those of two programs.

    Args:
        embeddings: `(n, dim)`, any norm.
        labels: `(n,)` int.
        seed: of the first centers.
        iterations: of k-means, at most.

    Returns:
        From 0 (independent) to 1 (the same).

    Raises:
        ModuleNotFoundError: saying what to install, if scikit-learn is absent.
        ValueError: if the shapes do not fit, or an embedding is zero or not finite (named by its row).
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("NMI needs scikit-learn: pip install 'keras-arcface[clustering]'") from error
    unit = unit_rows(embeddings, "embeddings")
    labels = labels_for(labels, unit, "labels", "embeddings")
    k_means = KMeans(len(np.unique(labels)), init="random", n_init=1, max_iter=iterations, random_state=seed)
    return float(normalized_mutual_info_score(labels, k_means.fit_predict(unit)))
