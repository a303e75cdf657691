"""Encoded images: checked on the way in, decoded on the way out, by the same decoder."""

import re
import struct

import cv2
import numpy as np
import tensorflow as tf

# Larger ones are refused by what their header says: a few hundred kilobytes can hold a gigabyte of pixels.
MOST_PIXELS = 4096 * 4096

_DECODED_AT_ONCE = 16
_MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")


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
    # Some images in one turn of the loop: a loop with one in each costs a sixth more.
    at_once = max(k for k in range(1, _DECODED_AT_ONCE + 1) if (encoded.shape[0] or 1) % k == 0)

    def decode_some(encoded_and_names):
        some, their_names = encoded_and_names
        pixels = [decode(image) for image in tf.unstack(some, at_once)]
        shapes = tf.stack([tf.shape(image) for image in pixels])
        wrong = tf.reduce_any(shapes != shape, axis=1)
        complaint = [
            f"an image is not of the expected shape {shape}:",
            tf.boolean_mask(their_names, wrong),
            tf.boolean_mask(shapes, wrong),
        ]
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), complaint)]):
            return tf.ensure_shape(tf.stack(pixels), (at_once, *shape))

    in_turns = (tf.reshape(encoded, (-1, at_once)), tf.reshape(names, (-1, at_once)))
    pixels = tf.map_fn(decode_some, in_turns, fn_output_signature=tf.TensorSpec((at_once, *shape), tf.uint8))
    return tf.ensure_shape(tf.reshape(pixels, (-1, *shape)), (encoded.shape[0], *shape))


def is_known(encoded: bytes) -> bool:
    """Whether the first bytes are those of a format that TensorFlow decodes: JPEG, PNG, GIF or BMP."""
    return encoded.startswith(_MAGICS)


def to_png(encoded: bytes, name: str) -> bytes:
    """Turns an image that OpenCV can read (PGM, TIFF, WebP ...) into a PNG of the same pixels.

    Raises:
        ValueError: naming the image, if OpenCV cannot read it or PNG cannot hold it without loss.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if encoded else None
    except cv2.error:  # refuses what claims to be too large
        pixels = None
    if pixels is None:
        raise ValueError(_unreadable(encoded, name, "of no format that OpenCV can decode either"))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name} cannot become a PNG without loss. Expected: pixels of 8 or 16 bits. Received: {pixels.dtype}"
        )
    return cv2.imencode(".png", pixels)[1].tobytes()


def size_of(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes an image to check it.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: naming the image, if it cannot be decoded, or is larger than `MOST_PIXELS` by its header.
    """
    try:
        told = header_size(encoded, name) or tuple(tf.image.extract_jpeg_shape(encoded).numpy().tolist()[:2])
        if told[0] * told[1] > MOST_PIXELS:
            raise ValueError(_unreadable(encoded, name, f"{told[0]} x {told[1]} pixels; the limit is {MOST_PIXELS}"))
        height, width, _ = decode(encoded).shape
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*\]", "", (error.message or "unknown format").splitlines()[0]).strip()
        raise ValueError(_unreadable(encoded, name, reason)) from error
    return height, width


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def _decoded_shapes(encoded):
    def shapes(some):
        return tf.stack([tf.shape(decode(image), tf.int64) for image in tf.unstack(some, _DECODED_AT_ONCE)])

    in_turns = tf.reshape(encoded, (-1, _DECODED_AT_ONCE))
    return tf.map_fn(shapes, in_turns, fn_output_signature=tf.TensorSpec((_DECODED_AT_ONCE, 3), tf.int64))


def can_all_be_decoded(encoded: list[bytes], image_size: tuple[int, int]) -> bool:
    """Whether all images are whole and of one size; if not, `size_of` says which is not, and why."""
    try:
        if any(header_size(image, "") != image_size for image in encoded):
            return False
        filled_up = [*encoded, *encoded[:1] * (-len(encoded) % _DECODED_AT_ONCE)]
        return bool((_decoded_shapes(tf.constant(filled_up, tf.string)).numpy()[..., :2] == image_size).all())
    except (ValueError, tf.errors.InvalidArgumentError):
        return False


def header_size(encoded: bytes, name: str) -> tuple[int, int] | None:
    """What the header says of `(height, width)`, without decoding; None where it does not say it plainly.

    Raises:
        ValueError: naming the image, if this is no JPEG, PNG, GIF or BMP.
    """
    try:
        if encoded.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(encoded)
        if encoded.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", encoded, 16)
        elif encoded.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", encoded, 6)
        elif encoded.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", encoded, 18)
        else:
            raise ValueError(_unreadable(encoded, name, "unknown format"))
    except struct.error:
        return None
    return abs(height), width  # the rows of a BMP of negative height run from the top


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", encoded, at)
        while marker == 0xFFFF:  # padding before a marker
            at += 1
            marker, length = struct.unpack_from(">HH", encoded, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # a start of frame
            return struct.unpack_from(">HH", encoded, at + 5)
        if marker < 0xFFC0 or marker == 0xFFDA:  # no marker, or pixels before any frame
            return None
        at += 2 + length


def _unreadable(encoded: bytes, name: str, reason: str) -> str:
    return (
        f"{name} is not a readable image. Expected: a whole JPEG, PNG, GIF or BMP. Received: {len(encoded)} bytes "
        f"that TensorFlow cannot decode ({reason})"
    )
