"""Encoded images: checked on the way in, decoded on the way out, by the same decoder.

One rule says what an image looks like, whatever its format: what `cv2.imread` shows. TensorFlow shows JPEG and PNG
files in the same way, to the bit, unless EXIF data turns them. Everything else goes through OpenCV and becomes a PNG.
"""

import re
import struct

import cv2
import numpy as np
import tensorflow as tf

# Larger ones are refused by what their header says: a few hundred kilobytes can hold a gigabyte of pixels.
MOST_PIXELS = 4096 * 4096

_DECODED_AT_ONCE = 16
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MAGICS = (JPEG, PNG, b"GIF8", b"BM")
# EXIF data, and in it, in either byte order: the tag of the orientation, its type and count, and a value from 2 to 8.
_EXIF = {JPEG: b"Exif\0\0", PNG: b"eXIf"}
_TURNED = r"(?i:exif)\C*?(?:\x12\x01\C{6}[\x02-\x08]\x00|\x01\x12\C{6}\x00[\x02-\x08])"


def decode(encoded):
    """Decodes one JPEG or PNG to RGB, gray images included; EXIF data is ignored.

    Args:
        encoded: scalar string tensor.

    Returns:
        uint8 tensor `(height, width, 3)`.
    """
    # The op reads PNG too. Its default is a faster, less exact inverse DCT, which no other decoder uses.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def is_turned(encoded):
    """Whether EXIF data turns or mirrors an image. May be true of an image that stays as it is, never the reverse.

    Args:
        encoded: string tensor of any shape, of JPEG and PNG files.

    Returns:
        bool tensor of the same shape.
    """
    # To look for a fixed word takes a fifth of the time of a full match.
    without = tf.strings.regex_replace(encoded, _TURNED, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(encoded)


def decode_batch(encoded, names, image_size):
    """Decodes a batch of images that all have one size, of any format.

    Args:
        encoded: string tensor `(batch,)`.
        names: string tensor `(batch,)`, for the error.
        image_size: `(height, width)` of every image.

    Returns:
        uint8 tensor `(batch, height, width, 3)`; an image of another size, or of a format that OpenCV cannot read, is
        an `InvalidArgumentError` that names it.
    """
    shape = (*image_size, 3)
    encoded = tf.cond(
        tf.reduce_all(_is_plain(encoded)),
        lambda: encoded,
        lambda: tf.ensure_shape(tf.numpy_function(_all_to_jpeg_or_png, [encoded, names], tf.string), encoded.shape),
    )
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


def _is_plain(encoded):
    """Whether images are JPEG or PNG files that no EXIF data turns: string tensor -> bool tensor."""
    is_jpeg, is_png = (tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG))
    return tf.logical_and(tf.logical_or(is_jpeg, is_png), tf.logical_not(is_turned(encoded)))


def _all_to_jpeg_or_png(encoded: np.ndarray, names: np.ndarray) -> np.ndarray:
    pairs = zip(encoded, names, strict=True)
    return np.array([to_jpeg_or_png(image, name.decode(errors="replace")) for image, name in pairs], object)


def is_known(encoded: bytes) -> bool:
    """Whether the first bytes are those of a JPEG, PNG, GIF or BMP file."""
    return encoded.startswith(_MAGICS)


def to_jpeg_or_png(encoded: bytes, name: str) -> bytes:
    """Makes an image one that `decode` shows as OpenCV does.

    JPEG and PNG files are returned as they are, except those that EXIF data turns. Those, and all other formats that
    OpenCV reads (BMP, GIF, WebP, TIFF, PGM ...), become a PNG of the pixels that OpenCV shows: turned as EXIF says, the
    colors of a palette, the first frame on its canvas, without an alpha channel. Pixels of 16 bits keep them.

    Args:
        encoded: the file.
        name: of the image, for the error.

    Raises:
        ValueError: naming the image, if OpenCV cannot read it, PNG cannot hold it without loss, or it is larger than
            `MOST_PIXELS` by its header.
    """
    magic = next((magic for magic in _EXIF if encoded.startswith(magic)), None)
    if magic is not None:
        if _EXIF[magic] not in encoded or not is_turned(encoded):
            return encoded
        size_of(encoded, name)  # OpenCV shows the part of a damaged JPEG that it can read
    elif is_known(encoded):
        _check_size(header_size(encoded, name), encoded, name)
    # BMP files with the oldest header become gray with IMREAD_ANYCOLOR.
    flags = cv2.IMREAD_COLOR if encoded.startswith(b"BM") else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:  # refuses what claims to be too large
        pixels = None
    if pixels is None:
        raise ValueError(_unreadable(encoded, name, "of no format that OpenCV can decode"))
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name} cannot become a PNG without loss. Expected: pixels of 8 or 16 bits. Received: {pixels.dtype}"
        )
    return cv2.imencode(".png", pixels)[1].tobytes()


def size_of(encoded: bytes, name: str) -> tuple[int, int]:
    """Decodes a JPEG or PNG to check it.

    Returns:
        `(height, width)`, without regard to EXIF data.

    Raises:
        ValueError: naming the image, if it cannot be decoded, or is larger than `MOST_PIXELS` by its header.
    """
    try:
        told = header_size(encoded, name) or tuple(tf.image.extract_jpeg_shape(encoded).numpy().tolist()[:2])
        _check_size(told, encoded, name)
        height, width, _ = decode(encoded).shape
    except tf.errors.InvalidArgumentError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*\]", "", (error.message or "unknown format").splitlines()[0]).strip()
        raise ValueError(_unreadable(encoded, name, reason)) from error
    return height, width


def _check_size(told: tuple[int, int] | None, encoded: bytes, name: str) -> None:
    if told is not None and told[0] * told[1] > MOST_PIXELS:
        raise ValueError(_unreadable(encoded, name, f"{told[0]} x {told[1]} pixels; the limit is {MOST_PIXELS}"))


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
        if encoded.startswith(JPEG):
            return _jpeg_size(encoded)
        if encoded.startswith(PNG):
            width, height = struct.unpack_from(">II", encoded, 16)
        elif encoded.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", encoded, 6)
        elif encoded.startswith(b"BM"):
            width, height = struct.unpack_from("<HH" if encoded[14:15] == b"\x0c" else "<ii", encoded, 18)
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
        f"{name} is not a readable image. Expected: a whole JPEG, PNG, or another format that OpenCV reads. Received: "
        f"{len(encoded)} bytes that cannot be decoded ({reason})"
    )
