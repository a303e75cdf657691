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


def decode_batch(encoded, names, image_size):
    """Decodes a batch of images that all have one size.

    Args:
        encoded: string tensor `(batch,)`.
        names: string tensor `(batch,)`, for the error.
        image_size: `(height, width)` of every image.

    Returns:
        uint8 tensor `(batch, height, width, 3)`; an image of another size is an `InvalidArgumentError` that names it.
    """
    shape = (*image_size, 3)

    def decode_one(encoded_and_name):
        pixels = decode(encoded_and_name[0])
        fits = tf.reduce_all(tf.shape(pixels) == shape)
        complaint = [f"an image is not of the expected shape {shape}:", encoded_and_name[1], tf.shape(pixels)]
        with tf.control_dependencies([tf.debugging.Assert(fits, complaint)]):
            return tf.ensure_shape(pixels, shape)

    return tf.map_fn(decode_one, (encoded, names), fn_output_signature=tf.TensorSpec(shape, tf.uint8))


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
