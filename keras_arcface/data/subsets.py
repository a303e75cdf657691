"""Sources that select classes or images of another source, or change its labels."""

import hashlib

import numpy as np

from keras_arcface._arguments import check
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source


class ClassSubset(Source):
    """Source that selects classes of another source and renumbers their labels from 0.

    Records that cannot be read or have an invalid label in the source are kept, so that reading the subset reports
    them.

    Args:
        source: `Source` that contains the classes.
        classes: labels of the classes in the source, without repetitions. The new label of a class is its position in
            this list.

    Attributes:
        num_classes: number of classes.
        class_names: name of each class, or None if the source has no names.
        labels: labels of all records, `(len,)` int64 array, with -1 for a record without a valid label.
        source_labels: label of each class in the source, or in the original source if the source is a subset,
            `(num_classes,)` int64 array.

    Raises:
        ValueError: if `classes` is empty, or contains a value that is not a label of the source, or the same label
            twice.

    Examples:
        >>> bob = ClassSubset(ImageFolder("photos"), classes=[1])
        >>> len(bob), bob.class_names, bob.source_labels
        (4, ['bob'], array([1]))
        >>> bob[0].label, bob[0].name
        (0, 'bob/0.jpg')
    """

    source_labels: np.ndarray

    def __init__(self, source: Source, classes):
        self.source = source
        classes = np.asarray(classes)
        is_list = classes.ndim == 1 and classes.size > 0 and classes.dtype.kind in "iu"
        is_valid = is_list and classes.min() >= 0 and classes.max() < source.num_classes
        is_valid = is_valid and len(np.unique(classes)) == len(classes)
        expected = f"a list of different labels in [0, {source.num_classes}), the classes of {source}"
        check("classes", classes.tolist(), is_valid, expected)
        classes = classes.astype(np.int64)
        self.num_classes = len(classes)
        self.source_labels = classes if source.source_labels is None else source.source_labels[classes]
        order = np.argsort(classes)
        positions = np.searchsorted(classes, source.labels, sorter=order)
        new_labels = order[np.minimum(positions, self.num_classes - 1)]
        is_selected = classes[new_labels] == source.labels
        self._indices = np.flatnonzero(is_selected | ~_is_valid(source.labels, source))
        self.labels = np.where(is_selected, new_labels, -1)[self._indices]
        names = source.class_names
        self.class_names = None if names is None else [names[label] for label in classes.tolist()]
        self.image_size = source.image_size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        image, source_label, name = self.source[self._indices.item(index)]
        label = self.labels.item(index)
        return Record(image, label if label >= 0 else source_label, name)

    def __str__(self) -> str:
        return f"{self.num_classes} classes of {self.source}"

    def __repr__(self) -> str:
        return f"<ClassSubset: {len(self):,} images, {self}>"

    def fingerprint(self) -> str | None:
        fingerprint = self.source.fingerprint()
        return None if fingerprint is None else f"{self.source_labels.tolist()} of {fingerprint}"


class Relabeled(Source):
    """Source that replaces the labels of another source, and removes images with a negative label.

    Use it to correct a dataset, for example with the labels of `keras_arcface.evaluation.find_label_noise`. Classes
    keep their labels, also those without images, which `write_dataset` drops.

    Args:
        source: `Source` of the images.
        labels: new labels below `source.num_classes`, `(len(source),)` integers. A negative label removes the image.

    Attributes:
        num_classes: number of classes of the source.
        class_names: name of each class, or None if the source has no names.
        labels: new labels of the remaining images, `(len,)` int64 array.

    Raises:
        ValueError: if the number of labels is wrong, a label is too large, or no image remains.

    Examples:
        >>> faces = ImageFolder("photos")
        >>> labels = faces.labels.copy()
        >>> labels[0] = 1  # the person in image 0 is bob
        >>> labels[3] = -1  # image 3 is not a face
        >>> corrected = Relabeled(faces, labels)
        >>> corrected
        <Relabeled: 2 classes, 7 images of ImageFolder('photos')>
        >>> corrected.labels
        array([1, 0, 0, 1, 1, 1, 1])
    """

    def __init__(self, source: Source, labels):
        labels = np.asarray(labels, np.int64)
        if labels.shape != (len(source),):
            raise ValueError(
                f"labels must have the shape ({len(source)},), one label per image of {source}. "
                f"Received: labels.shape={labels.shape}"
            )
        if labels.max(initial=-1) >= source.num_classes:
            raise ValueError(
                f"labels must be below {source.num_classes}, the number of classes of {source}. "
                f"Received: labels.max()={labels.max()}"
            )
        self._indices = np.flatnonzero(labels >= 0)
        if not len(self._indices):
            raise ValueError(
                f"labels must contain a label of at least 0, to keep images of {source}. "
                f"Received: {len(labels)} negative labels"
            )
        self.source, self.labels, self.num_classes = source, labels[self._indices], source.num_classes
        self.class_names, self.image_size = source.class_names, source.image_size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        image, _, name = self.source[self._indices.item(index)]
        return Record(image, self.labels.item(index), name)

    def __str__(self) -> str:
        return f"{len(self)} images of {self.source}"

    def __repr__(self) -> str:
        return f"<Relabeled: {self.num_classes:,} classes, {self}>"

    def fingerprint(self) -> str | None:
        fingerprint = self.source.fingerprint()
        selection = hashlib.sha256(self._indices.tobytes() + self.labels.tobytes()).hexdigest()
        return None if fingerprint is None else f"{selection} of {fingerprint}"


