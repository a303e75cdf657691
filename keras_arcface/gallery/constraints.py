"""Pairs of images that a user says show the same person, or different people."""

from typing import Any

import numpy as np

from keras_arcface._messages import short


class ContradictoryPairs(ValueError):
    """A pair of `cannot_link` that `must_link` joins.

    Attributes:
        number: index of the pair in `cannot_link`.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def join_linked(must_link: Any, cannot_link: Any, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Joins the images that must be in the same cluster, directly or through others.

    Args:
        must_link: pairs of images that must be in the same cluster.
        cannot_link: pairs of images that must not be in the same cluster.
        num_images: number of images.

    Returns:
        `(item_of_image, cannot_link)`: the item of each image `(num_images,)`, numbered from 0 in the order of the
        first images, and the pairs of items that must not be in the same cluster, `(n, 2)`.

    Raises:
        ContradictoryPairs: if `cannot_link` contains images that `must_link` joins. The error gives the pair.
        ValueError: if a pair does not consist of two images. The error gives the pair.
    """
    must_link = check_links("must_link", must_link, num_images)
    cannot_link = check_links("cannot_link", cannot_link, num_images)
    parent = list(range(num_images))

    def root_of(image: int) -> int:
        while parent[image] != image:
            parent[image] = image = parent[parent[image]]
        return image

    for first, second in must_link.tolist():
        low, high = sorted((root_of(first), root_of(second)))
        parent[high] = low
    _, item_of_image = np.unique([root_of(image) for image in range(num_images)], return_inverse=True)
    contradictions = np.flatnonzero(item_of_image[cannot_link[:, 0]] == item_of_image[cannot_link[:, 1]])
    if len(contradictions):
        first, second = cannot_link[contradictions[0]].tolist()
        reason = "an image and itself" if first == second else "which must_link joins, directly or through others"
        raise ContradictoryPairs(
            "cannot_link must contain pairs of images that must_link does not join. "
            f"Received: cannot_link[{contradictions[0]}]=({first}, {second}), {reason}",
            int(contradictions[0]),
        )
    return item_of_image, item_of_image[cannot_link]


def check_links(name: str, pairs: Any, num_images: int) -> np.ndarray:
    """Returns pairs of images as an array `(n, 2)` of int64.

    Raises:
        ValueError: unless each pair consists of two integers in [0, num_images). The error gives the pair.
    """
    pairs = list(pairs)
    if not pairs:
        return np.zeros((0, 2), np.int64)
    for number, pair in enumerate(pairs):
        values = np.asarray(pair) if np.ndim(pair) == 1 and len(pair) == 2 else None
        if values is None or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= num_images:
            raise ValueError(
                f"{name} must contain pairs of images, two integers in [0, {num_images}). "
                f"Received: {name}[{number}]={short(pair)}"
            )
    return np.array(pairs, np.int64)
