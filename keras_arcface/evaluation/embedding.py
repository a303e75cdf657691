"""Computation of the embeddings of images with any model."""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface._arguments import check_integer
from keras_arcface._pixels import check_pixels
from keras_arcface._pixels import warn_if_unit_range
from keras_arcface._replicas import predict_on_batch
from keras_arcface.data.pairs import PairSet
from keras_arcface.evaluation.image_inputs import ImageReader


def embed_images(
    model: Callable,
    images: Any,
    flip: bool = True,
    batch_size: int = 64,
    progress: bool = True,
    name_of: Callable[[int], str] | None = None,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
) -> np.ndarray:
    """Computes the embeddings of images.

    Use it for images without pairs or labels, for example to fill a gallery. `embed_pairs` computes the embeddings of a
    `PairSet`, and `embed_dataset` those of a `tf.data.Dataset`.

    Args:
        model: a Keras model, or a function from images `(batch, height, width, 3)` to embeddings `(batch, dim)`, such
            as the result of `serving.load_embedder`.
        images: RGB pixels in 0..255 `(n, height, width, 3)`, as an array or tensor, or as an object whose slices are
            arrays; or a sequence of encoded images (bytes) or of paths; or a source of records, such as
            `data.ImageFolder`, `data.RecordIO` or `data.TFRecords`. Encoded images are decoded batch by batch. Pixels
            may be slightly outside of 0..255, for example after resizing.
        flip: if true, adds the embedding of the mirrored image, before any normalization, as for published results.
        batch_size: number of images per call of the model.
        progress: if true, shows a progress bar.
        name_of: function from the index of an image to its name in errors. By default, the name is the path, the name
            of the record, or the index.
        size: `(height, width)` to which encoded images are resized. None for images of the same size, which are not
            resized.
        resize: length in pixels to which the shorter side of encoded images is resized, before the central `size` is
            cropped; at least both sides of `size`. None to resize to `size` without keeping the aspect ratio.

    Returns:
        `(n, dim)` float32, not normalized.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if `images` has another type or is empty, its pixels are outside of 0..255, or `batch_size`, `size`
            or `resize` is out of range; if an image cannot be decoded or has another size than the first one (without
            `size`); or if the model does not return one embedding per image, or an embedding is zero or not finite. The
            error names the image.

    Warns:
        UserWarning: if all pixels of an array are in 0..1 or -1..1; at most once per process.

    Examples:
        Paths, here those of 32 x 32 images for an embedder of that size:

        >>> paths = ["photos/ann/0.jpg", "photos/ann/1.jpg", "photos/bob/0.jpg"]
        >>> embed_images(embedder, paths, progress=False).shape
        (3, 8)

        All images of a folder, and a function instead of a Keras model:

        >>> photos = data.ImageFolder("photos")
        >>> def mean_color(images):
        ...     return images.mean(axis=(1, 2))
        >>> embed_images(mean_color, photos, progress=False).shape
        (8, 3)

        The preprocessing of most papers on image retrieval, for images of any size:

        >>> embed_images(mean_color, photos, size=(224, 224), resize=256, progress=False).shape
        (8, 3)
    """
    check_integer("batch_size", batch_size, minimum=1)
    reader = ImageReader(images, name_of, size, resize)
    embed = _as_function(model)
    rows = []
    with _progress_bar(len(reader), progress) as bar:
        for start in range(0, len(reader), batch_size):
            pixels, names = reader.read(start, min(start + batch_size, len(reader)))
            rows.append(_embed_batch(embed, pixels, flip, names))
            bar.update(len(pixels))
    return np.concatenate(rows)


