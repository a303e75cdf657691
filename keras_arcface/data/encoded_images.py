"""Checks, conversion and decoding of encoded images.

The pixels of an image are always those that `cv2.imread` returns. TensorFlow decodes JPEG and PNG files to exactly
these pixels, unless EXIF data rotates them. OpenCV decodes rotated files and all other formats, which are stored as
PNG files.
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
# EXIF marker, followed in either byte order by the tag of the orientation, its type and count, and a value from 2 to 8.
_EXIF_ORIENTATION = r"(?i:exif)\C*?(?:\x12\x01\C{6}[\x02-\x08]\x00|\x01\x12\C{6}\x00[\x02-\x08])"


def decode_jpeg_or_png(encoded):
    """Decodes one JPEG or PNG image, in color or gray, to RGB. EXIF data is ignored.

    Args:
        encoded: encoded image, scalar string tensor.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    # This op also decodes PNG. Its default inverse DCT is faster, but less exact than that of all other decoders.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def has_exif_orientation(encoded):
    """Returns a mask of the images that EXIF data rotates or mirrors.

    False positives are possible, false negatives are not.

    Args:
        encoded: JPEG and PNG files, string tensor of any shape.

    Returns:
        Bool tensor of the same shape.
    """
    # `tf.strings.regex_full_match` would need five times as much time.
    remaining = tf.strings.regex_replace(encoded, _EXIF_ORIENTATION, "", replace_global=False)
    return tf.strings.length(remaining) < tf.strings.length(encoded)


def decode_batch(encoded, names, image_size):
    """Decodes a batch of images of the same size, in any format.

    Args:
        encoded: encoded images, string tensor `(batch,)`.
        names: names of the images for error messages, string tensor `(batch,)`.
        image_size: `(height, width)` of every image.

    Returns:
        uint8 tensor `(batch, height, width, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: if an image has another size or OpenCV cannot read it. The message names the
            image.
    """
    shape = (*image_size, 3)
    encoded = tf.cond(
        tf.reduce_all(_needs_no_conversion(encoded)),
        lambda: encoded,
        lambda: tf.ensure_shape(tf.numpy_function(_convert_all, [encoded, names], tf.string), encoded.shape),
    )
    # Decoding several images per iteration saves a sixth of the time.
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
    """Returns a bool mask of the images that are JPEG or PNG files without an EXIF orientation."""
    is_jpeg, is_png = (tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG))
    return tf.logical_and(tf.logical_or(is_jpeg, is_png), tf.logical_not(has_exif_orientation(encoded)))


def _convert_all(encoded: np.ndarray, names: np.ndarray) -> np.ndarray:
    named_images = zip(encoded, names, strict=True)
    return np.array([to_jpeg_or_png(image, name.decode(errors="replace")) for image, name in named_images], object)


def has_known_signature(encoded: bytes) -> bool:
    """Returns whether the first bytes are the signature of a JPEG, PNG, GIF or BMP file."""
    return encoded.startswith(_SIGNATURES)


def to_jpeg_or_png(encoded: bytes, name: str) -> bytes:
    """Converts an image to a JPEG or PNG file that TensorFlow and OpenCV decode to the same pixels.

    JPEG and PNG files without an EXIF orientation are returned unchanged. All other files that OpenCV reads (BMP, GIF,
    WebP, TIFF, PGM ...) become a PNG with the pixels that OpenCV returns: the EXIF orientation is applied, a palette is
    replaced by its colors, an animation by its first frame, and an alpha channel is dropped. 16-bit pixels are kept.

    Args:
        encoded: content of the file.
        name: name of the image for error messages.

    Returns:
        The content of a JPEG or PNG file.

    Raises:
        ValueError: if OpenCV cannot read the image, if PNG cannot store it without loss, or if its header declares more
            than `MAX_PIXELS` pixels. The message names the image.
    """
    signature = next((signature for signature in _EXIF_MARKERS if encoded.startswith(signature)), None)
    if signature is not None:
        if _EXIF_MARKERS[signature] not in encoded or not has_exif_orientation(encoded):
            return encoded
        decoded_size(encoded, name)  # OpenCV decodes damaged JPEG files partly, without an error
    elif has_known_signature(encoded):
        _check_num_pixels(header_size(encoded, name), encoded, name)
    # With IMREAD_ANYCOLOR, OpenCV decodes BMP files with the oldest header as gray.
    flags = cv2.IMREAD_COLOR if encoded.startswith(b"BM") else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:  # OpenCV raises if the header declares too many pixels
        pixels = None
    if pixels is None:
        raise ValueError(_not_readable(encoded, name, "OpenCV cannot decode this format"))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name} must have pixels of 8 or 16 bits, because it is converted to PNG without loss. "
            f"Received: dtype={pixels.dtype}"
        )
    return cv2.imencode(".png", pixels)[1].tobytes()


def decoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes a JPEG or PNG image to check it, and returns its size.

    Args:
        encoded: content of the file.
        name: name of the image for error messages.

    Returns:
        `(height, width)`, before an EXIF orientation is applied.

    Raises:
        ValueError: if the image cannot be decoded or its header declares more than `MAX_PIXELS` pixels. The message
            names the image.
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
    """Returns whether all JPEG and PNG images can be decoded and have the same given size.

    `decoded_size` is slower, but reports the image and the reason.
    """
    try:
        if any(header_size(image, "") != image_size for image in encoded):
            return False
        padded = [*encoded, *encoded[:1] * (-len(encoded) % _IMAGES_PER_ITERATION)]
        return bool((_decoded_shapes(tf.constant(padded, tf.string)).numpy()[..., :2] == image_size).all())
    except (ValueError, tf.errors.InvalidArgumentError):
        return False


def header_size(encoded: bytes, name: str) -> tuple[int, int] | None:
    """Returns the `(height, width)` in the header, or None if the header is damaged.

    Raises:
        ValueError: if the image is not a JPEG, PNG, GIF or BMP. The message names the image.
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
