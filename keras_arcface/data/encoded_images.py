"""Checks, conversion and decoding of encoded images.

The pixels of an image are always those that `cv2.imread` returns. TensorFlow decodes JPEG and PNG files to exactly
these pixels, unless EXIF data rotates them. OpenCV decodes rotated files and all other formats, which are stored as
PNG files.
"""

import re

import cv2
import numpy as np
import tensorflow as tf

from keras_arcface import _image_headers
from keras_arcface._image_headers import BMP
from keras_arcface._image_headers import JPEG
from keras_arcface._image_headers import PNG

_IMAGES_PER_ITERATION = 16
_PNG_START = np.frombuffer(PNG + _image_headers.IMAGE_HEADER, ">i4")
_JPEG_OF_ONE_PIXEL = bytes.fromhex("ffd8 ffc0 000b 08 0001 0001 01 01 11 00 ffda 0008 01 01 00 00 3f 00")
_COMMON_HEADER_BYTES, _COMMON_SEGMENTS = 1024, 10
# Kinds of JPEG segments. Before a scan, common ones are tables, comments and the headers of JFIF and Adobe.
_OTHER, _TABLE, _FRAME, _SCAN = range(4)
_MARKER_KINDS = np.full(256, _OTHER, np.int32)
_MARKER_KINDS[[0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE]] = _TABLE
_MARKER_KINDS[[0xC0, 0xC1, 0xC2]] = _FRAME
_MARKER_KINDS[0xDA] = _SCAN
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


def declared_sizes(encoded):
    """Returns the sizes in the headers of JPEG and PNG images, for which `decode_jpeg_or_png` allocates memory.

    Args:
        encoded: encoded images, string tensor `(n,)` of known length.

    Returns:
        int32 tensor `(n, 2)` of heights and widths.

    Raises:
        tf.errors.InvalidArgumentError: if an image is neither a JPEG file nor a PNG file that starts with its size.
    """
    start = tf.io.decode_raw(encoded, tf.int32, little_endian=False, fixed_length=4 * len(_PNG_START) + 8)
    is_png = tf.reduce_all(start[:, : len(_PNG_START)] == _PNG_START, axis=1)
    jpegs = tf.unstack(tf.where(is_png, _JPEG_OF_ONE_PIXEL, encoded))
    jpeg_sizes = tf.stack([tf.image.extract_jpeg_shape(jpeg)[:2] for jpeg in jpegs])
    return tf.where(is_png[:, tf.newaxis], start[:, :-3:-1], jpeg_sizes)


def max_png_bytes(pixels):
    """Returns the largest number of bytes of a PNG file that is decoded without an exact check."""
    return 8 * pixels + _image_headers.MAX_EXTRA_BYTES


def has_complete_chunks(encoded):
    """Returns a mask of the images without a PNG chunk that is longer than the rest of the file.

    libpng allocates and clears the declared length of a chunk before it reads the content.

    Args:
        encoded: encoded images, string tensor `(n,)`.

    Returns:
        Bool tensor `(n,)`. It is true for all files that are not PNG files.
    """
    is_png = tf.strings.substr(encoded, 0, len(PNG)) == PNG
    num_bytes = tf.cast(tf.strings.length(encoded), tf.int64)

    def read_chunk(start, has_more, is_complete):
        header = tf.strings.substr(encoded, tf.where(has_more, start, 0), 8 * tf.ones_like(start))
        header = tf.cast(tf.io.decode_raw(header, tf.uint8, fixed_length=8), tf.int64)
        end = start + tf.reduce_sum(header[:, :4] * [1 << 24, 1 << 16, 1 << 8, 1], 1) + 12
        is_last = tf.reduce_all(header[:, 4:] == list(b"IEND"), 1)
        is_complete |= has_more & is_last & (end <= num_bytes)
        return end, has_more & ~is_last & (end + 12 <= num_bytes), is_complete

    start = tf.fill(tf.shape(num_bytes), tf.constant(len(PNG), tf.int64))
    _, _, is_complete = tf.while_loop(
        lambda start, has_more, is_complete: tf.reduce_any(has_more),
        read_chunk,
        (start, is_png & (start + 12 <= num_bytes), ~is_png),
        maximum_iterations=_image_headers.MAX_CHUNKS,
    )
    return is_complete


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
    # Most batches consist of JPEG files with common headers, which need no further check.
    pixels = tf.cond(
        _are_common_jpegs(encoded, image_size),
        lambda: _decode_groups(encoded, names, image_size, is_checked=True),
        lambda: _decode_groups(_convert(encoded, names, image_size), names, image_size, is_checked=False),
    )
    return tf.ensure_shape(pixels, (encoded.shape[0], *image_size, 3))


