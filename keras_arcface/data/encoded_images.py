"""Checks, converts and decodes encoded images.

In every format an image has the pixels that `cv2.imread` returns. TensorFlow decodes JPEG and PNG files to exactly
these pixels, unless EXIF data rotates them. OpenCV decodes rotated files and all other formats, which become PNG files.
"""

import re
import struct

import cv2
import numpy as np
import tensorflow as tf

# Images whose header declares more pixels are rejected before decoding, because a few hundred kilobytes can expand to a
# gigabyte. Served models have the same limit.
MAX_PIXELS = 4096 * 4096

_IMAGES_PER_ITERATION = 16
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (JPEG, PNG, b"GIF8", b"BM")
_EXIF_MARKERS = {JPEG: b"Exif\0\0", PNG: b"eXIf"}
# An EXIF marker followed, in either byte order, by the orientation's tag, its type and count, and a value from 2 to 8.
_EXIF_ORIENTATION = r"(?i:exif)\C*?(?:\x12\x01\C{6}[\x02-\x08]\x00|\x01\x12\C{6}\x00[\x02-\x08])"


def decode_jpeg_or_png(encoded):
    """Decodes one JPEG or PNG image, color or gray, to RGB. EXIF data is ignored.

    Args:
        encoded: scalar string tensor.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    # The op also decodes PNG. Its default inverse DCT is faster but less exact, and no other decoder uses it.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def has_exif_orientation(encoded):
    """Returns whether EXIF data rotates or mirrors images. False positives are possible, false negatives are not.

    Args:
        encoded: string tensor of any shape, with JPEG and PNG files.

    Returns:
        bool tensor of the same shape.
    """
    # Searching and replacing takes a fifth of the time of `tf.strings.regex_full_match`.
    remaining = tf.strings.regex_replace(encoded, _EXIF_ORIENTATION, "", replace_global=False)
    return tf.strings.length(remaining) < tf.strings.length(encoded)


def decode_batch(encoded, names, image_size):
    """Decodes a batch of images of one size, in any format.

    Args:
        encoded: string tensor `(batch,)`.
        names: string tensor `(batch,)`, the names of the images for error messages.
        image_size: `(height, width)` of every image.

    Returns:
        uint8 tensor `(batch, height, width, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: naming the image, if one has another size or OpenCV cannot read it.
    """
    shape = (*image_size, 3)
    encoded = tf.cond(
        tf.reduce_all(_needs_no_conversion(encoded)),
        lambda: encoded,
        lambda: tf.ensure_shape(tf.numpy_function(_all_to_jpeg_or_png, [encoded, names], tf.string), encoded.shape),
    )
    # A loop that decodes one image per iteration costs a sixth more.
    group_size = max(k for k in range(1, _IMAGES_PER_ITERATION + 1) if (encoded.shape[0] or 1) % k == 0)

    def decode_group(group):
        encoded_group, names_group = group
        pixels = [decode_jpeg_or_png(image) for image in tf.unstack(encoded_group, group_size)]
        shapes = tf.stack([tf.shape(image) for image in pixels])
        is_wrong = tf.reduce_any(shapes != shape, axis=1)
        message = [
            f"images must have the shape {shape}. Received:",
            tf.boolean_mask(names_group, is_wrong),
            tf.boolean_mask(shapes, is_wrong),
        ]
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(is_wrong)), message)]):
            return tf.ensure_shape(tf.stack(pixels), (group_size, *shape))

    groups = (tf.reshape(encoded, (-1, group_size)), tf.reshape(names, (-1, group_size)))
    pixels = tf.map_fn(decode_group, groups, fn_output_signature=tf.TensorSpec((group_size, *shape), tf.uint8))
    return tf.ensure_shape(tf.reshape(pixels, (-1, *shape)), (encoded.shape[0], *shape))


def _needs_no_conversion(encoded):
    """Returns whether images are JPEG or PNG files without an EXIF orientation: string tensor -> bool tensor."""
    is_jpeg, is_png = (tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG))
    return tf.logical_and(tf.logical_or(is_jpeg, is_png), tf.logical_not(has_exif_orientation(encoded)))


def _all_to_jpeg_or_png(encoded: np.ndarray, names: np.ndarray) -> np.ndarray:
    named_images = zip(encoded, names, strict=True)
    return np.array([to_jpeg_or_png(image, name.decode(errors="replace")) for image, name in named_images], object)


def has_known_signature(encoded: bytes) -> bool:
    """Returns whether the first bytes are those of a JPEG, PNG, GIF or BMP file."""
    return encoded.startswith(_SIGNATURES)


def to_jpeg_or_png(encoded: bytes, name: str) -> bytes:
    """Converts an image to one that `decode_jpeg_or_png` decodes as OpenCV does.

    JPEG and PNG files without an EXIF orientation are returned unchanged. All other files that OpenCV reads (BMP, GIF,
    WebP, TIFF, PGM ...) become a PNG with the pixels that OpenCV returns: the EXIF orientation is applied, a palette is
    replaced by its colors, an animation by its first frame, and an alpha channel is dropped. 16-bit pixels stay 16-bit.

    Args:
        encoded: the content of the file.
        name: the name of the image for error messages.

    Returns:
        The content of a JPEG or PNG file.

    Raises:
        ValueError: naming the image, if OpenCV cannot read it, if PNG cannot store it without loss, or if its header
            declares more than `MAX_PIXELS` pixels.
    """
    signature = next((signature for signature in _EXIF_MARKERS if encoded.startswith(signature)), None)
    if signature is not None:
        if _EXIF_MARKERS[signature] not in encoded or not has_exif_orientation(encoded):
            return encoded
        decoded_size(encoded, name)  # OpenCV would silently decode the readable part of a damaged JPEG
    elif has_known_signature(encoded):
        _check_num_pixels(header_size(encoded, name), encoded, name)
    # With IMREAD_ANYCOLOR, OpenCV decodes BMP files with the oldest header as gray.
    flags = cv2.IMREAD_COLOR if encoded.startswith(b"BM") else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:  # the header declares more pixels than OpenCV accepts
        pixels = None
    if pixels is None:
        raise ValueError(_not_readable(encoded, name, "OpenCV cannot decode this format"))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name} cannot be converted to PNG without loss: pixels must have 8 or 16 bits. "
            f"Received: dtype={pixels.dtype}"
        )
    return cv2.imencode(".png", pixels)[1].tobytes()


def decoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes a JPEG or PNG to check it, and returns its size.

    Args:
        encoded: the content of the file.
        name: the name of the image for error messages.

    Returns:
        `(height, width)`, before an EXIF orientation is applied.

    Raises:
        ValueError: naming the image, if it cannot be decoded or its header declares more than `MAX_PIXELS` pixels.
    """
    try:
        declared = header_size(encoded, name) or tuple(tf.image.extract_jpeg_shape(encoded).numpy().tolist()[:2])
        _check_num_pixels(declared, encoded, name)
        height, width, _ = decode_jpeg_or_png(encoded).shape
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*\]", "", (error.message or "unknown format").splitlines()[0]).strip()
        raise ValueError(_not_readable(encoded, name, reason)) from error
    return height, width


def _check_num_pixels(size: tuple[int, int] | None, encoded: bytes, name: str) -> None:
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(_not_readable(encoded, name, f"{size[0]} x {size[1]} pixels; the limit is {MAX_PIXELS}"))


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def _decoded_shapes(encoded):
    def shapes(group):
        images = tf.unstack(group, _IMAGES_PER_ITERATION)
        return tf.stack([tf.shape(decode_jpeg_or_png(image), tf.int64) for image in images])

    groups = tf.reshape(encoded, (-1, _IMAGES_PER_ITERATION))
    return tf.map_fn(shapes, groups, fn_output_signature=tf.TensorSpec((_IMAGES_PER_ITERATION, 3), tf.int64))


def can_all_be_decoded(encoded: list[bytes], image_size: tuple[int, int]) -> bool:
    """Returns whether all JPEG and PNG images can be decoded to one size, without saying which cannot.

    `decoded_size` finds the image and the reason, but is slower.
    """
    try:
        if any(header_size(image, "") != image_size for image in encoded):
            return False
        padded = [*encoded, *encoded[:1] * (-len(encoded) % _IMAGES_PER_ITERATION)]
        return bool((_decoded_shapes(tf.constant(padded, tf.string)).numpy()[..., :2] == image_size).all())
    except (ValueError, tf.errors.InvalidArgumentError):
        return False


def header_size(encoded: bytes, name: str) -> tuple[int, int] | None:
    """Returns the `(height, width)` that the header declares, or None if it cannot be read without decoding.

    Raises:
        ValueError: naming the image, if it is not a JPEG, PNG, GIF or BMP.
    """
    try:
        if encoded.startswith(JPEG):
            return _jpeg_size(encoded)
        if encoded.startswith(PNG):
            width, height = struct.unpack_from(">II", encoded, 16)
        elif encoded.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", encoded, 6)
        elif encoded.startswith(b"BM"):
            width, height = struct.unpack_from("<HH" if encoded[14:15] == b"\x0c" else "<ii", encoded, 18)
        else:
            raise ValueError(_not_readable(encoded, name, "unknown format"))
    except struct.error:
        return None
    return abs(height), width  # a BMP stores a negative height if its first row is the top one


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    position = 2
    while True:
        marker, length = struct.unpack_from(">HH", encoded, position)
        while marker == 0xFFFF:  # padding before a marker
            position += 1
            marker, length = struct.unpack_from(">HH", encoded, position)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # a start of frame
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return height, width
        if marker < 0xFFC0 or marker == 0xFFDA:  # not a marker, or pixels before any frame
            return None
        position += 2 + length


def _not_readable(encoded: bytes, name: str, reason: str) -> str:
    return (
        f"{name} is not a readable image. Expected: an undamaged JPEG, PNG, or other format that OpenCV reads. "
        f"Received: {len(encoded)} bytes that cannot be decoded ({reason})"
    )