def embed_dataset(
    model: Callable, dataset: Iterable, flip: bool = True, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the embeddings of a dataset of images and labels.

    Use it for protocols with identities or classes instead of pairs, such as `retrieve` and `find_label_noise`.

    Args:
        model: a Keras model or a function, as for `embed_images`.
        dataset: finite iterable of batches `(images, labels)` of shapes `(batch, height, width, 3)` and `(batch,)`,
            such as `keras_arcface.data.load_dataset(training=False)`.
        flip: if true, adds the embedding of the mirrored image, before any normalization.
        progress: if true, shows a progress bar.

    Returns:
        `(embeddings, labels)`: `(n, dim)` float32, not normalized, and `(n,)` int64.

    Raises:
        ValueError: if the dataset is infinite or empty, images have another shape or pixels outside of 0..255, or the
            model does not return one embedding per image, or an embedding is zero or not finite.

    Warns:
        UserWarning: if all pixels of the first batch are in 0..1 or -1..1; at most once per process.

    Examples:
        >>> faces = data.load_dataset("faces", batch_size=4)
        >>> embeddings, labels = embed_dataset(embedder, faces, progress=False)
        >>> embeddings.shape
        (8, 8)
        >>> np.bincount(labels)
        array([4, 4])
    """
    if isinstance(dataset, tf.data.Dataset) and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "dataset must be finite, such as load_dataset(training=False). Received: a dataset of infinite cardinality"
        )
    embed = _as_function(model)
    rows, all_labels, done = [], [], 0
    with _progress_bar(None, progress) as bar:
        for images, labels in dataset:
            pixels = check_pixels(images, "embed_dataset")
            if done == 0:
                warn_if_unit_range(pixels, "the images of embed_dataset")
            rows.append(_embed_batch(embed, pixels, flip, [f"image {done + row}" for row in range(len(pixels))]))
            all_labels.append(np.asarray(labels, np.int64))
            done += len(pixels)
            bar.update(len(pixels))
    if not rows:
        raise ValueError("dataset must contain at least one image. Received: 0 images")
    return np.concatenate(rows), np.concatenate(all_labels)


def embed_pairs(
    model: Callable, pairs: PairSet, flip: bool = True, batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """Computes the embeddings of a pair set, in the order that `verify` expects.

    The embedding of an image that occurs in several pairs is computed once.

    Args:
        model: a Keras model or a function, as for `embed_images`.
        pairs: a `keras_arcface.data.PairSet` of n pairs.
        flip: if true, adds the embedding of the mirrored image, before any normalization, as for published results.
        batch_size: number of images per call of the model.
        progress: if true, shows a progress bar.

    Returns:
        `(2n, dim)` float32, not normalized. Rows `2 * i` and `2 * i + 1` form pair i.

    Raises:
        ValueError: if `batch_size` is below 1 or `pairs` is empty; if an image cannot be decoded or has another size
            than the first one; or if the model does not return one embedding per image, or an embedding is zero or not
            finite. The error names the image and its pair.

    Examples:
        >>> pairs = data.PairSet.load("pairs.npz")
        >>> embeddings = embed_pairs(embedder, pairs, progress=False)
        >>> embeddings.shape
        (8, 8)
        >>> result = verify(embeddings, pairs.same, folds=2)
        >>> result.same.tolist()
        [True, False, True, False]
    """
    first_index: dict[bytes, int] = {}
    for index, image in enumerate(pairs.images):
        first_index.setdefault(image, index)
    indices = list(first_index.values())
    embeddings = embed_images(
        model,
        list(first_index),
        flip,
        batch_size,
        progress,
        name_of=lambda row: f"image {indices[row]} (of pair {indices[row] // 2})",
    )
    row_of = {image: row for row, image in enumerate(first_index)}
    return embeddings[[row_of[image] for image in pairs.images]]


def _as_function(model: Callable) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps a Keras model or function in a function that returns a float32 NumPy array."""
    if isinstance(model, keras.Model):
        expected = _image_size(model)

        def embed(images: np.ndarray) -> np.ndarray:
            received = images.shape[1:3]
            if any(side not in (None, other) for side, other in zip(expected, received, strict=True)):
                sides = " x ".join("any" if side is None else str(side) for side in expected)
                raise ValueError(
                    f"{model.name} must get images of {sides} pixels (height x width); `size`, or --size of a command, "
                    f"resizes images. Received: {received[0]} x {received[1]}"
                )
            return predict_on_batch(model, images)

        return embed
    return lambda images: np.asarray(keras.ops.convert_to_numpy(model(images)), np.float32)


def _image_size(model: keras.Model) -> tuple[int | None, int | None]:
    """Returns the height and width of the images that a model takes, None for any."""
    shape = getattr(getattr(model, "embedder", model), "input_shape", None)
    return shape[1:3] if isinstance(shape, tuple) and len(shape) == 4 else (None, None)


def _progress_bar(total: int | None, progress: bool) -> tqdm:
    # An explicit False would override the environment variable TQDM_DISABLE.
    disable = {} if progress else {"disable": True}
    return tqdm(total=total, desc="embedding", unit="image", dynamic_ncols=True, **disable)


def _embed_batch(
    embed: Callable[[np.ndarray], np.ndarray], images: np.ndarray, flip: bool, names: list[str]
) -> np.ndarray:
    rows = embed(images)
    if flip:
        rows = rows + embed(np.ascontiguousarray(images[:, :, ::-1]))
    if rows.ndim != 2 or len(rows) != len(images):
        raise ValueError(
            f"model must return one embedding per image, ({len(images)}, dim). Received: shape {rows.shape}"
        )
    invalid = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
    if len(invalid):
        listed = ", ".join(names[row] for row in invalid[:10]) + (" ..." if len(invalid) > 10 else "")
        raise ValueError(
            "model must return embeddings that are finite and not zero. Received: embeddings that are zero or not "
            f"finite for {listed}"
        )
    return rows