def _convert(encoded, names, image_size):
    """Converts images to JPEG or PNG files, unless all are such files that need no exact check."""
    return tf.cond(
        tf.reduce_all(_needs_no_conversion(encoded, image_size)),
        lambda: encoded,
        lambda: tf.ensure_shape(tf.numpy_function(_convert_all, [encoded, names], tf.string), encoded.shape),
    )


def _decode_groups(encoded, names, image_size, is_checked):
    """Decodes JPEG and PNG files. Raises an error before it decodes one of another size, unless they were checked."""
    # Decoding several images per iteration saves a sixth of the time.
    group_size = max(k for k in range(1, _IMAGES_PER_ITERATION + 1) if (encoded.shape[0] or 1) % k == 0)
    shape = (group_size, *image_size, 3)

    def decode_group(group):
        return tf.ensure_shape(tf.stack([decode_jpeg_or_png(image) for image in tf.unstack(group, group_size)]), shape)

    def check_and_decode_group(groups):
        encoded_group, names_group = groups
        sizes = declared_sizes(tf.ensure_shape(encoded_group, (group_size,)))
        is_wrong = tf.reduce_any(sizes != image_size, axis=1)
        message = [
            f"images must have the size {tuple(image_size)} (height, width). Received:",
            tf.boolean_mask(names_group, is_wrong),
            tf.boolean_mask(sizes, is_wrong),
        ]
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(is_wrong)), message)]):
            return decode_group(tf.identity(encoded_group))

    groups = tf.reshape(encoded, (-1, group_size))
    output = tf.TensorSpec(shape, tf.uint8)
    if is_checked:
        pixels = tf.map_fn(decode_group, groups, fn_output_signature=output)
    else:
        groups = (groups, tf.reshape(names, (-1, group_size)))
        pixels = tf.map_fn(check_and_decode_group, groups, fn_output_signature=output)
    return tf.reshape(pixels, (-1, *image_size, 3))


def _are_common_jpegs(encoded, image_size):
    """Returns whether all images are short JPEG files of the given size with common headers and no EXIF data.

    This check of a whole batch needs a tenth of the time of the exact checks. It follows the segments up to the first
    scan. OpenCV does not apply an EXIF orientation that comes later.

    Args:
        encoded: encoded images, string tensor `(batch,)`.
        image_size: `(height, width)`, which every image must declare.

    Returns:
        Scalar bool tensor. False means that some image needs the exact checks.
    """
    start = tf.io.decode_raw(encoded, tf.uint8, fixed_length=_COMMON_HEADER_BYTES)
    first = tf.range(tf.shape(encoded)[0]) * _COMMON_HEADER_BYTES
    last = first + _COMMON_HEADER_BYTES - 9
    flat, position, segments, are_inside = tf.reshape(start, (-1,)), first + 2, [], []
    for _ in range(_COMMON_SEGMENTS):
        # Marker (2 bytes), number of bytes (2), and in a frame the precision (1), height (2) and width (2).
        segment = tf.cast(tf.gather(flat, position[:, tf.newaxis] + tf.range(9)), tf.int32)
        segments.append(segment)
        are_inside.append(position < last)  # else the segment follows these bytes, and something else is at `last`
        position = tf.minimum(position + 2 + tf.reduce_sum(segment[:, 2:4] * [256, 1], 1), last)
    segments = tf.stack(segments)
    kinds = tf.where(
        (segments[..., 0] == 0xFF) & tf.stack(are_inside), tf.gather(_MARKER_KINDS, segments[..., 1]), _OTHER
    )
    is_scan, is_frame = kinds == _SCAN, kinds == _FRAME
    precedes_scan = tf.cumsum(tf.cast(is_scan, tf.int32)) == 0
    size = [byte for length in image_size for byte in divmod(length, 256)]
    is_common = tf.logical_or(kinds == _TABLE, is_frame & tf.reduce_all(segments[..., 5:] == size, axis=-1))
    num_frames = tf.reduce_sum(tf.cast(is_frame & precedes_scan, tf.int32), axis=0)
    is_image_common = (
        tf.reduce_all(is_common | ~precedes_scan, axis=0)
        & tf.reduce_any(is_scan, axis=0)
        & (num_frames == 1)
        & tf.reduce_all(start[:, :2] == [0xFF, 0xD8], axis=1)
    )
    return tf.reduce_all(is_image_common & _is_short(encoded, image_size))


