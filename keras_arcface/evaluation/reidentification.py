"""Re-identification across cameras, as on Market-1501 and DukeMTMC-reID."""

import dataclasses

import numpy as np

from keras_arcface.evaluation import ranking
from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.scores import score_blocks
from keras_arcface.evaluation.vectors import l2_normalize

_CMC_RANKS = 50
# Identity of the gallery images that the protocol ignores.
JUNK = -1


@dataclasses.dataclass(frozen=True)
class ReidentificationResult:
    """Result of `reidentify`.

    Attributes:
        mean_average_precision: mAP in its usual form, the mean of the precision at each match.
        mean_average_precision_trapezoid: mAP of the evaluation code of Market-1501, the mean of the precisions at each
            match and at the image before it.
        cmc: `(50,)`, the share of queries with a match among the first k images, for k = 1, 2, ...
        queries: number of queries.
        skipped: number of queries without a match in the gallery, which are not evaluated.

    Examples:
        The match of the only query is the second of three images of another camera:

        >>> gallery = [[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
        >>> result = reidentify([[1.0, 0.0]], [7], [1], gallery, [8, 7, 9], [2, 2, 2], progress=False)
        >>> result.rank(1), result.rank(2)
        (0.0, 1.0)
        >>> result.mean_average_precision, result.mean_average_precision_trapezoid
        (0.5, 0.25)
    """

    mean_average_precision: float
    mean_average_precision_trapezoid: float
    cmc: np.ndarray
    queries: int
    skipped: int

    def __repr__(self) -> str:
        rates = {"mean_average_precision": self.mean_average_precision, "rank_1": self.rank(1), "rank_5": self.rank(5)}
        return format_result(self, **rates, queries=self.queries, skipped=self.skipped)

    def rank(self, k: int) -> float:
        """Returns the share of queries with a match among the first k images.

        Args:
            k: rank in [1, 50]; 1 for the first image.

        Returns:
            The share, in [0, 1].

        Raises:
            ValueError: if `k` is outside of [1, 50].
        """
        return ranking.cmc_at(self.cmc, k)


def reidentify(
    query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras, progress: bool = True
) -> ReidentificationResult:
    """Searches each query's identity among the gallery images of other cameras, by cosine.

    This is the protocol of Market-1501 and DukeMTMC-reID, whose images `data.CameraFolder` reads.
    Gallery images with the query's identity and camera are ignored, as are those with identity -1 (junk). An image
    with the same score as a match ranks before it.

    Args:
        query: `(n, dim)` embeddings, of any norm.
        query_ids: `(n,)` int, the identities of the queries. A query with identity -1 is skipped.
        query_cameras: `(n,)` int, the cameras of the queries.
        gallery: `(m, dim)` embeddings, of any norm.
        gallery_ids: `(m,)` int, the identities of the gallery images.
        gallery_cameras: `(m,)` int, the cameras of the gallery images.
        progress: if true, shows a progress bar.

    Returns:
        A `ReidentificationResult`.

    Raises:
        ValueError: if the shapes do not match, identities or cameras are not integers, an embedding is zero or not
            finite (the error names its row), or no query has a match in the gallery.

    Examples:
        The gallery contains the query's identity 7 twice. The first image, of the same camera, is ignored:

        >>> gallery = [[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]
        >>> reidentify([[1.0, 0.1]], [7], [1], gallery, [7, 7, 8], [1, 2, 2], progress=False)
        ReidentificationResult(mean_average_precision=1.0000, rank_1=1.0000, rank_5=1.0000, queries=1, skipped=0)

    References:
        - [Scalable Person Re-identification: A Benchmark](https://www.cv-foundation.org/openaccess/content_iccv_2015/papers/Zheng_Scalable_Person_Re-Identification_ICCV_2015_paper.pdf)
    """
    query, gallery = l2_normalize(query, "query"), l2_normalize(gallery, "gallery")
    query_ids = check_labels(query_ids, query, "query_ids", "query")
    query_cameras = check_labels(query_cameras, query, "query_cameras", "query")
    gallery_ids = check_labels(gallery_ids, gallery, "gallery_ids", "gallery")
    gallery_cameras = check_labels(gallery_cameras, gallery, "gallery_cameras", "gallery")
    rows_of = ranking.RowsByLabel(gallery_ids)
    junk = rows_of[JUNK]
    first_ranks, precisions, trapezoids = [], [], []
    for rows, scores in score_blocks(query, gallery, progress="re-identification" if progress else None):
        for index, row in zip(range(rows.start, rows.stop), scores, strict=True):
            same_id = rows_of[query_ids[index]] if query_ids[index] != JUNK else junk[:0]
            same_camera = gallery_cameras[same_id] == query_cameras[index]
            if same_camera.all():
                continue
            ranks = ranking.ranks_of_mates(row, same_id[~same_camera], np.concatenate([same_id[same_camera], junk]))
            first_ranks.append(ranks[0])
            precisions.append(ranking.average_precision(ranks))
            trapezoids.append(ranking.average_precision_trapezoid(ranks))
    if not first_ranks:
        raise ValueError(
            "query_ids must contain an identity that has a gallery image from another camera. "
            f"Received: {len(query)} queries without a match among {len(gallery)} gallery images"
        )
    return ReidentificationResult(
        mean_average_precision=float(np.mean(precisions)),
        mean_average_precision_trapezoid=float(np.mean(trapezoids)),
        cmc=ranking.cmc_curve(first_ranks, _CMC_RANKS),
        queries=len(first_ranks),
        skipped=len(query) - len(first_ranks),
    )
