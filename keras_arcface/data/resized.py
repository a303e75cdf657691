"""Resizing of images, also with a crop of the center, and a source that resizes the images of another source."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._image_headers import MAX_PIXELS
from keras_arcface.data import encoded_images
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source


class Resized(Source):
    """Source that resizes the images of another source, whose images may have any size.

    `write_dataset` requires images of one size. Images are scaled by the average over areas where they become smaller,
    and linearly otherwise. They become PNG files, without loss. An image that has the size already is not changed.

    Args:
        source: `Source` of the images.
        size: `(height, width)` of the resized images, in pixels.
        resize: length in pixels to which the shorter side is resized, before the central `size` is cropped; at least
            both sides of `size`. None to resize to `size` without keeping the aspect ratio.

    Attributes:
        num_classes: number of classes of the source.
        class_names: name of each class, or None if the source has no names.
        labels: labels of all images, `(len,)` int64 array.
        image_size: `size`.

    Raises:
        ValueError: if `size` or `resize` is out of range. Reading an image raises an error if it cannot be decoded, or
            if it is so elongated that the resized image would have more than 4096 x 4096 pixels. The message names the
            image.

    Examples:
        >>> source = Resized(ImageFolder("photos"), size=(24, 24), resize=28)
        >>> source
        <Resized: 8 images of ImageFolder('photos'), 24 x 24, center of images with a shorter side of 28>
        >>> write_dataset(source, "small").image_size
        (24, 24)
    """

    def __init__(self, source: Source, size: tuple[int, int], resize: int | None = None):
        check_size(size, resize)
        self.source, self.resize = source, resize
        self.image_size: tuple[int, int] = (int(size[0]), int(size[1]))
        self.class_names, self.source_labels = source.class_names, source.source_labels

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self.source.labels

    @functools.cached_property
    def num_classes(self) -> int:
        return self.source.num_classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        image, label, name = self.source[index]
        encoded = encoded_images.to_jpeg_or_png(image, name)
        pixels = encoded_images.decode(encoded, name)
        resized = resize_image(pixels, self.image_size, self.resize, name)
        if resized is not pixels:
            encoded = cv2.imencode(".png", resized[:, :, ::-1])[1].tobytes()
        return Record(encoded, label, name)

    def __str__(self) -> str:
        height, width = self.image_size
        crop = f", center of images with a shorter side of {self.resize}" if self.resize is not None else ""
        return f"{self.source}, {height} x {width}{crop}"

    def __repr__(self) -> str:
        return f"<Resized: {len(self):,} images of {self}>"

    def fingerprint(self) -> str | None:
        fingerprint = self.source.fingerprint()
        return None if fingerprint is None else f"{self.image_size} {self.resize} of {fingerprint}"


def check_size(size: Sequence[int], resize: int | None) -> None:
    """Raises a ValueError unless `size` and `resize` are valid arguments of `resize_image`."""
    check("size", size, len(size) == 2, "(height, width)")
    for side in size:
        check_integer("size", side, 1)
    if resize is not None:
        check_integer("resize", resize, max(size))


def resize_image(pixels: np.ndarray, size: Sequence[int], resize: int | None, name: str) -> np.ndarray:
    """Resizes an image.

    Args:
        pixels: uint8 array `(height, width, 3)`.
        size: `(height, width)` of the result.
        resize: length to which the shorter side is resized, before the central `size` is cropped. None to resize to
            `size` without keeping the aspect ratio.
        name: name of the image for error messages.

    Returns:
        uint8 array `(*size, 3)`, which is `pixels` if nothing changes.

    Raises:
        ValueError: if the resized image would have more than `MAX_PIXELS` pixels. The message names the image.
    """
    height, width, _ = pixels.shape
    if resize is None:
        return _scale(pixels, size[0], size[1])
    shorter = min(height, width)
    height, width = resize * height // shorter, resize * width // shorter
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{name} must have at most {MAX_PIXELS} pixels when its shorter side is {resize}. "
            f"Received: an image of {pixels.shape[0]} x {pixels.shape[1]} (height x width)"
        )
    scaled = _scale(pixels, height, width)
    if (height, width) == tuple(size):
        return scaled
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return scaled[top : top + size[0], left : left + size[1]]


def _scale(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
