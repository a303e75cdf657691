"""Pooling and verification of templates (sets of images of a person), as in IJB-B, IJB-C and YouTube Faces."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.input_checks import check_pairs
from keras_arcface.evaluation.input_checks import check_same
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import RocMetricsMixin
from keras_arcface.evaluation.roc import drop_nan_rates
from keras_arcface.evaluation.scores import pair_scores
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.evaluation.vectors import l2_norms
from keras_arcface.evaluation.verification import FARS

_IMAGES_PER_CHUNK = 32768


def pool_templates(
    embeddings, templates, media=None, weight_by_norm: bool = True, detector_scores=None
) -> tuple[np.ndarray, np.ndarray]:
    """Pools the embeddings of the images of each template.

    A pooled embedding is the L2-normalized sum, over the media of a template, of the mean over the images of a medium
    (the frames of a video), as published for IJB-B and IJB-C. Without `media`, it is the L2-normalized mean of all
    images, as for the videos of YTF. The `flip` argument of `embed_images` adds mirrored images.

    Args:
        embeddings: `(n, dim)` embeddings of images, not normalized.
        templates: `(n,)` int, the template id of each image.
        media: `(n,)` int, the medium of each image within its template; None for a single medium.
        weight_by_norm: if true, the weight of an image is the norm of its embedding. If false, all weights are equal.
        detector_scores: `(n,)` confidences of the face detector, which multiply the weights; None for no such factors.

    Returns:
        `(ids, pooled)`: the template ids, ascending, `(t,)`, and the embeddings of the templates, `(t, dim)` float32,
        L2-normalized.

    Raises:
        ValueError: if the shapes do not match, ids are not integers, a detector score is not finite, an embedding is
            zero or not finite (the error names its row), or the sum of a template is zero (the error names the
            template).

    Examples:
        Template 7 has a photo (medium 0) and two frames of a video (medium 1), which count as one image:

        >>> embeddings = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [3.0, 4.0]]
        >>> ids, pooled = pool_templates(embeddings, templates=[7, 7, 7, 9], media=[0, 1, 1, 0])
        >>> ids
        array([7, 9])
        >>> pooled.round(3)
        array([[0.707, 0.707],
               [0.6  , 0.8  ]], dtype=float32)

        The mean embeddings of two videos of YouTube Faces, for `verify(videos, same, pairs=pairs)`:

        >>> ids, videos = pool_templates(embeddings, templates=[0, 0, 1, 1], weight_by_norm=False)
        >>> videos.shape
        (2, 2)

    References:
        - [IARPA Janus Benchmark - C](https://ieeexplore.ieee.org/document/8411217)
    """
    embeddings = np.asarray(embeddings)
    norms = l2_norms(embeddings, "embeddings")
    templates = check_labels(templates, embeddings, "templates", "embeddings")
    media = np.zeros_like(templates) if media is None else check_labels(media, embeddings, "media", "embeddings")
    weights = np.ones(len(embeddings)) if detector_scores is None else np.asarray(detector_scores, np.float64)
    if weights.shape != templates.shape or not np.isfinite(weights).all():
        raise ValueError(
            f"detector_scores must be finite numbers of shape ({len(embeddings)},), one for each row of embeddings. "
            f"Received: shape {weights.shape}, {np.sum(~np.isfinite(weights))} not finite"
        )
    if not weight_by_norm:
        weights = weights / norms
    order = np.lexsort((media, templates))
    ids, template_starts = np.unique(templates[order], return_index=True)
    media_starts = _starts_of_runs(templates[order], media[order])
    pooled = _pool(embeddings, weights, order, template_starts, media_starts)
    return ids, l2_normalize(pooled, "pooled templates", lambda row: f"template {ids[row]}")


def _pool(embeddings, weights, order, template_starts, media_starts) -> np.ndarray:
    """Returns the sum, over the media of each template, of the weighted mean over the images of a medium.

    Args:
        embeddings: `(n, dim)`.
        weights: `(n,)`, the weight of each image.
        order: `(n,)`, rows sorted by template, then by medium.
        template_starts: `(t,)`, the first position of each template in `order`.
        media_starts: first position of each medium of a template in `order`.
    """
    images_per_medium = np.diff(np.append(media_starts, len(order)))
    pooled = np.empty((len(template_starts), embeddings.shape[1]), np.float32)
    ends = np.append(template_starts[1:], len(order))
    first = 0
    while first < len(template_starts):  # chunks of whole templates limit the memory
        begin = template_starts[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + _IMAGES_PER_CHUNK, "right")))
        end = ends[last - 1]
        rows = order[begin:end]
        chunk = embeddings[rows].astype(np.float32)
        chunk *= weights[rows, None].astype(np.float32)
        in_chunk = slice(*np.searchsorted(media_starts, (begin, end)))
        means = np.add.reduceat(chunk, media_starts[in_chunk] - begin) / images_per_medium[in_chunk, None]
        pooled[first:last] = np.add.reduceat(
            means, np.searchsorted(media_starts[in_chunk], template_starts[first:last])
        )
        first = last
    return pooled


def _starts_of_runs(*keys: np.ndarray) -> np.ndarray:
    """Returns the first position of each run of equal key combinations."""
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.append(True, changes))


@dataclasses.dataclass(frozen=True)
class TemplateResult(RocMetricsMixin):
    """Result of `verify_templates`.

    Attributes:
        tar: true accept rate by false accept rate (FAR): the largest one of any threshold whose FAR is at most this
            rate. NaN if there are fewer than `1 / far` impostor pairs.
        tar_published: true accept rate by FAR, at the point of the ROC curve with the nearest FAR, higher or lower, as
            published for IJB-B and IJB-C. NaN if there are fewer than `1 / far` impostor pairs.
        auc: area under the ROC curve.
        eer: equal error rate.
        roc: ROC curve of all pairs.

    Examples:
        >>> pairs, same = [[1, 2], [1, 3], [2, 3]], [True, False, False]
        >>> result = verify_templates([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [1, 2, 3], pairs, same, progress=False)
        >>> result.auc
        1.0
        >>> result.at_far(0.5).impostors
        2
    """

    tar: dict[float, float]
    tar_published: dict[float, float]
    roc: Roc

    def __repr__(self) -> str:
        pairs = {"genuine": len(self.roc.genuine), "impostor": len(self.roc.impostor)}
        return format_result(self, auc=self.auc, eer=self.eer, tar=drop_nan_rates(self.tar), **pairs)


def verify_templates(pooled, ids, pairs, same, fars: Iterable[float] = FARS, progress: bool = True) -> TemplateResult:
    """Compares pairs of templates by cosine, as in IJB-B and IJB-C 1:1.

    `data.IjbSet` reads the images, templates and pairs of these benchmarks.

    Args:
        pooled: `(t, dim)` embeddings of templates, of any norm, from `pool_templates`.
        ids: `(t,)` int, the template ids, ascending.
        pairs: `(n, 2)` int, pairs of template ids.
        same: `(n,)` bool, a mask of the pairs of the same person.
        fars: false accept rates for the true accept rates.
        progress: if true, shows a progress bar.

    Returns:
        A `TemplateResult`.

    Raises:
        ValueError: if the shapes do not match, `ids` is not ascending, an embedding is zero or not finite (the error
            names its row), a pair has an unknown template id, a FAR is outside (0, 1], or there are not both genuine
            and impostor pairs.

    Examples:
        >>> embeddings = [[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0]]
        >>> ids, pooled = pool_templates(embeddings, templates=[1, 1, 2, 3])
        >>> pairs, same = [[2, 3], [1, 2], [1, 3]], [True, False, False]
        >>> verify_templates(pooled, ids, pairs, same, fars=(0.5,), progress=False)
        TemplateResult(auc=1.0000, eer=0.0000, tar={0.5: 1.0000}, genuine=1, impostor=2)

    References:
        - [IARPA Janus Benchmark - C](https://ieeexplore.ieee.org/document/8411217)
    """
    embeddings = l2_normalize(pooled, "pooled")
    ids = check_labels(ids, embeddings, "ids", "pooled")
    descents = np.flatnonzero(np.diff(ids) <= 0)
    if len(descents):
        raise ValueError(
            "ids must be ascending, as pool_templates returns them. "
            f"Received: ids[{descents[0]}]={ids[descents[0]]}, ids[{descents[0] + 1}]={ids[descents[0] + 1]}"
        )
    pair_ids = np.asarray(pairs)
    rows = check_pairs(np.minimum(np.searchsorted(ids, pair_ids), len(ids) - 1), len(ids))
    unknown = np.flatnonzero(ids[rows].ravel() != pair_ids.ravel())
    if len(unknown):
        raise ValueError(
            f"pairs must contain template ids that are in ids ({len(ids)} templates). "
            f"Received: pairs[{unknown[0] // 2}]={pair_ids[unknown[0] // 2].tolist()}"
        )
    same, fars = check_same(same, len(rows)), check_fars(fars)
    roc = Roc.from_pairs(pair_scores(embeddings, rows, progress="pairs" if progress else None), same)
    return TemplateResult(
        tar={far: roc.tar_at(far) for far in fars},
        tar_published={far: roc.tar_at_nearest_far(far) for far in fars},
        roc=roc,
    )
