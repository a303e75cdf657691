"""Clustering of face embeddings into people, with pairs that a user has confirmed or corrected."""

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface._choices import CLUSTERING_METHODS
from keras_arcface._optional import optional_import
from keras_arcface.evaluation.clustering import NOISE
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.gallery.constraints import join_linked
from keras_arcface.gallery.mean_linkage import merge_by_mean

# Chosen with SFace on 162 people of CFP: the lowest threshold, in steps of 0.02, at which 98% of the pairs in a cluster
# are of the same person, with 2, 4, 8 and 14 images per person. See benchmarks/results/clustering.md.
DEFAULT_THRESHOLD = 0.5
# Chosen on the same images: the pairwise F was best with 5 of the sizes 2, 3 and 5.
_HDBSCAN_MIN_SIZE = 5
_BELOW_ALL_COSINES = -2.0


def cluster(
    embeddings,
    method: str = "agglomerative",
    threshold: float | None = None,
    min_size: int | None = None,
    must_link=(),
    cannot_link=(),
) -> np.ndarray:
    """Groups the embeddings of images by person.

    - `"agglomerative"` starts with one cluster per image. It merges clusters that are each other's nearest, until the
      cosine of the mean embeddings of any two clusters is below `threshold`. It needs six times the memory of the
      embeddings: 50,000 images of 512 dimensions took 0.6 GB, and 150 seconds on 2 busy cores.
    - `"hdbscan"` finds clusters of different densities, without a threshold, with scikit-learn. It finds people with
      at least `min_size` images, and needs several images per person to do so well. Its time grows with the square of
      the number of images: 10,000 images of 128 dimensions took 6 seconds.

    Pairs that a user has confirmed or corrected are kept exactly. With `"agglomerative"`, images of `must_link` start
    as one cluster, and clusters with a pair of `cannot_link` are not merged. `"hdbscan"` sees the images of `must_link`
    at their mean. A cluster that contains a pair of `cannot_link` is then split by
    `"agglomerative"`.

    Args:
        embeddings: `(n, dim)` embeddings, of any norm. n can be 0.
        method: `"agglomerative"` or `"hdbscan"`.
        threshold: lowest cosine of the mean embeddings of clusters that are merged, for `"agglomerative"`. None for
            0.5, which was chosen for SFace so that few clusters contain two people. Other embedders require another
            one.
        min_size: smallest number of images of a cluster. Images of smaller clusters get -1, except if `must_link` joins
            two of them. None for 2, or 5 for `"hdbscan"`, where it is at least 2.
        must_link: pairs of indices of images that are in the same cluster.
        cannot_link: pairs of indices of images that are not in the same cluster.

    Returns:
        `(n,)` int64, the cluster of each image, or -1 for images that belong to no cluster. Clusters are numbered by
        size: 0 is the largest one. Of two clusters of the same size, the one with the first image comes first.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed, for `"hdbscan"`. The message says what to install.
        ValueError: if an embedding is zero or not finite (the error names its row), an argument has another value,
            `threshold` is given for `"hdbscan"`, or `must_link` joins images of a pair of `cannot_link`, directly or
            through others (the error gives the pair).

    Examples:
        >>> embeddings = np.array([[5, 0, 0], [5, 1, 0], [0, 5, 0], [1, 5, 0], [0, 5, 1], [0, 0, 5]])
        >>> cluster(embeddings)
        array([ 1,  1,  0,  0,  0, -1])

        A user says that the last image shows the first person, and that the third and the fourth image show different
        people. The fourth image is then the only one of its person:

        >>> cluster(embeddings, must_link=[(0, 5)], cannot_link=[(2, 3)])
        array([ 0,  0,  1, -1,  1,  0])

    References:
        - [Density-Based Clustering Based on Hierarchical Density
          Estimates](https://doi.org/10.1007/978-3-642-37456-2_14): HDBSCAN
        - [Agglomerative Hierarchical Clustering with Constraints](https://doi.org/10.1007/11564126_11)
    """
    check_choice("method", method, CLUSTERING_METHODS)
    is_hdbscan = method == "hdbscan"
    if threshold is None:
        threshold = DEFAULT_THRESHOLD
    else:
        check("threshold", threshold, not is_hdbscan, 'None for method="hdbscan", which has no threshold')
        check_number("threshold", threshold, lambda value: -1 <= value <= 1, "a cosine in [-1, 1]")
    if min_size is None:
        min_size = _HDBSCAN_MIN_SIZE if is_hdbscan else 2
    check_integer("min_size", min_size, minimum=2 if is_hdbscan else 1)
    embeddings = np.asarray(embeddings)
    is_empty = embeddings.ndim == 2 and not len(embeddings)
    unit = np.zeros((0, 1), np.float32) if is_empty else l2_normalize(embeddings, "embeddings")
    item_of_image, apart = join_linked(must_link, cannot_link, len(unit))
    if is_empty:
        return np.zeros(0, np.int64)

    sizes = np.bincount(item_of_image)
    means = np.zeros((len(sizes), unit.shape[1]), np.float32)
    np.add.at(means, item_of_image, unit)
    means /= sizes[:, None]
    if is_hdbscan:
        clusters = _split(_hdbscan(means, item_of_image, min_size), means, sizes, apart)
    else:
        clusters = merge_by_mean(means, sizes, threshold, apart)
    return _numbered_by_size(clusters, item_of_image, sizes, min_size)


