"""Validation of images and their division into requests."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Images = np.ndarray | list[bytes]

_PIXELS = ("serving_default", "images")
_ENCODED = ("serve_bytes", "image_bytes")


class Batch(NamedTuple):
    """Images of one request.

    Attributes:
        signature: name of the signature that receives the images.
        inputs: `{name of the input: images}`, with one entry.
    """

    signature: str
    inputs: dict[str, Images]


def check_images(images: Any, argument: str) -> Images:
    """Returns images as an array or a list of bytes.

    Args:
        images: array or sequence of bytes.
        argument: name of the argument, for errors.

    Raises:
        ValueError: if the images have a different type or shape, or if there are none. The message names the argument
            and the row.
    """
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"{argument} must be a uint8 RGB array (n, height, width, 3). "
                f"Received: {argument}={images.dtype} {images.shape}"
            )
    elif isinstance(images, bytes | bytearray | memoryview | str) or not hasattr(images, "__iter__"):
        raise ValueError(
            f"{argument} must be an array or a sequence of bytes. Received: {argument} of type {type(images).__name__}"
        )
    else:
        images = list(images)
        for row, image in enumerate(images):
            if not isinstance(image, bytes):
                raise ValueError(
                    f"{argument}[{row}] must be an encoded image as bytes; pass pixels as one array. "
                    f"Received: {argument}[{row}] of type {type(image).__name__}"
                )
    if len(images) == 0:
        raise ValueError(f"{argument} must contain at least one image. Received: an empty {argument}")
    return images


def merge(first: Images, second: Images) -> list[Images]:
    """Returns both groups of images as a single group if they have the same type and shape, which saves requests."""
    if isinstance(first, list) and isinstance(second, list):
        return [first + second]
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.shape == second.shape:
        return [np.concatenate([first, second])]
    return [first, second]


def split_into_batches(groups: Iterable[Images], batch_size: int) -> Sequence[Batch]:
    """Splits groups of images into batches of at most `batch_size` images, in the order of the images."""
    batches = []
    for images in groups:
        signature, name = _PIXELS if isinstance(images, np.ndarray) else _ENCODED
        for start in range(0, len(images), batch_size):
            batches.append(Batch(signature, {name: images[start : start + batch_size]}))
    return batches
