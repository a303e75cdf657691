"""Encoded images: checked on the way in, decoded on the way out, by the same decoder."""

import re

import tensorflow as tf


def decode(encoded):
    """Decodes one JPEG, PNG, GIF or BMP to RGB, greyscale included; a GIF gives its first frame.

    Args:
        encoded: scalar string tensor.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_batch(encoded, image_size):
    """Decodes a batch of images that all have one size.

    Args:
        encoded: string tensor `(batch,)`.
        image_size: `(height, width)` of every image.

    Returns:
        uint8 tensor `(batch, height, width, 3)`; an image of another size is an `InvalidArgumentError`.
    """
    shape = (*image_size, 3)
    return tf.map_fn(
        lambda image: tf.ensure_shape(decode(image), shape), encoded, fn_output_signature=tf.TensorSpec(shape, tf.uint8)
    )


def size_of(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes an image to check it.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: naming the image, if it cannot be decoded.
    """
    try:
        height, width, _ = decode(encoded).shape
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*\]", "", (error.message or "unknown format").splitlines()[0]).strip()
        raise ValueError(
            f"{name} is not a readable image. Expected: a whole JPEG, PNG, GIF or BMP. Received: {len(encoded)} bytes "
            f"that TensorFlow cannot decode ({reason})"
        ) from error
    return height, width
