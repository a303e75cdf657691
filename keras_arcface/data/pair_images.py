"""Images of a pair set as a source."""

import hashlib

import numpy as np

from keras_arcface._messages import short
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.subsets import joined_labels


class PairImages(Source):
    """Source of the different images of a pair set.

    Images that genuine pairs join, directly or through other images, have the same label. A pair set does not name its
    people, so a person can have several labels.

    Args:
        pairs: `PairSet` of the images.

    Attributes:
        num_classes: number of labels.
        class_names: name of the first image of each label.
        labels: labels of all images, `(len,)` int64 array, in the order of their first images.

    Raises:
        TypeError: if `pairs` is not a `PairSet`.

    Examples:
        >>> images = PairImages(PairSet.load("pairs.npz"))
        >>> images
        <PairImages: 8 images, 6 classes of 4 pairs>
        >>> images.labels
        array([0, 0, 1, 2, 3, 3, 4, 5])
        >>> images[4].name
        'image 4 (of pair 2)'
    """

    def __init__(self, pairs: PairSet):
        if not isinstance(pairs, PairSet):
            raise TypeError(f"pairs must be a PairSet, such as PairSet.load(path). Received: pairs={short(pairs)}")
        self._pairs = pairs
        first_indices: dict[bytes, int] = {}
        row_of: dict[int, int] = {}
        for index, image in enumerate(pairs.images):
            row_of.setdefault(first_indices.setdefault(image, index), len(row_of))
        rows = np.array([row_of[first_indices[image]] for image in pairs.images], np.int64)
        self._indices = list(row_of)
        joined = joined_labels(len(row_of), rows.reshape(-1, 2)[pairs.same])
        firsts, self.labels = np.unique(joined, return_inverse=True)
        self.num_classes = len(firsts)
        self.class_names = [self._name(row) for row in firsts.tolist()]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return Record(self._pairs.images[self._indices[index]], self.labels.item(index), self._name(index))

    def __str__(self) -> str:
        return f"{len(self._pairs):,} pairs"

    def __repr__(self) -> str:
        return f"<PairImages: {len(self):,} images, {self.num_classes:,} classes of {self}>"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._pairs.same.tobytes())
        for image in self._pairs.images:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()

    def _name(self, row: int) -> str:
        index = self._indices[row]
        return f"image {index} (of pair {index // 2})"
