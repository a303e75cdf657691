"""Random changes of training images. All are functions of the images and a seed: the same seed, the same change."""

import tensorflow as tf


def flip(images, seed):
    """Mirrors half of the images, left to right.

    Args:
        images: uint8 tensor `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.

    Returns:
        A tensor like `images`.
    """
    mirrored = _uniform(images, seed, stream=0) < 0.5
    return tf.where(mirrored[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.reverse(images, axis=[2]), images)


def affine(images, seed, rotation=0.2, zoom=0.2, shift=0.1):
    """Flips, and rotates, zooms and moves every image a little about its centre, repeating its border.

    Args:
        images: uint8 tensor `(batch, height, width, 3)` of known height and width.
        seed: int tensor `(2,)`.
        rotation: largest rotation, in radians, to either side.
        zoom: largest zoom, as the logarithm of the factor, in and out.
        shift: largest move, as a share of height and width, in any direction.

    Returns:
        A tensor like `images`.
    """
    images = flip(images, seed)
    height, width = images.shape[1:3]
    angle = _uniform(images, seed, 1, rotation)
    factor = tf.exp(_uniform(images, seed, 2, zoom))
    cosine, sine = factor * tf.cos(angle), factor * tf.sin(angle)
    # Output (x, y) is read at input (cosine * x - sine * y + left, sine * x + cosine * y + top), about the centre.
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x - cosine * x + sine * y + width * _uniform(images, seed, 3, shift)
    top = y - sine * x - cosine * y + height * _uniform(images, seed, 4, shift)
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([cosine, -sine, left, sine, cosine, top, zero, zero], axis=1),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _uniform(images, seed, stream, limit=None):
    """One number per image, in [-limit, limit), or [0, 1) without a limit; every stream draws anew."""
    seed = tf.random.experimental.stateless_fold_in(seed, stream)
    low, high = (0.0, 1.0) if limit is None else (-limit, limit)
    return tf.random.stateless_uniform([tf.shape(images)[0]], seed, low, high)
