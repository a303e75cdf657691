"""Comparison of clusters with the true classes: pairwise and BCubed figures, and mutual information."""

import dataclasses

import numpy as np

from keras_arcface.evaluation.formatting import format_result
from keras_arcface.evaluation.input_checks import check_labels

# Cluster of the images that belong to no cluster.
NOISE = -1


@dataclasses.dataclass(frozen=True)
class ClusteringResult:
    """Result of `score_clusters`.

    Attributes:
        pairwise_precision: share of pairs of images in the same cluster that are of the same class. NaN if no cluster
            contains two images.
        pairwise_recall: share of pairs of images of the same class that are in the same cluster. NaN if no class has
            two images.
        pairwise_f: harmonic mean of both. 0 if only one of them is NaN, NaN if both are.
        bcubed_precision: mean over the images of the share of the image's cluster that is of its class.
        bcubed_recall: mean over the images of the share of the image's class that is in its cluster.
        bcubed_f: harmonic mean of both.
        nmi: mutual information of clusters and classes, divided by the mean of their entropies.
        classes: number of classes.
        clusters: number of clusters, without noise.
        images: number of images.
        noise: number of images that belong to no cluster.

    Examples:
        >>> result = score_clusters(labels=[0, 0, 0, 1, 1], clusters=[0, 0, 1, 1, -1])
        >>> result.pairwise_precision, result.pairwise_recall
        (0.5, 0.25)
        >>> result.bcubed_f  # of the precision 0.8 and the recall 0.533
        0.64
        >>> result.clusters, result.noise
        (2, 1)
    """

    pairwise_precision: float
    pairwise_recall: float
    pairwise_f: float
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float
    nmi: float
    classes: int
    clusters: int
    images: int
    noise: int

    def __repr__(self) -> str:
        rates = {"pairwise_f": self.pairwise_f, "bcubed_f": self.bcubed_f, "nmi": self.nmi}
        sizes = {"classes": self.classes, "clusters": self.clusters, "images": self.images, "noise": self.noise}
        return format_result(self, **rates, **sizes)


def score_clusters(labels, clusters) -> ClusteringResult:
    """Compares clusters, such as those of `gallery.cluster`, with the true classes of the images.

    An image that belongs to no cluster (noise, -1) counts as a cluster of one image in every figure, so that a method
    gains nothing by leaving out images.

    The pairwise figures give a class of n images the weight of its n (n - 1) / 2 pairs, so large classes dominate them.
    The BCubed figures give every image the same weight.

    Args:
        labels: `(n,)` int, the class of each image.
        clusters: `(n,)` int, the cluster of each image, or -1 for images that belong to no cluster.

    Returns:
        A `ClusteringResult`.

    Raises:
        ValueError: if the arrays are empty, not integers or of different lengths, or a cluster is below -1.

    Examples:
        >>> score_clusters(labels=[7, 7, 8, 8], clusters=[1, 1, 0, 0])
        ClusteringResult(pairwise_f=1.0000, bcubed_f=1.0000, nmi=1.0000, classes=2, clusters=2, images=4, noise=0)

    References:
        - [A comparison of extrinsic clustering evaluation metrics based on formal
          constraints](https://doi.org/10.1007/s10791-008-9066-8): BCubed
        - [Clustering Millions of Faces by Identity](https://arxiv.org/abs/1604.00989): pairwise figures for faces
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or not clusters.size or clusters.dtype.kind not in "iu" or clusters.min() < NOISE:
        below = f", minimum {clusters.min()}" if clusters.size and clusters.dtype.kind in "iu" else ""
        raise ValueError(
            "clusters must be integers of at least -1 of shape (n,), one for each image. "
            f"Received: shape {clusters.shape}, {clusters.dtype}{below}"
        )
    labels = check_labels(labels, clusters, "labels", "clusters")
    is_noise = clusters == NOISE
    classes, class_sizes = _numbered(labels)
    groups, group_sizes = _numbered(np.where(is_noise, clusters.max() + 1 + np.arange(len(clusters)), clusters))

    # Cells of the contingency table that are not empty: images of one class in one cluster.
    cells, cell_sizes = np.unique(classes * len(group_sizes) + groups, return_counts=True)
    class_size, group_size = class_sizes[cells // len(group_sizes)], group_sizes[cells % len(group_sizes)]

    both, together, same = (_num_pairs(sizes) for sizes in (cell_sizes, group_sizes, class_sizes))
    precision = float(np.sum(cell_sizes**2 / group_size) / len(labels))
    recall = float(np.sum(cell_sizes**2 / class_size) / len(labels))
    return ClusteringResult(
        pairwise_precision=_ratio(both, together),
        pairwise_recall=_ratio(both, same),
        pairwise_f=_ratio(2 * both, together + same),
        bcubed_precision=precision,
        bcubed_recall=recall,
        bcubed_f=2 * precision * recall / (precision + recall),
        nmi=_normalized_mutual_information(cell_sizes, class_size, group_size, class_sizes, group_sizes),
        classes=len(class_sizes),
        clusters=len(group_sizes) - int(np.sum(is_noise)),
        images=len(labels),
        noise=int(np.sum(is_noise)),
    )


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values as numbers from 0, and the number of images of each."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    return numbers.astype(np.int64), counts


def _num_pairs(sizes: np.ndarray) -> int:
    return int(np.sum(sizes * (sizes - 1) // 2))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _normalized_mutual_information(cell_sizes, class_size, group_size, class_sizes, group_sizes) -> float:
    n = cell_sizes.sum()
    entropies = [-np.sum(sizes / n * np.log(sizes / n)) for sizes in (class_sizes, group_sizes)]
    if len(class_sizes) == len(group_sizes) == 1:
        return 1.0
    information = np.sum(cell_sizes / n * (np.log(cell_sizes / n) - np.log(class_size / n) - np.log(group_size / n)))
    return float(np.clip(information / np.mean(entropies), 0.0, 1.0))
