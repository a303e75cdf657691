"""Images -> embeddings, with any model. The only file of this room that knows Keras and the data room."""

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import images as encoded_images
from keras_arcface.data.pairs import PairSet


def embed_images(model, images, flip: bool = True, batch_size: int = 64, progress: bool = True) -> np.ndarray:
    """Embeds decoded images.

    Args:
        model: a Keras model or any function, images `(batch, height, width, 3)` in 0..255 -> `(batch, dim)`.
        images: uint8 array `(n, height, width, 3)`.
        flip: whether to add the embedding of the mirror image, before any normalisation, as published figures do.
        batch_size: images per call of the model.
        progress: whether to show a progress bar.

    Returns:
        `(n, dim)` float32, not normalised.
    """

    def embed(batch):
        outputs = model(batch, training=False) if isinstance(model, keras.Model) else model(batch)
        return keras.ops.convert_to_numpy(outputs).astype(np.float32)

    rows = []
    for start in tqdm(
        range(0, len(images), batch_size), desc="embedding", unit="batch", disable=not progress, dynamic_ncols=True
    ):
        batch = np.asarray(images[start : start + batch_size])
        rows.append(embed(batch) + embed(np.ascontiguousarray(batch[:, :, ::-1])) if flip else embed(batch))
    return np.concatenate(rows)


def embed_pairs(model, pairs: PairSet, flip: bool = True, batch_size: int = 64, progress: bool = True) -> np.ndarray:
    """Embeds the images of a pair set, in order: what `verify` takes.

    Args:
        model, flip, batch_size, progress: as for `embed_images`.
        pairs: a `keras_arcface.data.PairSet`.

    Returns:
        `(2n, dim)` float32, not normalised.

    Raises:
        ValueError: naming the image, if one cannot be decoded or has another size than the rest.
    """
    return embed_images(model, _decode_all(pairs), flip, batch_size, progress)


def _decode_all(pairs: PairSet) -> np.ndarray:
    sizes = [
        encoded_images.size_of(image, f"image {index} (of pair {index // 2})")
        for index, image in enumerate(pairs.images)
    ]
    for index, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(
                f"image {index} (of pair {index // 2}) has another size than the images before it. "
                f"Expected: {sizes[0]} (height, width). Received: {size}"
            )
    return encoded_images.decode_batch(tf.constant(pairs.images), sizes[0]).numpy()
