"""Where images come from. A source is a sequence of `(encoded image, label, name)` that knows its `num_classes`."""

import hashlib
import logging
import os
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.list_files import read_csv
from keras_arcface.data.list_files import read_lst

# What file managers leave behind, beside files whose names start with a dot.
_IGNORED_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}

_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One labeled image, still encoded."""

    image: bytes
    label: int
    name: str


@runtime_checkable
class Source(Protocol):
    """What `write_dataset` reads: any sequence of records that knows its classes.

    It may have more: `labels`, an int array with the label of every record (else every record is read twice);
    `class_names`; `image_size`, `(height, width)`; and `fingerprint()`, a string that changes when the images do. To be
    read by several processes it must survive pickling.
    """

    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def __str__(self) -> str: ...


class ImageFolder:
    """A folder with one sub-folder of images per class.

    Labels number the sub-folders in sorted order of their names. Hidden files and folders are ignored, and so is what
    file managers leave behind (`Thumbs.db`, `desktop.ini`, `__MACOSX` ...). A sub-folder without any image is logged as
    a warning and keeps its label; `write_dataset` leaves such classes out.

    Args:
        path: the folder.

    Attributes:
        num_classes: number of classes.
        class_names: name of each class's sub-folder; the label is the index.
        labels: `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it holds no class, no image, a class that has folders instead of images, or a file whose suffix
            is not that of an image.

    >>> faces = ImageFolder("faces")
    >>> image, label, name = faces[0]
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"ImageFolder expects a folder with one sub-folder per class. Received: {path}")
        entries = visible(self.path)
        for entry in entries:
            if entry.suffix.lower() in IMAGE_SUFFIXES:
                raise ValueError(
                    f"{entry} belongs to no class. Expected: images in sub-folders of {path}, one per class"
                )
        folders = [entry for entry in entries if entry.is_dir()]
        if not folders:
            raise ValueError(
                f"{path} holds no sub-folders. Expected: one sub-folder of images per class, as in "
                f"{self.path / 'some_person' / 'image.jpg'}"
            )
        self.class_names = [folder.name for folder in folders]
        self.num_classes = len(folders)
        files = [_images(folder) for folder in folders]
        self._names = [file.relative_to(self.path).as_posix() for images in files for file in images]
        self.labels = np.repeat(np.arange(self.num_classes), [len(images) for images in files])
        empty = [name for name, images in zip(self.class_names, files, strict=True) if not images]
        if not self._names:
            raise ValueError(
                f"{path} holds no images in its {len(folders)} sub-folders. Expected: {', '.join(IMAGE_SUFFIXES)}"
            )
        if empty:
            _log.warning(
                "%s: %d of %d sub-folders hold no images: %s",
                *(path, len(empty), len(folders), ", ".join(empty[:10]) + (" ..." if len(empty) > 10 else "")),
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record((self.path / name).read_bytes(), self.labels.item(index), name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"ImageFolder({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written, but not when the folder is moved."""
        return _fingerprint(self.path, self._names)


class ImageList:
    """The images that a text file lists, with their labels.

    A CSV file has one `path,label` per line. Labels are integers from 0 on, or they are names, which are numbered in
    sorted order; a mixture is refused. The first line is a heading if its cells are words for it (`path,label`,
    `image,class` ...), or if its path is not the name of an image while all others are. An ambiguous first
    line is refused.

    A file with the suffix `.lst` has one of two layouts, both separated by tabs: `index label path`, as mxnet's im2rec
    makes it, or `aligned path label`, as InsightFace has it, optionally followed by a box and landmarks. An image
    that is not aligned (0) is refused.

    Args:
        path: the file, UTF-8.
        root: folder that relative paths start from; None for that of the file.

    Attributes:
        num_classes: the largest label plus 1, or the number of names.
        class_names: the names, if labels are names; the label is the index.
        labels: `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming file and line, for a line of another form or a label that is no class; also for a file that
            lists nothing. An image that is missing raises a FileNotFoundError when it is read.

    >>> faces = ImageList("faces.csv")
    >>> image, label, name = faces[0]
    """

    def __init__(self, path, root=None):
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        if not self.path.is_file():
            raise FileNotFoundError(f"ImageList expects a CSV file of path,label, or a .lst file. Received: {path}")
        if self.path.suffix.lower() == ".lst":
            self._names, self.labels = read_lst(self.path)
            class_names = None
        else:
            self._names, self.labels, class_names = read_csv(self.path)
        if class_names is None:
            self.num_classes = int(self.labels.max()) + 1
        else:
            self.class_names, self.num_classes = class_names, len(class_names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record((self.root / name).read_bytes(), self.labels.item(index), name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"ImageList({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written, but not when all are moved."""
        return _fingerprint(self.root, self._names)


def visible(folder: Path) -> list[Path]:
    """What a folder holds, in the order of the names, without hidden files and what file managers leave behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED_NAMES
    )


def _fingerprint(root: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        try:
            status = (root / name).stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # is reported when it is read
            state = None
        digest.update(os.fsencode(name) + f"\0{state}\0".encode())
    return digest.hexdigest()


def _images(folder: Path) -> list[Path]:
    files = visible(folder)
    nested = [file for file in files if file.is_dir()]
    if nested:
        raise ValueError(_nested(folder, nested))
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{file} is no image by its name. Expected: one of {', '.join(IMAGE_SUFFIXES)}")
    return files


def _nested(folder: Path, nested: list[Path]) -> str:
    """The error for a class that has folders where its images should be; suggests the folder that was meant."""
    meant = folder
    while inner := [entry for entry in visible(nested[0]) if entry.is_dir()]:
        meant, nested = nested[0], inner
    names = ", ".join(entry.name for entry in nested[:3]) + (" ..." if len(nested) > 3 else "")
    return (
        f"{folder} holds folders, where the images of one class are expected. If {names} are the classes, use "
        f"ImageFolder({str(meant)!r})"
    )
