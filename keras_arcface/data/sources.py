"""Base class of image sources, which are sequences of encoded images with integer labels."""

import abc
import functools
import hashlib
import os
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Files that operating systems create, in addition to hidden files whose names start with a dot.
_IGNORED_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}


class Record(NamedTuple):
    r"""Encoded image with its label, the item of every `Source`.

    Attributes:
        image: content of the image file, such as the bytes of a JPEG file.
        label: label, in `[0, num_classes)` of the source.
        name: name of the image for error messages.

    Examples:
        >>> image, label, name = ImageFolder("photos")[0]
        >>> record = Record(image, label, name)
        >>> record.image[:3], record.label, record.name  # JPEG files start with these bytes
        (b'\xff\xd8\xff', 0, 'ann/0.jpg')
    """

    image: bytes
    label: int
    name: str


class Source(abc.ABC):
    """Base class of the sequences of records that `write_dataset` reads.

    Derive from it to read images from a place that this package does not know, such as a database. A subclass defines
    `__len__` and `__getitem__`. All other methods and attributes have defaults. A source for several processes must
    support pickling. `str(source)` describes it in `dataset.json` and in error messages.

    Attributes:
        class_names: name of each class, or None.
        image_size: `(height, width)` of all images in pixels, or None if it is not known.
        source_labels: label of each class in the source from which this source selects classes, `(num_classes,)` int64
            array, or None if it does not select classes.

    Raises:
        TypeError: if a subclass does not define `__len__` and `__getitem__`.

    Examples:
        >>> import cv2
        >>> class ArraySource(Source):
        ...     def __init__(self, images, labels):
        ...         self.images, self.labels = images, np.asarray(labels)
        ...     def __len__(self):
        ...         return len(self.images)
        ...     def __getitem__(self, index):
        ...         _, png = cv2.imencode(".png", self.images[index][:, :, ::-1])  # OpenCV expects BGR
        ...         return Record(png.tobytes(), int(self.labels[index]), f"image {index}")
        >>> source = ArraySource(np.zeros((3, 32, 32, 3), "uint8"), labels=[0, 1, 1])
        >>> source.num_classes
        2
        >>> write_dataset(source, "arrays").num_examples
        3
    """

    class_names: Sequence[str] | None = None
    image_size: tuple[int, int] | None = None
    source_labels: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of records."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Returns a record.

        Args:
            index: index of the record, in [0, len).

        Returns:
            The `Record`.

        Raises:
            ValueError: if the record is damaged. The message names it.
            OSError: if the record cannot be read.
        """

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels of all records, `(len,)` int64 array, with -1 for a record that cannot be read.

        The default implementation reads all records once. A subclass with known labels should set this attribute.
        """
        return np.fromiter((self._label_or_minus_one(index) for index in range(len(self))), np.int64, len(self))

    @functools.cached_property
    def num_classes(self) -> int:
        """Number of classes. Labels must be in `[0, num_classes)`. The default is the largest label plus 1."""
        return int(self.labels.max(initial=-1)) + 1

    def fingerprint(self) -> str | None:
        """Returns a text that changes if the images change, or None if changes cannot be detected.

        `write_dataset` compares it with that of an existing dataset. Without a fingerprint, a dataset is never reused.
        """
        return None

    def _label_or_minus_one(self, index: int) -> int:
        try:
            return self[index].label
        except (ValueError, OSError):
            return -1


def fingerprint_files(root: Path, names: Iterable[str]) -> str:
    """Returns a hash of the names, sizes and modification times of files in a folder."""
    digest = hashlib.sha256()
    for name in names:
        try:
            status = (root / name).stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # a missing file raises an error when its record is read
            state = None
        digest.update(os.fsencode(name) + f"\0{state}\0".encode())
    return digest.hexdigest()


def visible_entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder in sorted order, without hidden files and files of the operating system."""
    with os.scandir(os.fspath(folder)) as entries:
        visible = [
            entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED_NAMES
        ]
    return sorted(visible, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether an entry is a folder or a link to one. The type in the entry avoids a system call per file."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def suffix(entry: os.DirEntry) -> str:
    """Returns the suffix of the name of an entry in lower case, such as `".jpg"`."""
    return os.path.splitext(entry.name)[1].lower()
