"""Some classes of a source, as a source: those with enough images, or a share of them for validation."""

import hashlib
from collections.abc import Iterator

import numpy as np

from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source


class Selection:
    """The images of some classes, which are numbered anew from 0 on.

    Args:
        source: where the images are.
        classes: labels in the source; a class's place in this list is its new label. A record that cannot be read
            or has a label that the source should not have is kept, so that whoever reads it hears of it.
        labels: of all records of the source, where they are known already.

    Attributes:
        num_classes: number of classes.
        class_names: of these classes, if the source has names.
        labels: `(len,)` int64 array.
        source_labels: `(num_classes,)` int64 array: the label that each class had in the source, and where this is a
            selection too, in its source.
    """

    def __init__(self, source: Source, classes, labels: np.ndarray | None = None):
        self.source = source
        classes = np.asarray(classes, np.int64)
        self.num_classes = len(classes)
        inner = getattr(source, "source_labels", None)
        self.source_labels = classes if inner is None else inner[classes]
        labels = labels_of(source) if labels is None else labels
        order = np.argsort(classes)
        found = np.searchsorted(classes, labels, sorter=order)
        new = order[np.minimum(found, self.num_classes - 1)]
        kept = classes[new] == labels
        self._indices = np.flatnonzero(kept | ~_is_valid(labels, source))
        self.labels = np.where(kept, new, -1)[self._indices]
        names = getattr(source, "class_names", None)
        self.class_names = None if names is None else [names[label] for label in classes.tolist()]
        self.image_size = getattr(source, "image_size", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        image, source_label, name = self.source[self._indices.item(index)]
        label = self.labels.item(index)
        return Record(image, label if label >= 0 else source_label, name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"{self.num_classes} classes of {self.source}"

    def __repr__(self) -> str:
        return f"<Selection: {len(self):,} images, {self}>"

    def fingerprint(self) -> str:
        """Changes when the source does."""
        return f"{self.source_labels.tolist()} of {fingerprint_of(self.source)}"


class Relabeled:
    """The images of a source with other labels, or without some of them: a source too.

    Args:
        source: where the images are.
        labels: integers, one for each record of the source, in `[0, num_classes)`; a negative one leaves it out.

    Raises:
        ValueError: for another number of labels than of records, a label out of range, or if nothing is left.
    """

    def __init__(self, source: Source, labels):
        labels = np.asarray(labels, np.int64)
        if labels.shape != (len(source),):
            raise ValueError(f"{source} holds {len(source)} images. Expected: so many labels. Received: {labels.shape}")
        if labels.max(initial=-1) >= source.num_classes:
            raise ValueError(
                f"The labels must be below {source.num_classes}, the classes of {source}. Received: {labels.max()}"
            )
        self._indices = np.flatnonzero(labels >= 0)
        if not len(self._indices):
            raise ValueError(f"No image of {source} is left. Received: {len(labels)} negative labels")
        self.source, self.labels, self.num_classes = source, labels[self._indices], source.num_classes
        self.class_names = getattr(source, "class_names", None)
        self.image_size = getattr(source, "image_size", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        image, _, name = self.source[self._indices.item(index)]
        return Record(image, self.labels.item(index), name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"{len(self)} images of {self.source}"

    def __repr__(self) -> str:
        return f"<Relabeled: {self.num_classes:,} classes, {self}>"

    def fingerprint(self) -> str:
        """Changes when the source or the labels do."""
        chosen = hashlib.sha256(self._indices.tobytes() + self.labels.tobytes()).hexdigest()
        return f"{chosen} of {fingerprint_of(self.source)}"


def with_at_least(source: Source, min_images: int) -> Selection:
    """The classes that have so many images; with 1, those that have any.

    Raises:
        ValueError: if there is none.
    """
    labels = labels_of(source)
    valid = _is_valid(labels, source)
    if len(labels) and not valid.any():
        try:
            first = f"the label of {source[0].name} is {source[0].label}"
        except (ValueError, OSError) as error:
            first = str(error)
        raise ValueError(
            f"None of the {len(labels)} images of {source} can be read with a label in [0, {source.num_classes}). The "
            f"first: {first}"
        )
    classes, counts = np.unique(labels[valid], return_counts=True)
    enough = counts >= min_images
    if not enough.any():
        raise ValueError(
            f"No class of {source} has {min_images} images or more. Received: at most {counts.max(initial=0)} per class"
        )
    return Selection(source, classes[enough], labels)


def split_identities(source: Source, share: float, seed: int = 0) -> tuple[Selection, Selection]:
    """Splits a source for validation such that no class is on both sides.

    Args:
        source: where the images are.
        share: of the classes that have images, the part for validation, in (0, 1).
        seed: of the choice.

    Returns:
        `(training, validation)`; each has classes numbered from 0 on.

    Raises:
        ValueError: if a side would have no class.
    """
    labels = labels_of(source)
    present = np.unique(labels[_is_valid(labels, source)])
    chosen = round(share * len(present))
    if not 0 < chosen < len(present):
        raise ValueError(
            f"share expects a part of the {len(present)} classes of {source} that leaves classes on both sides. "
            f"Received: {share}"
        )
    shuffled = np.random.default_rng(seed).permutation(present)
    return tuple(Selection(source, np.sort(part), labels) for part in (shuffled[chosen:], shuffled[:chosen]))


def fingerprint_of(source: Source) -> str:
    """What changes when the images of a source do; empty if it does not tell."""
    fingerprint = getattr(source, "fingerprint", None)
    return "" if fingerprint is None else fingerprint()


def is_recognizable(source: Source) -> bool:
    """Whether a source, and the one that it chooses from, tell when their images change."""
    while isinstance(source, Selection | Relabeled):
        source = source.source
    return hasattr(source, "fingerprint")


def labels_of(source: Source) -> np.ndarray:
    """The label of every record of a source: what it says, or else by reading all; -1 for what cannot be read."""

    def label_of(index):
        try:
            return source[index].label
        except (ValueError, OSError):
            return -1

    labels = getattr(source, "labels", None)
    if labels is None:
        labels = [label_of(index) for index in range(len(source))]
    return np.asarray(labels, np.int64)


def _is_valid(labels: np.ndarray, source: Source) -> np.ndarray:
    return (labels >= 0) & (labels < source.num_classes)
