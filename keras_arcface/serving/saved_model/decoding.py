"""Decoding of images in the served graph. A damaged image affects only its own row.

A server collects the images of several requests in one batch, so an op that fails would make all of them fail.
TensorFlow's decoding ops fail for damaged images, but a dataset can skip elements that fail. Therefore the graph
contains a dataset that decodes each image together with its row number, and writes the pixels to that row.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_arcface.data import encoded_images


def decode_rows(encoded: tf.Tensor, image_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes images of any size to the pixels that OpenCV returns, without errors for damaged images.

    Args:
        encoded: string tensor `(n,)` of encoded images: JPEG and PNG files, which are rotated by their EXIF
            orientation; BMP files of 8, 24 or 32 bits; GIF files whose first frame fills the canvas and has no
            transparent color.
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
    """Decodes one image of any size after a check of the size in its header."""
    is_jpeg, is_png, is_gif = (
        _starts_with(image, magic) for magic in (encoded_images.JPEG, encoded_images.PNG, b"GIF8")
    )
    return tf.cond(
        is_jpeg | is_png,
        lambda: _decode_jpeg_or_png(image, is_jpeg, has_orientation),
        lambda: tf.cond(is_gif, lambda: _decode_gif(image), lambda: _decode_bmp(image)),
    )


def _decode_jpeg_or_png(image: tf.Tensor, is_jpeg: tf.Tensor, has_orientation: tf.Tensor) -> tf.Tensor:
    height, width = tf.unstack(
        tf.cond(
            is_jpeg,
            lambda: tf.image.extract_jpeg_shape(image)[:2],
            lambda: tf.stack([_read_integer(image, at, tf.int32, little_endian=False) for at in (20, 16)]),
        )
    )

    def decode():
        pixels = encoded_images.decode_jpeg_or_png(image)
        return tf.cond(has_orientation, lambda: _rotate(pixels, _exif_orientation(image)), lambda: pixels)

    return _decode_if(True, height, width, decode)


# Pattern of the blocks that may precede the first frame of a GIF.
_GIF_BLOCKS = (
    r"^(?:!\C[\x05-\x7f][^\x00]*\x00"  # comments and similar blocks
    r"|!\C\x0bNETSCAPE2\.0\x03\x01\C\C\x00"  # number of repetitions
    r"|!\C\x04[\x00\x04\x08\x0c]\C{3}\x00)*,"  # display of the frame; odd flags would mean a transparent color
)


def _decode_gif(image: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame of a GIF if it fills the canvas and has no transparent color.

    TensorFlow and OpenCV return different pixels for other frames.
    """
    width, height, flags = (
        _read_integer(image, at, kind) for at, kind in ((6, tf.uint16), (8, tf.uint16), (10, tf.uint8))
    )
    palette = tf.where(flags >= 128, 6 * tf.bitwise.left_shift(1, flags % 8), 0)
    frame = _without_prefix(tf.strings.substr(image, 13 + palette, 4096), _GIF_BLOCKS)
    left, top, frame_width, frame_height = (_read_integer(frame, at, tf.uint16) for at in (0, 2, 4, 6))
    fills = tf.reduce_all(tf.stack([left, top, frame_width, frame_height]) == tf.stack([0, 0, width, height]))
    return _decode_if(fills, height, width, lambda: _first_frame(image))


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
        pixels = _first_frame(image)
        return tf.cond(bits == 8, lambda: apply_palette(pixels), lambda: pixels)

    # A negative height means that the rows are stored from top to bottom.
    return _decode_if(_starts_with(image, b"BM") & known & (header >= 40), tf.abs(height), width, decode)


def _first_frame(image: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(image, channels=3, expand_animations=False)


def _decode_if(known: Any, height: tf.Tensor, width: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns `decode()` with an assertion that the format is known and the size is allowed."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    allowed = tf.reduce_all(tf.stack([known, height > 0, width > 0, pixels <= encoded_images.MAX_PIXELS]))
    with tf.control_dependencies([tf.debugging.Assert(allowed, [height, width])]):
        return tf.ensure_shape(decode(), (None, None, 3))


def _rotate(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors an image by its EXIF orientation."""
    transposed, upside_down, mirrored = (
        tf.reduce_any(orientation == tf.constant(numbers)) for numbers in ((5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7))
    )
    upright = tf.transpose(pixels, tf.where(transposed, [1, 0, 2], [0, 1, 2]))
    return tf.reverse(upright, tf.boolean_mask([0, 1], [upside_down, mirrored]))


def _exif_orientation(image: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of the EXIF data, or 1 if it is missing."""
    exif = _without_prefix(image, r"^\C*?(?:Exif\x00\x00|eXIf)")
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


def _starts_with(image: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.strings.substr(image, 0, len(magic)) == magic


def _without_prefix(image: tf.Tensor, pattern: str) -> tf.Tensor:
    # TensorFlow compiles a pattern that is a tensor only when the op runs, and not for every batch.
    return tf.strings.regex_replace(image, tf.constant(pattern), "", replace_global=False)


def _read_integer(image: tf.Tensor, position: int, kind: tf.DType, little_endian: bool = True) -> tf.Tensor:
    """Returns the integer at a byte position of a file header as int32."""
    return tf.cast(tf.io.decode_raw(tf.strings.substr(image, position, kind.size), kind, little_endian)[0], tf.int32)
