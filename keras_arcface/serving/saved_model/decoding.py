"""Decoding of images in the served graph. A damaged image affects only its own row.

A server collects the images of several requests in one batch, so an op that fails would make all of them fail.
TensorFlow's decoding ops fail for damaged images, but a dataset can skip elements that fail. Therefore the graph
contains a dataset that decodes each image together with its row number, and writes the pixels to that row.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_arcface import _image_headers
from keras_arcface.data import encoded_images

# Limit of JPEG and PNG files. The time of a crafted file is in proportion to its size: 4 seconds per MB of a PNG file.
MAX_SERVED_BYTES = 16 * 2**20


def decode_rows(encoded: tf.Tensor, image_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes images of any size to the pixels that OpenCV returns, without errors for damaged images.

    Args:
        encoded: string tensor `(n,)` of encoded images: JPEG and PNG files, which are rotated by their EXIF
            orientation; BMP files of 8, 24 or 32 bits.
        image_size: `(height, width)` of the returned images.

    Returns:
        Tuple `(images, valid)`: uint8 RGB images `(n, height, width, 3)`, and a bool mask `(n,)` of the decoded images.
        All other images are black.
    """
    shape = (*image_size, 3)

    def decode(row, image_and_orientation):
        return row, _resize(_decode(*image_and_orientation), image_size)

    rows = tf.shape(encoded, out_type=tf.int64)[0]
    decoded = (
        tf.data.Dataset.from_tensor_slices((encoded, encoded_images.has_exif_orientation(encoded)))
        .enumerate()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
    )
    # With an additional element after the last row, the batch is not empty even if no image can be decoded.
    tail = tf.data.Dataset.from_tensors((rows, tf.zeros(shape, tf.uint8)))
    indices, pixels = decoded.concatenate(tail).batch(rows + 1).get_single_element()
    indices = indices[:, tf.newaxis]
    placed = tf.scatter_nd(indices, pixels, [rows + 1, *shape])[:-1]
    valid = tf.scatter_nd(indices, tf.ones_like(indices[:, 0], tf.int32), [rows + 1])[:-1] > 0
    return tf.ensure_shape(placed, (None, *shape)), valid


def _resize(pixels: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Resizes an image to `image_size`. An image of this size is returned unchanged."""
    height, width = image_size

    def resized():
        smooth = tf.image.resize(pixels, image_size, antialias=True)
        return tf.cast(tf.round(tf.clip_by_value(smooth, 0.0, 255.0)), tf.uint8)

    fits = tf.reduce_all(tf.shape(pixels) == [height, width, 3])
    return tf.ensure_shape(tf.cond(fits, lambda: pixels, resized), (height, width, 3))


def _decode(image: tf.Tensor, has_orientation: tf.Tensor) -> tf.Tensor:
    """Decodes one image of any size after a check of its header, so that a small file cannot exhaust the memory."""
    return tf.cond(
        _starts_with(image, _image_headers.BMP),
        lambda: _decode_bmp(image),
        lambda: _decode_jpeg_or_png(image, has_orientation),
    )


def _decode_jpeg_or_png(image: tf.Tensor, has_orientation: tf.Tensor) -> tf.Tensor:
    height, width = tf.unstack(encoded_images.declared_sizes(image[tf.newaxis])[0])
    texts = tf.add_n(
        [_count(image, text, _image_headers.MAX_COMPRESSED_TEXTS) for text in _image_headers.COMPRESSED_TEXTS]
    )
    max_png_bytes = encoded_images.max_png_bytes(tf.cast(height, tf.int64) * tf.cast(width, tf.int64))
    is_png = _starts_with(image, _image_headers.PNG)
    is_bounded = (
        (tf.strings.length(image) <= MAX_SERVED_BYTES)
        & encoded_images.has_complete_chunks(image[tf.newaxis])[0]
        & (texts <= _image_headers.MAX_COMPRESSED_TEXTS)
        & ~tf.reduce_any([_has_frame(image, start) for start in _image_headers.ARITHMETIC_FRAMES])
        & (_count(image, _image_headers.SCAN, _image_headers.MAX_SCANS) <= _image_headers.MAX_SCANS)
        # libpng expands all data behind the last row, and the graph cannot check how much that is.
        & (~is_png | (tf.cast(tf.strings.length(image), tf.int64) <= max_png_bytes))
    )

    def decode():
        pixels = encoded_images.decode_jpeg_or_png(image)
        return tf.cond(has_orientation, lambda: _rotate(pixels, _exif_orientation(image)), lambda: pixels)

    return _decode_if(is_bounded, height, width, decode)


def _decode_bmp(image: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file of 24 or 32 bits in the usual channel order, or of 8 bits with a palette."""
    start, header, width, height, compression = (_read_integer(image, at, tf.int32) for at in (10, 14, 18, 22, 30))
    bits = _read_integer(image, 28, tf.uint16)
    plain, masks = compression == 0, b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
    masked = (compression == 3) & (tf.strings.substr(image, 54, len(masks)) == masks)
    known = tf.where(bits == 32, plain | masked, plain & ((bits == 8) | (bits == 24)))

    def apply_palette(pixels):  # TensorFlow returns palette indices as pixels
        table = tf.io.decode_raw(tf.strings.substr(image, 14 + header, start - 14 - header), tf.uint8)
        return tf.gather(tf.reshape(table, (-1, 4))[:, 2::-1], tf.cast(pixels[..., 0], tf.int32))

    def decode():
        pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
        return tf.cond(bits == 8, lambda: apply_palette(pixels), lambda: pixels)

    rows = tf.cast(tf.abs(height), tf.int64)  # a negative height means that the rows are stored from top to bottom
    row_bytes = tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) // 8
    is_complete = tf.cast(start, tf.int64) + rows * row_bytes <= tf.cast(tf.strings.length(image), tf.int64)
    return _decode_if(known & (header >= 40) & (start >= 54) & is_complete, tf.abs(height), width, decode)


