"""Images -> embeddings, with any model."""

import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface._pixels import warn_if_unit_range
from keras_arcface._replicas import predict_on_batch
from keras_arcface.data import images as encoded_images
from keras_arcface.data.pairs import PairSet

# Resizing with a bicubic or Lanczos kernel overshoots 0..255.
_LOWEST, _HIGHEST = -64, 320


def embed_images(
    model,
    images,
    flip: bool = True,
    batch_size: int = 64,
    progress: bool = True,
    name_of: Callable | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Embeds images.

    Args:
        model: a Keras model, what `load_embedder` gives, or any function, images `(batch, height, width, 3)` uint8 ->
            `(batch, dim)`.
        images: array `(n, height, width, 3)` of RGB pixels in 0..255, which resizing may have brought slightly beyond,
            or whatever gives one for a slice; or encoded images of one size, which are decoded batch by batch: a
            sequence of bytes or of paths, or a source of records such as `data.ImageFolder`, `data.RecordIO` or
            `data.TFRecords`.
        flip: whether to add the embedding of the mirror image, before any normalization, as published figures do.
        batch_size: images per call of the model.
        progress: whether to show a progress bar.
        name_of: number of an image -> how to name it in an error; None for its path, the name of its record, or its
            number.
        size: `(height, width)` to resize encoded images to, without keeping their proportions; None for images of
            one size, which stay as they are.

    Returns:
        `(n, dim)` float32, not normalized.

    Raises:
        FileNotFoundError: if there is no file at a path.
        ValueError: if `images` is none of these or empty, or `batch_size` is below 1; or naming the image, if one
            cannot be decoded, has another size than the first, or its embedding is zero or not finite.

    Warns:
        UserWarning: once, if all pixels of an array are within 0..1.
    """
    _check_kind(images)
    if len(images) == 0:
        raise ValueError("embed_images expects at least one image. Received: none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: batch_size={batch_size}")
    embed, expected = _as_function(model), None
    rows = []
    with _bar(len(images), progress) as bar:
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            names = [name_of(row) if name_of else f"image {row}" for row in range(start, stop)]
            batch = _items(images, start, stop)
            if _is_array(batch):
                batch = _check_pixels(batch, "embed_images")
                if start == 0:
                    warn_if_unit_range(batch, "`images` of embed_images")
            else:
                found = [_read(item, name, name_of) for item, name in zip(batch, names, strict=True)]
                batch, names = zip(*found, strict=True)
                if size is None:
                    expected = expected or encoded_images.size_of(batch[0], names[0])
                    batch = _decode(batch, names, expected)
                else:
                    batch = _decode_and_resize(batch, names, size)
            rows.append(_embed_batch(embed, batch, flip, names))
            bar.update(len(batch))
    return np.concatenate(rows)


def embed_dataset(model, dataset, flip: bool = True, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Embeds what `keras_arcface.data.load_dataset(training=False)` gives, or any batches of images and labels.

    Args:
        model, flip, progress: as for `embed_images`.
        dataset: gives `(images, labels)`, `(batch, height, width, 3)` and `(batch,)`; it must end.

    Returns:
        `(embeddings, labels)`, `(n, dim)` float32 and `(n,)` int64.

    Raises:
        ValueError: if the dataset never ends, is empty, or an embedding is zero or not finite.
    """
    cardinality = int(dataset.cardinality()) if hasattr(dataset, "cardinality") else -2
    if cardinality == tf.data.INFINITE_CARDINALITY:
        raise ValueError("embed_dataset expects a dataset that ends, such as load_dataset(training=False) gives")
    embed = _as_function(model)
    rows, labels, done = [], [], 0
    with _bar(None, progress) as bar:
        for images, their_labels in dataset:
            images = _check_pixels(images, "embed_dataset")
            if done == 0:
                warn_if_unit_range(images, "the images of embed_dataset")
            rows.append(_embed_batch(embed, images, flip, [f"image {done + row}" for row in range(len(images))]))
            labels.append(np.asarray(their_labels, np.int64))
            done += len(images)
            bar.update(len(images))
    if not rows:
        raise ValueError("embed_dataset expects at least one image. Received: none")
    return np.concatenate(rows), np.concatenate(labels)


def embed_pairs(model, pairs: PairSet, flip: bool = True, batch_size: int = 64, progress: bool = True) -> np.ndarray:
    """Embeds the images of a pair set, in order: what `verify` takes.

    An image that stands in many pairs is embedded once.

    Args:
        model, flip, batch_size, progress: as for `embed_images`.
        pairs: a `keras_arcface.data.PairSet`.

    Returns:
        `(2n, dim)` float32, not normalized.

    Raises:
        ValueError: naming the image, as `embed_images` does.
    """
    first_places = {image: index for index, image in reversed(list(enumerate(pairs.images)))}
    row_of = {image: row for row, image in enumerate(first_places)}
    places = list(first_places.values())
    embeddings = embed_images(
        model,
        list(first_places),
        flip,
        batch_size,
        progress,
        name_of=lambda row: f"image {places[row]} (of pair {places[row] // 2})",
    )
    return embeddings[[row_of[image] for image in pairs.images]]


def _as_function(model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a Keras model or any function of images as a function that returns a float32 NumPy array."""
    if isinstance(model, keras.Model):
        return lambda images: predict_on_batch(model, images)
    return lambda images: np.asarray(keras.ops.convert_to_numpy(model(images)), np.float32)


def _bar(total, progress):
    return tqdm(total=total, desc="embedding", unit="image", disable=not progress, dynamic_ncols=True)


def _embed_batch(embed, images, flip, names):
    rows = embed(images)
    if flip:
        rows = rows + embed(np.ascontiguousarray(images[:, :, ::-1]))
    if rows.ndim != 2 or len(rows) != len(images):
        raise ValueError(
            f"A model must give one embedding per image, ({len(images)}, dim). Received: shape {rows.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
    if len(bad):
        listed = ", ".join(names[row] for row in bad[:10]) + (" ..." if len(bad) > 10 else "")
        raise ValueError(f"The model gives embeddings that are zero or not finite, for {listed}")
    return rows


def _check_kind(images) -> None:
    """Raises an error for what is clearly not a collection of images."""
    if isinstance(images, (str, os.PathLike)):
        raise _unexpected("embed_images", f"one path, {str(images)!r}. Pass a list of paths, or data.ImageFolder(path)")
    if isinstance(images, (bytes, bytearray, memoryview)):
        raise _unexpected("embed_images", "the bytes of one image. Pass a list, [image]")
    if isinstance(images, tf.data.Dataset):
        raise _unexpected("embed_images", "a tf.data.Dataset. Pass it to embed_dataset")
    if isinstance(images, PairSet):
        raise _unexpected("embed_images", "a PairSet. Pass it to embed_pairs")
    if isinstance(images, Mapping) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise _unexpected("embed_images", f"a {type(images).__name__}, which has no length or no order")


def _items(images, start: int, stop: int):
    if hasattr(images, "num_classes"):  # a source: of its indices only integers are certain
        return [images[row] for row in range(start, stop)]
    return images[start:stop]


def _is_array(batch) -> bool:
    """Whether these are pixels, in an array or tensor of any library, and not a sequence of images or paths."""
    return hasattr(batch, "shape") and hasattr(batch, "dtype") and np.asarray(batch[:1]).dtype.kind not in "OSU"


def _check_pixels(images, function: str) -> np.ndarray:
    pixels = np.asarray(images)
    received = f"an array of shape {pixels.shape}"
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        raise _unexpected(function, f"{received}, one image. Pass image[np.newaxis]")
    if pixels.ndim in (2, 3) or (pixels.ndim == 4 and pixels.shape[-1] == 1):
        raise _unexpected(function, f"{received}, gray images. Repeat the channel three times, on the last axis")
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise _unexpected(function, received)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "uif" and pixels.dtype.name != "bfloat16":
        raise _unexpected(function, f"an array of {pixels.dtype}")
    lowest, highest = pixels.min(), pixels.max()
    # Normalized pixels are about as far below 0 as above.
    is_near_bytes = lowest >= max(_LOWEST, -float(highest) / 2) and highest <= _HIGHEST
    if not is_near_bytes and not (lowest >= -1 and highest <= 1):  # also for NaN
        raise _unexpected(function, f"{pixels.dtype} values from {lowest} to {highest}")
    return pixels


def _unexpected(function: str, received: str) -> ValueError:
    sequence = ", or a sequence of encoded images, of paths or of records" if function == "embed_images" else ""
    return ValueError(
        f"{function} expects RGB pixels in 0..255 of shape (n, height, width, 3){sequence}. Received: {received}"
    )


def _read(item, name: str, name_of: Callable | None) -> tuple[bytes, str]:
    """A JPEG or PNG, and how to name it in an error."""
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        name = name if name_of else str(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no image {path}")
        item = path.read_bytes()
    elif isinstance(item, tuple) and len(item) == 3:
        item, _, their_name = item
        name = name if name_of else their_name
    if not isinstance(item, (bytes, bytearray, memoryview)):
        shape = f" and shape {item.shape}; np.stack makes one array" if hasattr(item, "shape") else ""
        raise _unexpected("embed_images", f"a sequence whose {name} is of type {type(item).__name__}{shape}")
    return encoded_images.to_jpeg_or_png(bytes(item), name), name


def _decode_and_resize(encoded: Sequence[bytes], names: list[str], size: tuple[int, int]) -> np.ndarray:
    images = []
    for image, name in zip(encoded, names, strict=True):
        height, width = encoded_images.size_of(image, name)
        shrinks = height > size[0] or width > size[1]
        images.append(
            cv2.resize(
                encoded_images.decode(image).numpy(),
                size[::-1],
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            )
        )
    return np.stack(images)


def _decode(encoded: Sequence[bytes], names: list[str], size: tuple[int, int]) -> np.ndarray:
    try:
        return encoded_images.decode_batch(tf.constant(list(encoded)), tf.constant(names), size).numpy()
    except tf.errors.InvalidArgumentError:
        for image, name in zip(encoded, names, strict=True):
            received = encoded_images.size_of(image, name)  # raises if it cannot be decoded
            if received != size:
                raise ValueError(
                    f"{name} has another size than the rest. Expected: {size} (height, width). Received: {received}"
                ) from None
        raise
