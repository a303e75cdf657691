"""Templates: several images and video frames of a person, compared as one, as in IJB-B, IJB-C and YouTube Faces."""

import dataclasses

import numpy as np

from keras_arcface.evaluation.representation import represent
from keras_arcface.evaluation.roc import OfCurve
from keras_arcface.evaluation.roc import Roc
from keras_arcface.evaluation.roc import measured
from keras_arcface.evaluation.scores import pair_scores
from keras_arcface.evaluation.vectors import false_accept_rates
from keras_arcface.evaluation.vectors import genuine_and_impostor
from keras_arcface.evaluation.vectors import labels_for
from keras_arcface.evaluation.vectors import pairs_of_rows
from keras_arcface.evaluation.vectors import row_norms
from keras_arcface.evaluation.vectors import unit_rows
from keras_arcface.evaluation.verification import FARS

_IMAGES_AT_ONCE = 32768


def pool_templates(embeddings, templates, media=None, keep_norm=True, detector_scores=None):
    """Makes one embedding of the images of each template.

    As published for IJB-B and IJB-C: the mean of the images of one medium (of the frames of one video), then the sum
    over a template's media, then L2-normalized. Without `media`, the mean of all images, as for the videos of YTF.
    The published option of the mirror image is one of embedding: see `embed_images`.

    Args:
        embeddings: `(n, dim)` of images, mirror-summed or not, not normalized.
        templates: `(n,)` int, the template of each image.
        media: `(n,)` int, the medium of each image within its template; None for one medium.
        keep_norm: whether an image weighs by the norm of its embedding, or all weigh the same.
        detector_scores: `(n,)`, to weigh images by how sure the detector was of the face; None for no such weight.

    Returns:
        `(ids, pooled)`: the templates' numbers, ascending, `(t,)`, and their embeddings, `(t, dim)` float32,
        L2-normalized.

    Raises:
        ValueError: if the shapes do not fit, or an embedding is zero or not finite (named by its row), or a template
            sums up to zero (named by its number).
    """
    embeddings = np.asarray(embeddings)
    norms = row_norms(embeddings, "embeddings")
    templates = labels_for(templates, embeddings, "templates", "embeddings")
    media = np.zeros_like(templates) if media is None else labels_for(media, embeddings, "media", "embeddings")
    weights = np.ones(len(embeddings)) if detector_scores is None else np.asarray(detector_scores, np.float64)
    if weights.shape != templates.shape or not np.isfinite(weights).all():
        raise ValueError(
            f"detector_scores must be finite numbers of shape ({len(embeddings)},), one for each row of embeddings. "
            f"Received: shape {weights.shape}, {np.sum(~np.isfinite(weights))} not finite"
        )
    if not keep_norm:
        weights = weights / norms
    order = np.lexsort((media, templates))
    media_starts = _starts(templates[order], media[order])
    ids, template_starts = np.unique(templates[order], return_index=True)
    images = np.diff(np.append(media_starts, len(order)))
    pooled = np.empty((len(ids), embeddings.shape[1]), np.float32)
    first = 0
    while first < len(ids):  # whole templates, so many that their images fit
        last = max(first + 1, np.searchsorted(template_starts, template_starts[first] + _IMAGES_AT_ONCE, "right") - 1)
        begin, end = template_starts[first], template_starts[last] if last < len(ids) else len(order)
        rows = order[begin:end]
        chunk = embeddings[rows].astype(np.float32)
        chunk *= weights[rows, None].astype(np.float32)
        media_here = slice(*np.searchsorted(media_starts, (begin, end)))
        means = np.add.reduceat(chunk, media_starts[media_here] - begin) / images[media_here, None]
        pooled[first:last] = np.add.reduceat(
            means, np.searchsorted(media_starts[media_here], template_starts[first:last])
        )
        first = last
    return ids, unit_rows(pooled, "pooled templates", lambda row: f"template {ids[row]}")


def _starts(*keys):
    new = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.append(True, new))


@dataclasses.dataclass(frozen=True)
class TemplateResult(OfCurve):
    """What `verify_templates` found.

    Attributes:
        tar: for a false accept rate, the largest true accept rate of any threshold whose own false accept rate is not
            above it. NaN where there are fewer impostor pairs than `1 / far`: not measurable.
        tar_published: the true accept rate at the point of the ROC curve whose false accept rate is nearest, above it
            or below, as the published figures of IJB-B and IJB-C are made. NaN as of `tar`.
        auc: area under the ROC curve.
        eer: equal error rate.
        roc: the whole curve, a `Roc`.
    """

    tar: dict[float, float]
    tar_published: dict[float, float]
    roc: Roc

    def __repr__(self) -> str:
        pairs = {"genuine": len(self.roc.genuine), "impostor": len(self.roc.impostor)}
        return represent(self, auc=self.auc, eer=self.eer, tar=measured(self.tar), **pairs)


def verify_templates(pooled, ids, pairs, same, fars=FARS, progress: bool = True) -> TemplateResult:
    """Compares pairs of templates, as in IJB-B and IJB-C 1:1.

    Args:
        pooled: `(t, dim)` embeddings of templates, any norm, as `pool_templates` gives them.
        ids: `(t,)` int, the templates' numbers, ascending.
        pairs: `(n, 2)` int, pairs of templates' numbers.
        same: `(n,)` bool, whether a pair shows one person.
        fars: the false accept rates at which to give the true accept rate.
        progress: whether to show a progress bar.

    Returns:
        A `TemplateResult`.

    Raises:
        ValueError: if the shapes do not fit, a pair names a template that is not there, or all pairs are of one kind.
    """
    unit = unit_rows(pooled, "pooled")
    ids = labels_for(ids, unit, "ids", "pooled")
    if (np.diff(ids) <= 0).any():
        after = np.flatnonzero(np.diff(ids) <= 0)[0]
        raise ValueError(
            f"ids must be ascending, as pool_templates gives them. Received: {ids[after]}, then {ids[after + 1]}"
        )
    numbers = np.asarray(pairs)
    rows = pairs_of_rows(np.minimum(np.searchsorted(ids, numbers), len(ids) - 1), len(ids))
    unknown = np.flatnonzero(ids[rows].ravel() != numbers.ravel())
    if len(unknown):
        raise ValueError(
            f"Pair {unknown[0] // 2} names template {numbers.ravel()[unknown[0]]}, which is not among the {len(ids)} "
            "templates of ids"
        )
    same, fars = genuine_and_impostor(same, len(rows)), false_accept_rates(fars)
    scores = pair_scores(unit, rows, progress="pairs" if progress else None)
    roc = Roc.of_pairs(scores, same)
    return TemplateResult(
        tar={far: roc.tar_at(far) for far in fars},
        tar_published={far: roc.nearest_tar(far) for far in fars},
        roc=roc,
    )
