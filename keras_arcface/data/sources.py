"""Where images come from. A source is a sequence of `(encoded image, label, name)` that knows its `num_classes`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


class Record(NamedTuple):
    """One labelled image, still encoded."""

    image: bytes
    label: int
    name: str


class Source(Protocol):
    """What `write_dataset` reads: any sequence of records that knows its classes."""

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
        self._files = [(file, label) for label, folder in enumerate(folders) for file in _images(folder)]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file, label = self._files[index]
        return Record(file.read_bytes(), label, file.relative_to(self.path).as_posix())

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return f"ImageFolder({str(self.path)!r})"


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
