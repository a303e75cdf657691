"""Where images come from. A source is a sequence of `(encoded image, label, name)` that knows its `num_classes`."""

import csv
import hashlib
import os
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

# What TensorFlow decodes, and what OpenCV does.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp", ".jp2"),
)


class Record(NamedTuple):
    """One labelled image, still encoded."""

    image: bytes
    label: int
    name: str


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

    Labels number the sub-folders in sorted order of their names. Hidden files and folders are passed over.

    Args:
        path: the folder.

    Attributes:
        num_classes: number of classes.
        class_names: name of each class's sub-folder; the label is the index.
        labels: `(len,)` int64 array.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no class, a class without an image, or a file that is no image by its suffix.

    >>> faces = ImageFolder("faces")
    >>> image, label, name = faces[0]
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"ImageFolder expects a folder with one sub-folder per class. Received: {path}")
        entries = _visible(self.path)
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

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record((self.path / name).read_bytes(), self.labels.item(index), name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"ImageFolder({str(self.path)!r})"

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written."""
        return _fingerprint(self.path / name for name in self._names)


class ImageList:
    """The images that a CSV file lists, one `path,label` per line.

    Paths are relative to the file's folder, or to `root`. Labels are integers from 0 on; where one is not, all are
    taken as names, and numbered in sorted order. A first line `path,label` is a heading.

    Args:
        path: the file, UTF-8.
        root: folder that the paths start from; None for that of the file.

    Attributes:
        num_classes: the largest label plus 1, or the number of names.
        class_names: the names, if labels are names; the label is the index.
        labels: `(len,)` int64 array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and line, for a line that is not `path,label`; also for a file without any. An image
            that is missing raises a FileNotFoundError when it is asked for.

    >>> faces = ImageList("faces.csv")
    >>> image, label, name = faces[0]
    """

    def __init__(self, path, root=None):
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        if not self.path.is_file():
            raise FileNotFoundError(f"ImageList expects a CSV file of path,label. Received: {path}")
        self._names, labels = [], []
        with open(self.path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            try:
                for row in rows:
                    if not row or (rows.line_num == 1 and row == ["path", "label"]):
                        continue
                    if len(row) != 2 or not all(cell.strip() for cell in row):
                        raise ValueError(f"expected path,label, received {','.join(row)[:80]!r}")
                    self._names.append(row[0].strip())
                    labels.append(row[1].strip())
            except (ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from error
        if not labels:
            raise ValueError(f"{path} lists no images. Expected: lines of path,label")
        if all(label.isascii() and label.isdecimal() for label in labels):
            self.labels = np.array([int(label) for label in labels], np.int64)
            self.num_classes = int(self.labels.max()) + 1
        else:
            self.class_names, numbers = np.unique(labels, return_inverse=True)
            self.class_names = self.class_names.tolist()
            self.labels = numbers.astype(np.int64)
            self.num_classes = len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record((self.root / name).read_bytes(), self.labels.item(index), name)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"ImageList({str(self.path)!r})"

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written."""
        return _fingerprint(self.root / name for name in self._names)


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # is reported when it is read
            state = None
        digest.update(os.fsencode(file) + f"\0{state}\0".encode())
    return digest.hexdigest()


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise ValueError(f"{folder} holds no images. Expected: at least one image per class, or no folder for it")
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{file} is no image by its name. Expected: one of {', '.join(IMAGE_SUFFIXES)}")
    return files
