"""Decoding inside a served graph, such that one bad image costs its own row and nothing else.

A server puts the images of many requests into one batch, and an op that fails fails them all. No decoding op of
TensorFlow can be told not to fail, but a dataset can be told to go on without the elements that did: so the images
run through a dataset inside the graph, each with its row number, and are put back where they belong.
"""

import tensorflow as tf

# Larger images are refused by what their header says: a few hundred kilobytes can hold a gigabyte of pixels.
_MOST_PIXELS = 4096 * 4096


def decode_rows(encoded, image_size):
    """Decodes images of any size and format, and never fails.

    Args:
        encoded: string tensor `(n,)`: JPEG, PNG, GIF (first frame) or BMP.
        image_size: `(height, width)` to which every image is resized.

    Returns:
        `(images, valid)`: uint8 `(n, height, width, 3)` RGB, black where undecodable, and bool `(n,)`.
    """
    shape = (*image_size, 3)

    def decode(row, image):
        with tf.control_dependencies([_check_size(image)]):
            pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
        return row, _resize(pixels, image_size)

    rows = tf.shape(encoded, out_type=tf.int64)[0]
    decoded = (
        tf.data.Dataset.from_tensor_slices(encoded)
        .enumerate()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
    )
    # The element after the last row keeps the batch from being empty when nothing can be decoded.
    tail = tf.data.Dataset.from_tensors((rows, tf.zeros(shape, tf.uint8)))
    indices, pixels = decoded.concatenate(tail).batch(rows + 1).get_single_element()
    indices = indices[:, tf.newaxis]
    images = tf.scatter_nd(indices, pixels, [rows + 1, *shape])[:-1]
    valid = tf.scatter_nd(indices, tf.ones_like(indices[:, 0], tf.int32), [rows + 1])[:-1] > 0
    return tf.ensure_shape(images, (None, *shape)), valid


def _resize(pixels, image_size):
    """Leaves images of the right size alone, to the bit."""
    height, width = image_size

    def resized():
        smooth = tf.image.resize(pixels, image_size, antialias=True)
        return tf.cast(tf.round(tf.clip_by_value(smooth, 0.0, 255.0)), tf.uint8)

    fits = tf.reduce_all(tf.shape(pixels) == [height, width, 3])
    return tf.ensure_shape(tf.cond(fits, lambda: pixels, resized), (height, width, 3))


def _check_size(image):
    """Fails, before anything is decoded, for what is no image by its first bytes or is larger than allowed."""

    def starts_with(magic):
        return tf.strings.substr(image, 0, len(magic)) == magic

    def integer(position, length, dtype, little_endian):
        return tf.cast(tf.io.decode_raw(tf.strings.substr(image, position, length), dtype, little_endian)[0], tf.int64)

    def jpeg():
        return tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(image), tf.int64)[:2])

    def png():
        return integer(16, 4, tf.int32, False) * integer(20, 4, tf.int32, False)

    def gif():
        return integer(6, 2, tf.uint16, True) * integer(8, 2, tf.uint16, True)

    def bmp():  # a negative height says that the rows run from the top
        return tf.abs(integer(18, 4, tf.int32, True) * integer(22, 4, tf.int32, True))

    pixels = tf.case(
        [
            (starts_with(b"\xff\xd8\xff"), jpeg),
            (starts_with(b"\x89PNG\r\n\x1a\n"), png),
            (starts_with(b"GIF8"), gif),
            (starts_with(b"BM"), bmp),
        ],
        default=lambda: tf.constant(-1, tf.int64),
        exclusive=True,
    )
    return tf.debugging.Assert(tf.logical_and(pixels > 0, pixels <= _MOST_PIXELS), [pixels])