def relabel_classes(source: Source, pairs) -> Relabeled:
    """Joins classes of the same person, and removes classes.

    Use it with the classes that `keras_arcface.evaluation.find_overlap` finds.

    Args:
        source: `Source` of the images.
        pairs: `(n, 2)` integers, a label and its new label in each row. All images of both classes get the smaller
            label. The new label -1 removes the class. Rows can form chains: with (3, 2) and (2, 0), both get label 0.

    Returns:
        A `Relabeled` source.

    Raises:
        ValueError: if `pairs` has another shape, a label is outside of [0, num_classes) or a new label outside of
            [-1, num_classes), no image remains, or an image has no valid label. The message names it.

    Examples:
        >>> faces = ImageFolder("photos")
        >>> relabel_classes(faces, [(0, -1)]).labels
        array([1, 1, 1, 1])
        >>> relabel_classes(faces, [(1, 0)]).labels
        array([0, 0, 0, 0, 0, 0, 0, 0])
    """
    pairs = np.asarray(pairs)
    is_valid = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu"
    is_valid = is_valid and bool(((pairs >= (0, -1)) & (pairs < source.num_classes)).all())
    expected = f"integers (n, 2), labels in [0, {source.num_classes}) and new labels in [-1, {source.num_classes})"
    check("pairs", pairs.tolist(), is_valid, expected)
    check_labels(source)
    # Positions instead of labels, which may be very large. The position of -1 is the lowest.
    used = np.unique(np.concatenate([source.labels, pairs.ravel()]))
    joined = used[joined_labels(len(used), np.searchsorted(used, pairs))]
    return Relabeled(source, joined[np.searchsorted(used, source.labels)])


def joined_labels(count: int, pairs: np.ndarray) -> np.ndarray:
    """Returns for each of the labels from 0 the smallest label that pairs join with it, directly or through others.

    >>> joined_labels(5, np.array([[1, 3], [3, 4]]))
    array([0, 1, 2, 1, 1])
    """
    labels = np.arange(count)
    first, second = pairs.T
    while (labels[first] != labels[second]).any():
        lower = np.minimum(labels[first], labels[second])
        for side in (first, second):
            np.minimum.at(labels, labels[side], lower)
            np.minimum.at(labels, side, lower)
        labels = labels[labels]
    return labels


def check_labels(source: Source) -> None:
    """Raises a ValueError that names the first image without a label in [0, num_classes)."""
    is_valid = _is_valid(source.labels, source)
    if not is_valid.all():
        raise _invalid_labels(source, is_valid)


def drop_small_classes(source: Source, min_images: int) -> ClassSubset:
    """Selects the classes with at least `min_images` images, and renumbers them from 0.

    Args:
        source: `Source` of the images.
        min_images: smallest number of images of a class. With 1, only classes without images are dropped.

    Returns:
        A `ClassSubset` with the selected classes.

    Raises:
        ValueError: if no class has enough images, or no image has a valid label.

    Examples:
        >>> drop_small_classes(ImageFolder("photos"), min_images=4)
        <ClassSubset: 8 images, 2 classes of ImageFolder('photos')>
        >>> drop_small_classes(ImageFolder("photos"), min_images=5)
        Traceback (most recent call last):
        ValueError: ImageFolder('photos') must have a class of at least 5 images. Received: at most 4 images per class
    """
    is_valid = _is_valid(source.labels, source)
    if len(source) and not is_valid.any():
        raise _invalid_labels(source, is_valid)
    classes, counts = np.unique(source.labels[is_valid], return_counts=True)
    is_large = counts >= min_images
    if not is_large.any():
        raise ValueError(
            f"{source} must have a class of at least {min_images} images. Received: at most {counts.max(initial=0)} "
            "images per class"
        )
    return ClassSubset(source, classes[is_large])


def split_identities(source: Source, share: float, seed: int = 0) -> tuple[ClassSubset, ClassSubset]:
    """Splits a source into training and validation parts without common classes.

    Verification must be measured with people who do not occur in the training. Write both parts with `write_dataset`.

    Args:
        source: `Source` of the images.
        share: fraction of the classes with images in the validation part, in (0, 1).
        seed: seed of the random choice of classes.

    Returns:
        `(training, validation)`, two `ClassSubset` objects whose classes are renumbered from 0.

    Raises:
        ValueError: if a part would have no class.

    Examples:
        >>> training, validation = split_identities(ImageFolder("photos"), share=0.5)
        >>> training, validation
        (<ClassSubset: 4 images, 1 classes of ImageFolder('photos')>,
         <ClassSubset: 4 images, 1 classes of ImageFolder('photos')>)
        >>> training.class_names != validation.class_names
        True
    """
    classes = np.unique(source.labels[_is_valid(source.labels, source)])
    num_validation = round(share * len(classes)) if 0 < share < 1 else 0  # NaN cannot be rounded
    check(
        "share", share, 0 < num_validation < len(classes), f"a fraction that leaves a class in both parts of {source}"
    )
    shuffled = np.random.default_rng(seed).permutation(classes)
    training, validation = shuffled[num_validation:], shuffled[:num_validation]
    return ClassSubset(source, np.sort(training)), ClassSubset(source, np.sort(validation))


def _invalid_labels(source: Source, is_valid: np.ndarray) -> ValueError:
    """Returns an error about images without a valid label."""
    row = int(np.argmin(is_valid))
    try:
        first = f"the label of {source[row].name} is {source[row].label}"
    except (ValueError, OSError) as error:
        first = str(error)
    return ValueError(
        f"{source} must have readable images with a label in [0, {source.num_classes}). "
        f"Received: {np.sum(~is_valid)} other images. The first: {first}"
    )


def _is_valid(labels: np.ndarray, source: Source) -> np.ndarray:
    return (labels >= 0) & (labels < source.num_classes)
