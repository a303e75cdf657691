"""Detection of wrong labels with a sub-center head."""

import math
from dataclasses import dataclass

import numpy as np

from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_labels
from keras_arcface.evaluation.vectors import l2_normalize

# The paper uses 75 degrees.
MAX_ANGLE = math.radians(75)

_IMAGES_PER_CHUNK = 256


@dataclass(frozen=True)
class LabelNoise:
    """Angles between images and classes, from a trained head with sub-centers.

    Attributes:
        labels: `(n,)` int64, the given labels.
        dominant_sub_centers: `(classes,)` int64, the sub-center of each class that is nearest to most of its images.
        angles: `(n,)` angle in radians between an image and the dominant sub-center of its class.
        nearest_classes: `(n,)` int64, the class whose dominant sub-center is nearest.
        nearest_angles: `(n,)` angle in radians to the dominant sub-center of the nearest class.

    Examples:
        Three images of class 0, the last of which looks like class 1, and an image of class 1:

        >>> embeddings = [[1.0, 0.0], [1.0, 0.1], [0.1, 1.0], [0.0, 1.0]]
        >>> noise = find_label_noise(embeddings, labels=[0, 0, 0, 1], centers=np.eye(2))
        >>> np.rad2deg(noise.angles).round().tolist()
        [0.0, 6.0, 84.0, 0.0]
        >>> noise.clean_labels()
        array([ 0,  0, -1,  1])
        >>> noise.clean_labels(relabel_below=np.deg2rad(30))
        array([0, 0, 1, 1])
    """

    labels: np.ndarray
    dominant_sub_centers: np.ndarray
    angles: np.ndarray
    nearest_classes: np.ndarray
    nearest_angles: np.ndarray

    def __repr__(self) -> str:
        sizes = {"images": len(self.labels), "classes": len(self.dominant_sub_centers)}
        return format_result(self, **sizes, beyond_max_angle=int(np.sum(self.angles > MAX_ANGLE)))

    def clean_labels(self, max_angle: float = MAX_ANGLE, relabel_below: float = 0.0) -> np.ndarray:
        """Returns the labels with noise removed.

        `data.Relabeled(source, labels)` is the dataset's source with these labels, which `data.write_dataset` writes.

        Args:
            max_angle: angle in radians, by default the paper's 75 degrees. An image farther than this from the dominant
                sub-center of its class loses its label.
            relabel_below: angle in radians. An image without a label gets the label of the nearest class if their
                angle is below this one. With the default 0, no image is relabeled.

        Returns:
            `(n,)` int64, with -1 for images to drop.
        """
        relabeled = np.where(self.nearest_angles < relabel_below, self.nearest_classes, -1)
        return np.where(self.angles <= max_angle, self.labels, relabeled)


def find_label_noise(embeddings, labels, centers) -> LabelNoise:
    """Finds images that are far from the dominant sub-center of their class.

    A sub-center head has several centers per class. Most clean images of a person are nearest to the same sub-center,
    the dominant one. Mislabeled images are nearest to the other sub-centers. Train such a head on the noisy dataset,
    compute the embeddings of its images with `embed_dataset`, and train again with the labels that
    `LabelNoise.clean_labels` returns.

    Args:
        embeddings: float array `(n, dim)`, of any norm: the embeddings of the training images of the head.
        labels: integer array `(n,)`, in [0, classes).
        centers: `centers` of the trained head, float array `(classes, sub-centers, dim)` or `(classes, dim)`.

    Returns:
        A `LabelNoise`.

    Raises:
        ValueError: if the shapes do not match, labels are not integers in [0, classes), or an embedding is zero or not
            finite (the error names its row).

    Examples:
        Class 0 has the sub-centers (1, 0) and (0, 1). Two of its three images are nearest to the first:

        >>> centers = np.array([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]])
        >>> embeddings = [[1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [-1.0, 0.1]]
        >>> noise = find_label_noise(embeddings, labels=[0, 0, 0, 1], centers=centers)
        >>> noise
        LabelNoise(images=4, classes=2, beyond_max_angle=1)
        >>> noise.clean_labels()
        array([ 0,  0, -1,  1])

    References:
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf), section 3.3
    """
    embeddings = l2_normalize(embeddings, "embeddings")
    labels = check_labels(labels, embeddings, "labels", "embeddings")
    centers = _normalized_centers(centers, embeddings.shape[1])
    num_classes, num_sub_centers, _ = centers.shape
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"labels must be in [0, {num_classes}), the classes of the centers. "
            f"Received: labels[{outside[0]}]={labels[outside[0]]}"
        )
    chunks = [slice(start, start + _IMAGES_PER_CHUNK) for start in range(0, len(labels), _IMAGES_PER_CHUNK)]
    own = np.concatenate([np.einsum("nd,nkd->nk", embeddings[chunk], centers[labels[chunk]]) for chunk in chunks])
    votes = np.bincount(labels * num_sub_centers + own.argmax(axis=1), minlength=num_classes * num_sub_centers)
    dominant = votes.reshape(num_classes, num_sub_centers).argmax(axis=1)

    dominant_centers = np.ascontiguousarray(centers[np.arange(num_classes), dominant].T)
    nearest, highest = np.empty(len(labels), np.int64), np.empty(len(labels), np.float32)
    for chunk in chunks:
        cosines = embeddings[chunk] @ dominant_centers
        nearest[chunk] = cosines.argmax(axis=1)
        highest[chunk] = cosines.max(axis=1)
    own = np.take_along_axis(own, dominant[labels][:, None], axis=1)[:, 0]
    return LabelNoise(labels, dominant, _angles(own), nearest, _angles(highest))


def _normalized_centers(centers, dim: int) -> np.ndarray:
    """Returns L2-normalized centers of shape `(classes, sub-centers, dim)`."""
    centers = np.asarray(centers, np.float32)
    if centers.ndim == 2:
        centers = centers[:, None]
    if centers.ndim != 3 or centers.shape[2] != dim:
        raise ValueError(
            f"centers must have the shape (classes, sub-centers, {dim}), where {dim} is the dimension of the "
            f"embeddings. Received: centers of shape {centers.shape}"
        )
    return centers / np.maximum(np.linalg.norm(centers, axis=2, keepdims=True), np.finfo(np.float32).tiny)


def _angles(cosines: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(cosines, -1.0, 1.0))
