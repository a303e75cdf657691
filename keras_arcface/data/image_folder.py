"""Source that reads a folder with one folder of images per class."""

import logging
import os
from pathlib import Path

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._image_files import ImageFiles
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.sources import fingerprint_files
from keras_arcface.data.sources import is_folder
from keras_arcface.data.sources import suffix
from keras_arcface.data.sources import visible_entries

_log = logging.getLogger(__name__)


class ImageFolder(Source):
    """Source that reads a folder with one sub-folder of images per class.

    Use it for photos or face crops that are sorted by person. The label of a sub-folder is its position in the sorted
    order of the names. Hidden files and folders, and files that operating systems create (`Thumbs.db`, `desktop.ini`,
    `__MACOSX` ...), are ignored. A sub-folder without images is logged as a warning and keeps its label.
    `write_dataset` drops such classes.

    Args:
        path: path of the folder.
        follow_links: whether to follow links to files and folders outside of `path`. If false, such a folder raises an
            error, and such a file raises an error when it is read. Links within `path` are always followed.
        depth: number of levels of folders from `path` to the images: 1 for `path/class/image.jpg`, 2 for
            `path/group/class/image.jpg`, where every group has classes of its own.

    Attributes:
        num_classes: number of classes.
        class_names: paths of the folders of the classes, relative to `path`: names of sub-folders, or names such as
            `"group/class"` with a `depth` of 2. The label of a class is the index of its name.
        labels: labels of all images, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the folder contains no classes or no images, if a class contains folders instead of images, if an
            image is outside of the folders of the classes, if a file does not have the suffix of an image, or if
            `depth` is below 1. Reading an image that is not a regular file, has more than 128 MiB, or is outside of the
            folder also raises an error. The message names the file.

    Examples:
        >>> faces = ImageFolder("photos")  # photos/ann/0.jpg, photos/ann/1.jpg, ..., photos/bob/3.jpg
        >>> faces
        <ImageFolder('photos'): 8 images of 2 classes>
        >>> faces.class_names
        ['ann', 'bob']
        >>> image, label, name = faces[4]
        >>> label, name
        (1, 'bob/0.jpg')

        Groups of classes:

        >>> import shutil
        >>> groups = shutil.copytree("photos", "groups/friends")  # groups/friends/ann/0.jpg, ...
        >>> ImageFolder("groups", depth=2).class_names
        ['friends/ann', 'friends/bob']
    """

    def __init__(self, path, follow_links: bool = False, depth: int = 1):
        check_integer("depth", depth, 1)
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"path must be a folder with one sub-folder per class. Received: path={str(path)!r}"
            )
        self._files = ImageFiles(self.path, follow_links)
        folders = self._class_folders(self.path, depth)
        self.class_names = list(folders)
        self.num_classes = len(folders)
        files = [_list_images(self.path, folder) for folder in folders.values()]
        self._names = [
            f"{name}/{image}" for name, images in zip(self.class_names, files, strict=True) for image in images
        ]
        self.labels = np.repeat(np.arange(self.num_classes), [len(images) for images in files])
        empty = [name for name, images in zip(self.class_names, files, strict=True) if not images]
        if not self._names:
            raise ValueError(
                f"{path} must contain images ({', '.join(IMAGE_SUFFIXES)}) in its sub-folders. "
                f"Received: {len(folders)} sub-folders without images"
            )
        if empty:
            _log.warning(
                "%s: %d of %d sub-folders contain no images: %s",
                *(path, len(empty), len(folders), ", ".join(empty[:10]) + (" ..." if len(empty) > 10 else "")),
            )

    def _class_folders(self, path: Path, depth: int, prefix: str = "") -> dict[str, os.DirEntry]:
        """Returns the folders of the classes by their names."""
        entries = visible_entries(path)
        for entry in entries:
            if suffix(entry) in IMAGE_SUFFIXES:
                raise ValueError(
                    f"{path} must contain one sub-folder of images per class. "
                    f"Received: image {entry.name} outside of a sub-folder"
                )
        folders = {f"{prefix}{entry.name}": entry for entry in entries if is_folder(entry)}
        if not folders:
            raise ValueError(
                f"{path} must contain one sub-folder of images per class, as in "
                f"{path / 'some_person' / 'image.jpg'}. Received: a folder without sub-folders"
            )
        for folder in folders.values():
            self._files.check_folder(folder.path)
        if depth == 1:
            return folders
        classes: dict[str, os.DirEntry] = {}
        for name, folder in folders.items():
            classes |= self._class_folders(Path(folder.path), depth - 1, f"{name}/")
        return classes

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record(self._files.read(name), self.labels.item(index), name)

    def __str__(self) -> str:
        return f"ImageFolder({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Returns a hash that changes if a file is added, removed or written, but not if the folder is moved."""
        return fingerprint_files(self.path, self._names)


def _list_images(root: Path, folder: os.DirEntry) -> list[str]:
    files = visible_entries(folder)
    nested = [file for file in files if is_folder(file)]
    if nested:
        raise ValueError(_nested_folders_message(root, folder, nested))
    for file in files:
        if suffix(file) not in IMAGE_SUFFIXES:
            raise ValueError(
                f"{file.path} must have one of the suffixes {', '.join(IMAGE_SUFFIXES)}. "
                f"Received: suffix={suffix(file)!r}"
            )
    return [file.name for file in files]


def _nested_folders_message(root: Path, folder: os.DirEntry, nested: list[os.DirEntry]) -> str:
    """Returns the error message for a class that contains folders, with suggestions for the path and the depth."""
    suggested = folder
    while inner := [entry for entry in visible_entries(nested[0]) if is_folder(entry)]:
        suggested, nested = nested[0], inner
    names = ", ".join(entry.name for entry in nested[:3]) + (" ..." if len(nested) > 3 else "")
    depth = len(Path(nested[0].path).relative_to(root).parts)
    return (
        f"{folder.path} must contain only the images of one class. If {names} are the classes, use "
        f"ImageFolder({suggested.path!r}), or ImageFolder({str(root)!r}, depth={depth}) for the classes of all folders "
        f"beside {suggested.name}. Received: folders in {folder.name}"
    )
