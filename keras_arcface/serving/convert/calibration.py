"""Calibration images for exports in int8."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface.data import encoded_images

BATCH_SIZE = 16  # images per step of a calibration


class Records(Protocol):
    """Sequence of records `(image, label, name)`."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns a record."""


def calibration_images(source: Records, image_size: tuple[int, int], count: int = 256) -> np.ndarray:
    """Returns images at equal distances in a source, for the calibration of an int8 export.

    Neighboring records often show the same person, so the distances give images of many people. Use training images:
    the images of an evaluation would make its figures too good.

    Args:
        source: sequence of records `(image, label, name)`, such as `data.TFRecords` or `data.ImageFolder`, at least
            one.
        image_size: `(height, width)` of the embedder's images.
        count: number of images. If the source has fewer, all of them are returned.

    Returns:
        Array of uint8 RGB images `(count, height, width, 3)`.

    Raises:
        ValueError: if `count` is below 1, or an image cannot be decoded or has another size. The message names the
            image.

    Examples:
        >>> calibration_images(data.ImageFolder("photos"), image_size=(32, 32), count=4).shape
        (4, 32, 32, 3)
    """
    check_integer("count", count, 1)
    decoded = []
    for index in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int):
        image, _, name = source[int(index)]
        image = encoded_images.to_jpeg_or_png(image, name)
        pixels = encoded_images.decode(image, name)
        if pixels.shape[:2] != tuple(image_size):
            raise ValueError(
                f"{name}: a calibration image must have {image_size[0]} x {image_size[1]} pixels (height x width). "
                f"Received: {pixels.shape[0]} x {pixels.shape[1]}"
            )
        decoded.append(pixels)
    return np.stack(decoded)


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
