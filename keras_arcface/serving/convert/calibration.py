"""Calibration images for exports in int8."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._image_files import ImageFiles
from keras_arcface.data import Record
from keras_arcface.data import encoded_images
from keras_arcface.data import open_source
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.sources import suffix
from keras_arcface.data.sources import visible_entries

BATCH_SIZE = 16  # images per step of a calibration


class Records(Protocol):
    """Sequence of records `(image, label, name)`."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns a record."""


class _FolderOfImages:
    """Records of the images in a folder without sub-folders, which have no labels."""

    def __init__(self, path: Path, names: list[str]):
        self._files, self._path, self._names = ImageFiles(path, follow_links=False), path, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int, /) -> Record:
        return Record(self._files.read(self._names[index]), 0, str(self._path / self._names[index]))


def calibration_images(
    source: Records | str | os.PathLike, image_size: tuple[int, int], count: int = 256
) -> np.ndarray:
    """Returns images at equal distances in a source, for the calibration of an int8 export.

    Neighboring records often show the same person, so the distances give images of many people. Use training images:
    the images of an evaluation would make its figures too good.

    Args:
        source: sequence of records `(image, label, name)`, at least one, such as `data.TFRecords` or
            `data.ImageFolder`; or the path of a source that `data.open_source` opens, or of a folder of images.
        image_size: `(height, width)` of the embedder's images.
        count: number of images. If the source has fewer, all of them are returned.

    Returns:
        Array of uint8 RGB images `(count, height, width, 3)`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if `count` is below 1, or an image cannot be decoded or has another size. The message names the
            image.

    Examples:
        >>> calibration_images("photos", image_size=(32, 32), count=4).shape
        (4, 32, 32, 3)
    """
    check_integer("count", count, 1)
    records: Records = _open(Path(source)) if isinstance(source, str | os.PathLike) else source  # type: ignore[assignment]
    decoded = []
    for index in np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int):
        image, _, name = records[int(index)]
        image = encoded_images.to_jpeg_or_png(image, name)
        pixels = encoded_images.decode(image, name)
        if pixels.shape[:2] != tuple(image_size):
            raise ValueError(
                f"{name}: a calibration image must have {image_size[0]} x {image_size[1]} pixels (height x width). "
                f"Received: {pixels.shape[0]} x {pixels.shape[1]}"
            )
        decoded.append(pixels)
    return np.stack(decoded)


def _open(path: Path) -> Records:
    names = [entry.name for entry in visible_entries(path) if suffix(entry) in IMAGE_SUFFIXES] if path.is_dir() else []
    return _FolderOfImages(path, names) if names else open_source(path)


def check_calibration(calibration: Any, image_size: tuple[int, int]) -> None:
    """Raises a ValueError unless the calibration images have the required type and shape."""
    expected = f"uint8 RGB images (n, {image_size[0]}, {image_size[1]}, 3) with n of at least 1"
    if calibration is None:
        raise ValueError(
            f"calibration must be {expected} for precision='int8', see calibration_images. Received: calibration=None"
        )
    shape, dtype = getattr(calibration, "shape", None), getattr(calibration, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 4 or shape[1:] != (*image_size, 3) or not shape[0]:
        received = type(calibration).__name__ if shape is None else f"{dtype} {tuple(shape)}"
        raise ValueError(f"calibration must be {expected}. Received: calibration={received}")


def batches(calibration: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the calibration images in batches."""
    return (calibration[start : start + BATCH_SIZE] for start in range(0, len(calibration), BATCH_SIZE))