def _hdbscan(means: np.ndarray, item_of_image: np.ndarray, min_size: int) -> np.ndarray:
    """Returns the cluster of each item; an item in no cluster is a cluster of its own."""
    with optional_import("clustering", 'method="hdbscan"'):
        from sklearn.cluster import HDBSCAN
    singletons = len(item_of_image) + np.arange(len(means))
    if len(item_of_image) < min_size:
        return singletons
    # As a cosine, the distance would need the matrix of all distances. For vectors of length 1, both have one order.
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    points = means / np.maximum(norms, np.finfo(np.float32).tiny)
    found = HDBSCAN(min_cluster_size=min_size, min_samples=1, copy=True).fit_predict(points[item_of_image])
    # Images of one item are the same point, but points at the same distance are not always in the same cluster.
    clusters = singletons
    clusters[item_of_image[found != NOISE]] = found[found != NOISE]
    return clusters


def _split(clusters: np.ndarray, means: np.ndarray, sizes: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Splits the clusters that contain a pair of items that must be apart, into few parts of similar images."""
    clusters = clusters.copy()
    inside = apart[clusters[apart[:, 0]] == clusters[apart[:, 1]]]
    for broken in np.unique(clusters[inside[:, 0]]):
        items = np.flatnonzero(clusters == broken)
        pairs = np.searchsorted(items, inside[clusters[inside[:, 0]] == broken])
        parts = merge_by_mean(means[items], sizes[items], _BELOW_ALL_COSINES, pairs)
        clusters[items] = clusters.max() + 1 + parts
    return clusters


def _numbered_by_size(clusters: np.ndarray, item_of_image: np.ndarray, sizes: np.ndarray, min_size: int) -> np.ndarray:
    """Returns the cluster of each image, numbered by size, and -1 for the images of small clusters."""
    _, first, numbers, counts = np.unique(
        clusters[item_of_image], return_index=True, return_inverse=True, return_counts=True
    )
    is_linked = np.zeros(len(counts), bool)
    is_linked[numbers[sizes[item_of_image] > 1]] = True
    is_kept = (counts >= min_size) | is_linked
    order = np.lexsort((first, -counts, ~is_kept))
    number = np.full(len(counts), NOISE)
    number[order[: is_kept.sum()]] = np.arange(is_kept.sum())
    return number[numbers]
