"""Base class of the benchmarks of image retrieval, whose files list images, classes and subsets."""

import abc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from keras_arcface._arguments import check_choice
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.sources import fingerprint_files

_log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """Images of one subset, as the files of a benchmark list them.

    Attributes:
        root: folder to which the names are relative.
        names: path of each image.
        classes: class of each image.
        class_names: name of each class of the subset. Labels are numbered in the sorted order of its keys.
    """

    root: Path
    names: list[str]
    classes: list[Any]
    class_names: dict[Any, str]


class RetrievalSet(Source):
    """Base class of one subset of a benchmark of image retrieval.

    The classes of the training and test subsets are different, and the labels of both start at 0. A subclass defines
    the class attributes below and `_list_images`. If the number of images or classes differs from the published one, a
    warning is logged.

    Args:
        directory: path of the directory of the benchmark, as it is distributed.
        subset: one of `subsets`.
        follow_links: whether to follow links to files and folders outside of the directory.

    Attributes:
        title: name of the benchmark.
        list_files: names of the files in the directory that list the images.
        subsets: names of the subsets.
        published: published number of images and classes of each subset.
        num_classes: number of classes of the subset.
        class_names: name of each class.
        labels: labels of all images, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the directory has no `list_files`.
        ValueError: if a line of such a file is invalid, or no image is in the subset. The message names the file and
            line.
    """

    title: str
    list_files: tuple[str, ...]
    subsets: tuple[str, ...] = ("train", "test")
    published: ClassVar[dict[str, tuple[int, int]]]

    def __init__(self, directory, subset: str, follow_links: bool = False):
        check_choice("subset", subset, self.subsets)
        self.directory, self.subset = Path(directory), subset
        if not self.is_in(self.directory):
            missing = [name for name in self.list_files if not (self.directory / name).is_file()]
            raise FileNotFoundError(
                f"directory must contain {', '.join(self.list_files)} of {self.title}{self._hint()}. "
                f"Received: directory={str(directory)!r}, without {', '.join(missing)}"
            )
        root, self._names, classes, class_names = self._list_images()
        if not self._names:
            raise ValueError(f"{directory} must list images of the subset {subset!r} of {self.title}. Received: none")
        self._files = ImageFiles(root, follow_links)
        label_of = {key: label for label, key in enumerate(sorted(class_names))}
        self.labels = np.array([label_of[key] for key in classes], np.int64)
        self.class_names, self.num_classes = [class_names[key] for key in label_of], len(label_of)
        images, num_classes = self.published[subset]
        if (len(self), self.num_classes) != (images, num_classes):
            _log.warning(
                "%s must have %d images of %d classes, as published. Received: %d images of %d classes",
                *(self, images, num_classes, len(self), self.num_classes),
            )

    @classmethod
    def is_in(cls, directory: Path) -> bool:
        """Returns whether a directory contains the lists of this benchmark."""
        return all((directory / name).is_file() for name in cls.list_files)

    @abc.abstractmethod
    def _list_images(self) -> Listing:
        """Reads the lists in the directory."""

    def _hint(self) -> str:
        folders = self.directory.iterdir() if self.directory.is_dir() else ()
        inner = [folder.name for folder in sorted(folders) if self.is_in(folder)]
        return f". Expected: its folder {inner[0]}" if inner else ""

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record(self._files.read(name), self.labels.item(index), name)

    def __str__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, subset={self.subset!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Returns a hash that changes if a file is added, removed or written, but not if all files are moved."""
        return fingerprint_files(self._files.root, self._names)


def read_rows(path: Path, columns: str, heading_line: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Reads lines of fields that are separated by spaces. Blank lines are skipped.

    Args:
        path: path of the text file.
        columns: names of the columns, separated by spaces.
        heading_line: number of the line that contains `columns`. Lines before it are skipped. 0 for no heading.

    Yields:
        The file and line for error messages, and the fields of the line.

    Raises:
        ValueError: if a line has another number of fields, or contains a NUL character or other bytes than UTF-8, or if
            the heading is different. The message names the file and line.
    """
    names = columns.split()
    line = 0
    with open(path, encoding="utf-8-sig") as file:
        try:
            for line, text in enumerate(file, start=1):
                if line < heading_line or text.isspace():
                    continue
                where, fields = f"{path}, line {line}", text.split()
                if line == heading_line and fields != names:
                    raise ValueError(f"{where}: expected the heading {columns!r}. Received: {short(text.rstrip())}")
                if len(fields) != len(names) or "\0" in text:
                    raise ValueError(
                        f"{where}: expected {len(names)} fields, {columns}. Received: {short(text.rstrip())}"
                    )
                if line != heading_line:
                    yield where, fields
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be encoded as UTF-8. Received: {error.reason} after line {line}") from error


def to_number(text: str, where: str, name: str) -> int:
    """Converts the text of a positive number. Raises a ValueError that names the file and line for another text."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not number:
        raise ValueError(f"{where}: expected the {name} as a number of at least 1. Received: {cut(text, 80)!r}")
    return number
