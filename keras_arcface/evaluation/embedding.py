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
    # An image often stands in many pairs, and is embedded once.
    firsts = {image: index for index, image in reversed(list(enumerate(pairs.images)))}
    distinct = {image: row for row, image in enumerate(firsts)}
    images = _decode([(image, f"image {index} (of pair {index // 2})") for image, index in firsts.items()])
    embeddings = embed_images(model, images, flip, batch_size, progress)
    return embeddings[[distinct[image] for image in pairs.images]]


def _decode(named_images: list[tuple[bytes, str]]) -> np.ndarray:
    expected = None
    for image, name in named_images:
        size = encoded_images.size_of(image, name)
        expected = expected or size
        if size != expected:
            raise ValueError(
                f"{name} has another size than the rest. Expected: {expected} (height, width). Received: {size}"
            )
    images, names = map(list, zip(*named_images, strict=True))
    return encoded_images.decode_batch(tf.constant(images), tf.constant(names), expected).numpy()
