"""Readers of the images of `embed_images`."""

import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from keras_arcface._image_files import read_image_file
from keras_arcface._pixels import check_pixels
from keras_arcface._pixels import warn_if_unit_range
from keras_arcface.data import encoded_images
from keras_arcface.data.pairs import PairSet
from keras_arcface.data.resized import check_size
from keras_arcface.data.resized import resize_image
from keras_arcface.data.sources import Source

_OTHER_IMAGES = ", or a sequence of encoded images, of paths or of records"


@runtime_checkable
class _Array(Protocol):
    """Protocol of arrays and tensors of any library."""

    shape: Any
    dtype: Any

    def __array__(self) -> np.ndarray: ...

    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class _Indexable(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class ImageReader:
    """Reader of a collection of images in batches of pixels.

    Args:
        images: array, tensor, sequence or source of images, as for `embed_images`.
        name_of: function from the index of an image to its name in errors; None for the default names.
        size: `(height, width)` of the resized images; None for images of the same size.
        resize: length to which the shorter side is resized before the central `size` is cropped; None for neither.

    Raises:
        ValueError: if `images` is not a collection of images, or is empty; or if `size` or `resize` is out of range.
    """

    def __init__(
        self,
        images: Any,
        name_of: Callable[[int], str] | None,
        size: tuple[int, int] | None,
        resize: int | None = None,
    ):
        _check_collection(images)
        if size is not None:
            check_size(size, resize)
        elif resize is not None:
            raise ValueError(f"resize requires a size to crop. Received: resize={resize}, size=None")
        if len(images) == 0:
            raise ValueError("images must contain at least one image. Received: 0 images")
        self._images, self._name_of, self._size, self._resize = images, name_of, size, resize
        self._first_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, list[str]]:
        """Returns the pixels and the names of the images with indices in `[start, stop)`."""
        batch = self._slice(start, stop)
        names = [self._name_of(row) if self._name_of else f"image {row}" for row in range(start, stop)]
        if isinstance(batch, np.ndarray):
            pixels = check_pixels(batch, "embed_images", _OTHER_IMAGES)
            if start == 0:
                warn_if_unit_range(pixels, "`images` of embed_images")
            return pixels, names
        encoded = []
        for row, item in enumerate(batch):
            image, own_name = _read_item(item, names[row])
            if own_name is not None and self._name_of is None:
                names[row] = own_name
            encoded.append(encoded_images.to_jpeg_or_png(image, names[row]))
        if self._size is not None:
            resized = [
                resize_image(encoded_images.decode(image, name), self._size, self._resize, name)
                for image, name in zip(encoded, names, strict=True)
            ]
            return np.stack(resized), names
        pixels = _decode(encoded, names, self._first_size)
        self._first_size = pixels.shape[1:3]
        return pixels, names

    def _slice(self, start: int, stop: int) -> np.ndarray | list:
        """Returns images as an array of pixels, or as a list of encoded images, paths or records.

        - Slices of an array or tensor, or of an object whose slices are arrays, such as `data.IjbSet` or an HDF5
          dataset, become an array.
        - Records of a `data.Source` are read one by one, because a source may not support slices.
        - Slices of any other sequence become a list, including NumPy arrays of strings and objects.
        """
        if isinstance(self._images, Source):
            return [self._images[row] for row in range(start, stop)]
        batch = self._images[start:stop]
        is_pixels = isinstance(batch, _Array) and np.asarray(batch[:1]).dtype.kind not in "OSU"
        return np.asarray(batch) if is_pixels else list(batch)


def _check_collection(images: Any) -> None:
    """Raises a ValueError, with advice on frequent mistakes, unless `images` is an indexable collection."""
    if isinstance(images, str | os.PathLike):
        raise _unexpected(f"one path, {str(images)!r}. Pass a list of paths, or data.ImageFolder(path)")
    if isinstance(images, bytes | bytearray | memoryview):
        raise _unexpected("the bytes of one image. Pass a list, [image]")
    if isinstance(images, tf.data.Dataset):
        raise _unexpected("a tf.data.Dataset. Pass it to embed_dataset")
    if isinstance(images, PairSet):
        raise _unexpected("a PairSet. Pass it to embed_pairs")
    if isinstance(images, Mapping) or not isinstance(images, _Indexable):
        raise _unexpected(f"a {type(images).__name__}, which has no length or no order")


def _unexpected(received: str) -> ValueError:
    return ValueError(
        f"embed_images expects RGB pixels in 0..255 of shape (n, height, width, 3){_OTHER_IMAGES}. Received: {received}"
    )


def _read_item(item: Any, name: str) -> tuple[bytes, str | None]:
    """Returns an encoded image, and its path or record name; None instead of a name for bytes."""
    own_name = None
    if isinstance(item, str | os.PathLike):
        own_name = str(Path(item))
        item = read_image_file(own_name)
    elif isinstance(item, tuple) and len(item) == 3:
        item, _, own_name = item
    if not isinstance(item, bytes | bytearray | memoryview):
        shape = f" and shape {item.shape}. Stack the arrays with np.stack" if isinstance(item, _Array) else ""
        raise _unexpected(f"a sequence whose {own_name or name} has the type {type(item).__name__}{shape}")
    return bytes(item), own_name


def _decode(encoded: Sequence[bytes], names: Sequence[str], size: tuple[int, int] | None) -> np.ndarray:
    """Decodes images of the given size, or of the size of the first one."""
    pixels = []
    for image, name in zip(encoded, names, strict=True):
        pixels.append(encoded_images.decode(image, name))
        received = pixels[-1].shape[:2]
        size = size or received
        if received != size:
            raise ValueError(
                f"{name} must have the size of the first image, {size} (height, width). Received: {received}. "
                "Pass size=(height, width) to resize all images"
            )
    return np.stack(pixels)
