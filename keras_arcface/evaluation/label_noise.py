"""Which images lie far from where their class is: found by a head with sub-centers, whose noise gathers beside it."""

import math
from dataclasses import dataclass

import numpy as np

from keras_arcface.evaluation import vectors
from keras_arcface.evaluation.representation import represent

# The paper's 75 degrees.
MAX_ANGLE = math.radians(75)

_EXAMPLES_AT_ONCE = 256


@dataclass(frozen=True)
class LabelNoise:
    """What a trained head with sub-centers says of labels.

    Attributes:
        labels: `(n,)` int64, as they are.
        dominant: `(classes,)` int64, of each class the sub-center nearest to most of its images.
        angles: `(n,)` radians between an image and the dominant sub-center of its class.
        nearest: `(n,)` int64, the class whose dominant sub-center is nearest.
        nearest_angles: `(n,)` radians to that.
    """

    labels: np.ndarray
    dominant: np.ndarray
    angles: np.ndarray
    nearest: np.ndarray
    nearest_angles: np.ndarray

    def __repr__(self) -> str:
        sizes = {"images": len(self.labels), "classes": len(self.dominant)}
        return represent(self, **sizes, beyond_max_angle=int(np.sum(self.angles > MAX_ANGLE)))

    def cleaned(self, max_angle=MAX_ANGLE, relabel_below=0.0):
        """The labels without noise.

        Args:
            max_angle: radians; an image farther than this from its class's dominant sub-center has no label of it. The
                paper's 75 degrees by default.
            relabel_below: radians; such an image gets the label of the class that it is nearest to, if it is nearer
                than this. By default none does.

        Returns:
            `(n,)` int64, with -1 for what should be dropped.
        """
        found = np.where(self.nearest_angles < relabel_below, self.nearest, -1)
        return np.where(self.angles <= max_angle, self.labels, found)


def find_label_noise(embeddings, labels, centers) -> LabelNoise:
    """Finds images that are far from the dominant sub-center of their class.

    A head with sub-centers lets a class have several places. The clean images of a person gather at one; what does not
    belong to them goes to the others.

    Args:
        embeddings: float array `(n, dim)`, not necessarily normalized, of the images that the head was trained on.
        labels: integer array `(n,)` in [0, classes).
        centers: float array `(classes, sub-centers, dim)`, or `(classes, dim)`: the trained head's `centers`.

    Returns:
        A `LabelNoise`.

    Raises:
        ValueError: for shapes that do not fit together, labels out of range, or embeddings that are zero or not finite.

    References:
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf), section 3.3
    """
    embeddings, centers = vectors.unit_rows(embeddings, "embeddings"), np.asarray(centers, np.float32)
    labels = vectors.labels_for(labels, embeddings, "labels", "embeddings")
    if centers.ndim == 2:
        centers = centers[:, None]
    if centers.ndim != 3 or centers.shape[2] != embeddings.shape[1]:
        raise ValueError(
            f"centers must be (classes, sub-centers, {embeddings.shape[1]}), as long as the embeddings. "
            f"Received: {centers.shape}"
        )
    classes, subs, _ = centers.shape
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise ValueError(
            f"labels must be in [0, {classes}), the classes of the centers. "
            f"Received: {labels[outside[0]]} for image {outside[0]}"
        )
    centers = centers / np.maximum(np.linalg.norm(centers, axis=2, keepdims=True), np.finfo(np.float32).tiny)

    blocks = [slice(start, start + _EXAMPLES_AT_ONCE) for start in range(0, len(labels), _EXAMPLES_AT_ONCE)]
    own = np.concatenate([np.einsum("nd,nkd->nk", embeddings[block], centers[labels[block]]) for block in blocks])
    counts = np.bincount(labels * subs + own.argmax(axis=1), minlength=classes * subs).reshape(classes, subs)
    dominant = counts.argmax(axis=1)

    directions = np.ascontiguousarray(centers[np.arange(classes), dominant].T)
    nearest, highest = np.empty(len(labels), np.int64), np.empty(len(labels), np.float32)
    for block in blocks:
        cosines = embeddings[block] @ directions
        nearest[block] = cosines.argmax(axis=1)
        highest[block] = cosines.max(axis=1)
    own = np.take_along_axis(own, dominant[labels][:, None], axis=1)[:, 0]
    return LabelNoise(labels, dominant, _angles(own), nearest, _angles(highest))


def _angles(cosines):
    return np.arccos(np.clip(cosines, -1.0, 1.0))
