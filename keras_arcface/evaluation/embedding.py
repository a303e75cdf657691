"""Images -> embeddings, with any model."""

from collections.abc import Callable
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import images as encoded_images
from keras_arcface.data.pairs import PairSet
from keras_arcface.evaluation.runtimes import as_function


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
        images: uint8 array `(n, height, width, 3)`, or whatever gives one for a slice; or a sequence of n encoded
            images of one size, which are decoded batch by batch.
        flip: whether to add the embedding of the mirror image, before any normalisation, as published figures do.
        batch_size: images per call of the model.
        progress: whether to show a progress bar.
        name_of: number of an image -> how to name it in an error; None for its number.
        size: `(height, width)` to resize encoded images to, without keeping their proportions; None for images of
            one size, which stay as they are.

    Returns:
        `(n, dim)` float32, not normalised.

    Raises:
        ValueError: if there are no images, or `batch_size` is below 1; or naming the image, if one cannot be decoded,
            has another size than the first, or its embedding is zero or not finite.
    """
    if len(images) == 0:
        raise ValueError("embed_images expects at least one image. Received: none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: batch_size={batch_size}")
    name_of = name_of or "image {}".format
    embed, expected = as_function(model), None
    rows = []
    with _bar(len(images), progress) as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if not isinstance(batch, np.ndarray):
                names = [name_of(start + offset) for offset in range(len(batch))]
                batch = [_known(image, name) for image, name in zip(batch, names, strict=True)]
                if size is None:
                    expected = expected or encoded_images.size_of(batch[0], names[0])
                    batch = _decode(batch, names, expected)
                else:
                    batch = _decode_and_resize(batch, names, size)
            rows.append(_embed_batch(embed, batch, flip, lambda row, start=start: name_of(start + row)))
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
    embed = as_function(model)
    rows, labels, done = [], [], 0
    with _bar(None, progress) as bar:
        for images, their_labels in dataset:
            images = np.asarray(images)
            rows.append(_embed_batch(embed, images, flip, lambda row, done=done: f"image {done + row}"))
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
        `(2n, dim)` float32, not normalised.

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


def _bar(total, progress):
    return tqdm(total=total, desc="embedding", unit="image", disable=not progress, dynamic_ncols=True)


def _embed_batch(embed, images, flip, name_of):
    images = np.asarray(images)
    rows = embed(images)
    if flip:
        rows = rows + embed(np.ascontiguousarray(images[:, :, ::-1]))
    if rows.ndim != 2 or len(rows) != len(images):
        raise ValueError(
            f"A model must give one embedding per image, ({len(images)}, dim). Received: shape {rows.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
    if len(bad):
        names = ", ".join(name_of(row) for row in bad[:10]) + (" ..." if len(bad) > 10 else "")
        raise ValueError(f"The model gives embeddings that are zero or not finite, for {names}")
    return rows


def _known(image: bytes, name: str) -> bytes:
    return image if encoded_images.is_known(image) else encoded_images.to_png(image, name)


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