def _is_short(encoded, image_size):
    # Longer files are decoded only after an exact check of their scans, texts and rows.
    return tf.strings.length(encoded) <= max_png_bytes(image_size[0] * image_size[1])


def _needs_no_conversion(encoded, image_size):
    """Returns a bool mask of the images that are short JPEG or PNG files without an EXIF orientation."""
    is_jpeg, is_png = (tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG))
    is_bounded = _is_short(encoded, image_size) & has_complete_chunks(encoded)
    return tf.logical_and(tf.logical_or(is_jpeg, is_png) & is_bounded, tf.logical_not(has_exif_orientation(encoded)))


def _convert_all(encoded: np.ndarray, names: np.ndarray) -> np.ndarray:
    named_images = zip(encoded, names, strict=True)
    return np.array([to_jpeg_or_png(image, name.decode(errors="replace")) for image, name in named_images], object)


def has_known_signature(encoded: bytes) -> bool:
    """Returns whether the first bytes are the signature of a JPEG, PNG or BMP file."""
    return encoded.startswith((JPEG, PNG, BMP))


def to_jpeg_or_png(encoded: bytes, name: str) -> bytes:
    """Converts an image to a JPEG or PNG file that TensorFlow and OpenCV decode to the same pixels.

    JPEG and PNG files without an EXIF orientation are returned unchanged. All other files (BMP, WebP, TIFF, PGM ...)
    become a PNG with the pixels that OpenCV returns: the EXIF orientation is applied, a palette is replaced by its
    colors, and an alpha channel is dropped. 16-bit pixels are kept.

    Args:
        encoded: content of the file.
        name: name of the image for error messages.

    Returns:
        The content of a JPEG or PNG file.

    Raises:
        ValueError: if the format is unknown, OpenCV cannot read the image, PNG cannot store it without loss, or a limit
            of `_image_headers` is exceeded. The message names the image.
    """
    header_size(encoded, name)
    signature = next((signature for signature in _EXIF_MARKERS if encoded.startswith(signature)), None)
    if signature is not None:
        if _EXIF_MARKERS[signature] not in encoded or not has_exif_orientation(encoded):
            return encoded
        if b"acTL" in encoded:
            raise ValueError(_not_readable(encoded, name, "an animated PNG with an EXIF orientation"))
        decoded_size(encoded, name)  # OpenCV decodes damaged JPEG files partly, without an error
    # With IMREAD_ANYCOLOR, OpenCV decodes BMP files with the oldest header as gray.
    flags = cv2.IMREAD_COLOR if encoded.startswith(BMP) else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:  # OpenCV raises for some damaged files
        pixels = None
    if pixels is None:
        raise ValueError(_not_readable(encoded, name, "OpenCV cannot decode it"))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name} must have pixels of 8 or 16 bits, because it is converted to PNG without loss. "
            f"Received: dtype={pixels.dtype}"
        )
    return cv2.imencode(".png", pixels)[1].tobytes()


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decodes a JPEG or PNG image to RGB. EXIF data is ignored.

    Args:
        encoded: content of the file, such as a result of `to_jpeg_or_png`.
        name: name of the image for error messages.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: if the image cannot be decoded, or a limit of `_image_headers` is exceeded. The message names the
            image.
    """
    header_size(encoded, name)
    try:
        return decode_jpeg_or_png(encoded).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_not_readable(encoded, name, first_line(error))) from error


def decoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes a JPEG or PNG image to check it as `decode` does, and returns its `(height, width)`."""
    height, width, _ = decode(encoded, name).shape
    return height, width


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


def header_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Returns the `(height, width)` for which a decoder of the image allocates memory.

    Raises:
        ValueError: if the format is unknown, the header is damaged, or a limit of `_image_headers` is exceeded. The
            message names the image.
    """
    try:
        return _image_headers.read_size(encoded)
    except ValueError as error:
        raise ValueError(_not_readable(encoded, name, str(error))) from error


def first_line(error: tf.errors.OpError) -> str:
    """Returns the first line of the message of a TensorFlow error, without the names of operations."""
    return re.sub(r"\{\{.*?\}\}|\[Op:.*\]", "", (error.message or "unknown reason").splitlines()[0]).strip()


def _not_readable(encoded: bytes, name: str, reason: str) -> str:
    return (
        f"{name} is not a readable image. Expected: an undamaged {_image_headers.FORMATS} file. "
        f"Received: {len(encoded)} bytes that cannot be decoded ({reason})"
    )
