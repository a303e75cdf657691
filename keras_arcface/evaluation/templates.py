"""Templates: several images or video frames of a person as one embedding, as in IJB-B, IJB-C and YouTube Faces."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_fars
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.input_checks import check_pairs
from keras_arcface.evaluation.input_checks import check_same
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import RocFigures
from keras_arcface.evaluation.roc import measurable
from keras_arcface.evaluation.scores import pair_scores
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.evaluation.vectors import l2_norms
from keras_arcface.evaluation.verification import FARS

_IMAGES_PER_CHUNK = 32768


def pool_templates(
    embeddings, templates, media=None, weight_by_norm: bool = True, detector_scores=None
) -> tuple[np.ndarray, np.ndarray]:
    """Pools the embeddings of the images of each template.

    As published for IJB-B and IJB-C: the mean of the images of each medium (of the frames of a video), then the sum
    over the media of a template, then L2 normalization. Without `media`, the mean of all images, as for the videos of
    YTF. The published option of mirror images is an option of `embed_images`.

    Args:
        embeddings: `(n, dim)` of images, not normalized.
        templates: `(n,)` int, the template of each image.
        media: `(n,)` int, the medium of each image within its template; None for a single medium.
        weight_by_norm: if true, an image has the norm of its embedding as its weight. If false, all images have the
            same weight.
        detector_scores: `(n,)` confidences of the face detector, further weights of the images; None for no such
            weights.

    Returns:
        `(ids, pooled)`: numbers of the templates, ascending, `(t,)`, and their embeddings, `(t, dim)` float32,
        L2-normalized.

    Raises:
        ValueError: if the shapes do not match, an embedding is zero or not finite (the error names its row), or the sum
            of a template is zero (the error names the template).
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
    """Returns the sum over the media of each template of the mean over the images of each medium.

    Args:
        embeddings: `(n, dim)`.
        weights: `(n,)`, the weight of each image.
        order: `(n,)`, rows sorted by template, then by medium.
        template_starts: `(t,)`, positions in `order` where a template starts.
        media_starts: positions in `order` where a medium of a template starts.
    """
    images_per_medium = np.diff(np.append(media_starts, len(order)))
    pooled = np.empty((len(template_starts), embeddings.shape[1]), np.float32)
    ends = np.append(template_starts[1:], len(order))
    first = 0
    while first < len(template_starts):  # chunks of whole templates, to limit the memory
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
    """Returns the positions where the combination of the keys changes, starting with 0."""
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.append(True, changes))


@dataclasses.dataclass(frozen=True)
class TemplateResult(RocFigures):
    """Result of `verify_templates`.

    Attributes:
        tar: for a false accept rate (FAR), the largest true accept rate of any threshold whose FAR is at most that. NaN
            if there are fewer than `1 / far` impostor pairs, which cannot measure it.
        tar_published: true accept rate at the point of the ROC curve with the nearest FAR, higher or lower, as
            published for IJB-B and IJB-C. NaN as for `tar`.
        auc: area under the ROC curve.
        eer: equal error rate.
        roc: the whole curve, a `Roc`.
    """

    tar: dict[float, float]
    tar_published: dict[float, float]
    roc: Roc

    def __repr__(self) -> str:
        pairs = {"genuine": len(self.roc.genuine), "impostor": len(self.roc.impostor)}
        return format_result(self, auc=self.auc, eer=self.eer, tar=measurable(self.tar), **pairs)


def verify_templates(pooled, ids, pairs, same, fars: Iterable[float] = FARS, progress: bool = True) -> TemplateResult:
    """Compares pairs of templates, as in IJB-B and IJB-C 1:1.

    Args:
        pooled: `(t, dim)` embeddings of templates, any norm, from `pool_templates`.
        ids: `(t,)` int, numbers of the templates, ascending.
        pairs: `(n, 2)` int, pairs of template numbers.
        same: `(n,)` bool, true for pairs of the same person.
        fars: false accept rates for the true accept rates.
        progress: if true, shows a progress bar.

    Returns:
        A `TemplateResult`.

    Raises:
        ValueError: if the shapes do not match, a pair has an unknown template number, or there are not both genuine and
            impostor pairs.
    """
    embeddings = l2_normalize(pooled, "pooled")
    ids = check_labels(ids, embeddings, "ids", "pooled")
    descents = np.flatnonzero(np.diff(ids) <= 0)
    if len(descents):
        raise ValueError(
            "ids must be ascending, as pool_templates returns them. "
            f"Received: {ids[descents[0]]}, then {ids[descents[0] + 1]}"
        )
    numbers = np.asarray(pairs)
    rows = check_pairs(np.minimum(np.searchsorted(ids, numbers), len(ids) - 1), len(ids))
    unknown = np.flatnonzero(ids[rows].ravel() != numbers.ravel())
    if len(unknown):
        raise ValueError(
            f"pairs must contain template numbers that are in ids ({len(ids)} templates). "
            f"Received: {numbers.ravel()[unknown[0]]} in pair {unknown[0] // 2}"
        )
    same, fars = check_same(same, len(rows)), check_fars(fars)
    roc = Roc.from_pairs(pair_scores(embeddings, rows, progress="pairs" if progress else None), same)
    return TemplateResult(
        tar={far: roc.tar_at(far) for far in fars},
        tar_published={far: roc.tar_at_nearest(far) for far in fars},
        roc=roc,
    )