def _decode_if(known: Any, height: tf.Tensor, width: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns `decode()` with an assertion that the format is known and the size is allowed."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    sides = tf.stack([height, width])
    is_allowed = tf.reduce_all((sides >= 1) & (sides <= _image_headers.MAX_SIDE))
    is_allowed &= pixels <= _image_headers.MAX_PIXELS
    with tf.control_dependencies([tf.debugging.Assert(known & is_allowed, [height, width])]):
        return tf.ensure_shape(decode(), (None, None, 3))


def _rotate(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors an image by its EXIF orientation."""
    transposed, upside_down, mirrored = (
        tf.reduce_any(orientation == tf.constant(numbers)) for numbers in ((5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7))
    )
    upright = tf.transpose(pixels, tf.where(transposed, [1, 0, 2], [0, 1, 2]))
    return tf.reverse(upright, tf.boolean_mask([0, 1], [upside_down, mirrored]))


_MAX_EXIF_BYTES = 2**20  # longer than any first directory: an offset and a number of entries of 16 bits each


def _exif_orientation(image: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of the EXIF data, or 1 if it is missing."""
    exif = tf.strings.substr(_without_prefix(image, r"^\C*?(?:Exif\x00\x00|eXIf)"), 0, _MAX_EXIF_BYTES)
    content = tf.cast(tf.io.decode_raw(exif, tf.uint8), tf.int32)
    little_endian = _starts_with(exif, b"II*\0")

    def number(first, second):
        return tf.where(little_endian, first + 256 * second, 256 * first + second)

    directory = tf.where(little_endian, number(content[4], content[5]), number(content[6], content[7]))
    entries = content[directory + 2 :][: 12 * number(content[directory], content[directory + 1])]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 12))
    tags, values = number(entries[:, 0], entries[:, 1]), number(entries[:, 8], entries[:, 9])
    found = (tags == 0x0112) & (little_endian | _starts_with(exif, b"MM\0*"))
    return tf.concat([tf.boolean_mask(values, found), [1]], 0)[0]


def _split(image: tf.Tensor, pattern: bytes, limit: int) -> tf.Tensor:
    """Returns the parts before, between and behind the first `limit + 1` occurrences of a pattern."""
    # `tf.strings.split` runs several ops more to return a ragged tensor.
    return tf.raw_ops.StringSplitV2(input=image[tf.newaxis], sep=pattern, maxsplit=limit + 1).values


def _count(image: tf.Tensor, pattern: bytes, limit: int) -> tf.Tensor:
    """Returns how often a pattern occurs, or `limit + 1` if it occurs more often."""
    return tf.size(_split(image, pattern, limit)) - 1


def _has_frame(image: tf.Tensor, start: bytes) -> tf.Tensor:
    """Returns whether a JPEG frame occurs, or its first three bytes so often that they are not by chance."""
    parts = _split(image, start, _MAX_CHANCES)[1:]
    ends = tf.strings.substr(parts, 0, 2)[:, tf.newaxis] == tf.constant(_image_headers.FRAME_LENGTHS_AND_BITS)
    return tf.reduce_any(ends) | (tf.size(parts) > _MAX_CHANCES)


_MAX_CHANCES = 64  # three bytes occur once in 16 MB of random metadata


def _starts_with(image: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.strings.substr(image, 0, len(magic)) == magic


def _without_prefix(image: tf.Tensor, pattern: str) -> tf.Tensor:
    # TensorFlow compiles a pattern that is a tensor only when the op runs, and not for every batch.
    return tf.strings.regex_replace(image, tf.constant(pattern), "", replace_global=False)


def _read_integer(image: tf.Tensor, position: int, kind: tf.DType, little_endian: bool = True) -> tf.Tensor:
    """Returns the integer at a byte position of a file header as int32."""
    return tf.cast(tf.io.decode_raw(tf.strings.substr(image, position, kind.size), kind, little_endian)[0], tf.int32)
