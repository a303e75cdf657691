"""Re-identification, as on Market-1501 and DukeMTMC-reID: the same identity, seen by another camera."""

import dataclasses

import numpy as np

from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import labels_for
from keras_arcface.evaluation.vectors import unit_rows

_CMC_UP_TO = 50
JUNK = -1


@dataclasses.dataclass(frozen=True)
class ReidentificationResult:
    """What `reidentify` found, over all queries.

    Attributes:
        mean_average_precision: mAP, with the precision at each right answer, as the field reports it.
        mean_average_precision_trapezoid: mAP as Market-1501's own program has it: the mean of the precision at each
            right answer and just before it.
        cmc: `(50,)`, the share of queries with a right answer among the first k, for k = 1 and on.
        queries: how many there are.
        skipped: how many have no right answer in the gallery, and count for nothing.
    """

    mean_average_precision: float
    mean_average_precision_trapezoid: float
    cmc: np.ndarray
    queries: int
    skipped: int

    def __repr__(self) -> str:
        rates = {"mean_average_precision": self.mean_average_precision, "rank_1": self.rank(1), "rank_5": self.rank(5)}
        return represent(self, **rates, queries=self.queries, skipped=self.skipped)

    def rank(self, k: int) -> float:
        """The share of queries with a right answer among the first k."""
        return ranking.at_rank(self.cmc, k)


def reidentify(
    query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras, progress=True
) -> ReidentificationResult:
    """Looks for each query's identity in images of other cameras, by cosine.

    Gallery images of the query's identity and camera are passed over, as are those of identity -1 (junk). An image that
    scores as high as a right one counts as standing before it.

    Args:
        query: `(n, dim)` embeddings, any norm.
        query_ids, query_cameras: `(n,)` int.
        gallery: `(m, dim)`.
        gallery_ids, gallery_cameras: `(m,)` int.
        progress: whether to show a progress bar.

    Returns:
        A `ReidentificationResult`.

    Raises:
        ValueError: if the shapes do not fit, an embedding is zero or not finite (named by its row), or no query has
            a right answer in the gallery.

    References:
        - [Scalable Person Re-identification: A Benchmark](https://www.cv-foundation.org/openaccess/content_iccv_2015/papers/Zheng_Scalable_Person_Re-Identification_ICCV_2015_paper.pdf)
    """
    query, gallery = unit_rows(query, "query"), unit_rows(gallery, "gallery")
    query_ids = labels_for(query_ids, query, "query_ids", "query")
    query_cameras = labels_for(query_cameras, query, "query_cameras", "query")
    gallery_ids = labels_for(gallery_ids, gallery, "gallery_ids", "gallery")
    gallery_cameras = labels_for(gallery_cameras, gallery, "gallery_cameras", "gallery")
    members = ranking.Members(gallery_ids)
    junk = members[JUNK]
    first_ranks, precisions, trapezoids = [], [], []
    for rows, scores in score_blocks(query, gallery, progress="re-identification" if progress else None):
        for index, row in zip(range(rows.start, rows.stop), scores, strict=True):
            alike = members[query_ids[index]] if query_ids[index] != JUNK else junk[:0]
            same_camera = gallery_cameras[alike] == query_cameras[index]
            if same_camera.all():
                continue
            ranks = ranking.ranks_of_mates(row, alike[~same_camera], np.concatenate([alike[same_camera], junk]))
            first_ranks.append(ranks[0])
            precisions.append(ranking.average_precision(ranks))
            trapezoids.append(ranking.average_precision_trapezoid(ranks))
    if not first_ranks:
        raise ValueError(
            "Re-identification needs queries whose identity another camera of the gallery saw. "
            f"Received: {len(query)} queries, none with one among {len(gallery)} gallery images"
        )
    return ReidentificationResult(
        mean_average_precision=float(np.mean(precisions)),
        mean_average_precision_trapezoid=float(np.mean(trapezoids)),
        cmc=ranking.cumulative_match(np.array(first_ranks), _CMC_UP_TO),
        queries=len(first_ranks),
        skipped=len(query) - len(first_ranks),
    )
