"""Schema of the records: one `tf.train.Example` per image. Only this module uses the names of the fields."""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_arcface._messages import cut

VERSION = 1

_FEATURES = {
    "image": tf.io.FixedLenFeature((), tf.string),  # an encoded JPEG or PNG file
    "label": tf.io.FixedLenFeature((), tf.int64),  # in [0, num_classes)
    "name": tf.io.FixedLenFeature((), tf.string),  # the origin of the image, for error messages
}

# A prefix of this many bytes is enough for `read_label`.
LABEL_PREFIX_BYTES = 64


def encode(image: bytes, label: int, name: str) -> tuple[bytes, bytes]:
    """Serializes one example, without copying the image.

    Args:
        image: encoded JPEG or PNG file.
        label: integer of at least 0.
        name: origin of the image, for error messages.

    Returns:
        `(prefix, image)`, whose concatenation is the serialized `tf.train.Example`.
    """
    return _prefix(len(image), label, name), image


def parse(serialized):
    """Parses a batch of examples.

    Args:
        serialized: serialized examples, string tensor `(batch,)`.

    Returns:
        `(images, labels, names)`, tensors `(batch,)` of types string, int64 and string.
    """
    example = tf.io.parse_example(serialized, _FEATURES)
    return example["image"], example["label"], example["name"]


def parse_one(serialized: bytes) -> tuple[bytes, int, str]:
    """Parses one example without TensorFlow, whose `parse` takes a hundred times as long for one.

    Returns:
        The image, the label and the name.

    Raises:
        ValueError: if the example is not of this schema.
    """
    try:
        fields = tf.train.Example.FromString(serialized).features.feature
        (image,), (name,) = (fields[key].bytes_list.value for key in ("image", "name"))
        (label,) = fields["label"].int64_list.value
        return image, label, name.decode()
    except (DecodeError, ValueError) as error:
        raise ValueError(f"expected an example with an image, a label and a name. Received: {error}") from error


def read_labels(serialized: Sequence[bytes]) -> np.ndarray:
    """Returns the labels of serialized examples, `(batch,)` int64 array, and checks that they have all fields.

    Raises:
        ValueError: if an example is not of this schema.
    """
    try:
        labels = parse(tf.constant(serialized))[1].numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(cut(error.message.rpartition("}} ")[2])) from error
    for example, label in zip(serialized, labels.tolist(), strict=True):
        if read_label(example[:LABEL_PREFIX_BYTES]) != label:
            raise ValueError(f"expected one label, at the start of the example. Received: another label {label}")
    return labels


def read_label(prefix: bytes) -> int:
    """Returns the label of a serialized example from its first `LABEL_PREFIX_BYTES` bytes.

    Raises:
        ValueError: if the bytes are not the start of an example of this schema.
    """
    position = prefix.find(_LABEL_ENTRY)
    if not 0 < position <= _MAX_VARINT_BYTES * 4 + 3:
        raise ValueError(f"expected an example that starts with its label. Received: {prefix[:16].hex()} ...")
    return _read_varint(prefix, position + len(_LABEL_ENTRY) + 5)


# This module writes the protocol buffer itself because `tf.train.Example` takes 20 us per image, five times as long as
# the sha256 of the image. A field in the wire format is a tag byte (number << 3 | 2), the length and the content. The
# label is the first field and the image the last, so that labels can be read without the images. The bytes before a
# value depend only on its length, so they are cached.
_MAX_VARINT_BYTES = 10
_LABEL_ENTRY = b"\x0a\x05label\x12"
_NAME_ENTRY = b"\x0a\x04name\x12"
_IMAGE_ENTRY = b"\x0a\x05image\x12"


def _prefix(image_bytes: int, label: int, name: str) -> bytes:
    label_field = _label_field(label)
    encoded_name = name.encode(errors="backslashreplace")
    name_prefix = _bytes_field_prefix(_NAME_ENTRY, len(encoded_name))
    image_prefix = _bytes_field_prefix(_IMAGE_ENTRY, image_bytes)
    num_bytes = len(label_field) + len(name_prefix) + len(encoded_name) + len(image_prefix) + image_bytes
    return b"".join((_length_prefix(num_bytes), label_field, name_prefix, encoded_name, image_prefix))


@functools.lru_cache(maxsize=1 << 16)
def _label_field(label: int) -> bytes:
    value = _varint(label)
    int64_list = _length_prefix(len(value)) + value
    feature = b"\x1a" + _varint(len(int64_list)) + int64_list
    entry = _LABEL_ENTRY + _varint(len(feature)) + feature
    return _length_prefix(len(entry)) + entry


@functools.lru_cache(maxsize=1 << 16)
def _bytes_field_prefix(entry: bytes, length: int) -> bytes:
    """Returns the protobuf tags and lengths that precede a bytes feature; `entry` is its encoded map key."""
    prefix = b""
    # The order is from the innermost message to the outermost: BytesList, Feature, entry of the map, Features.
    for tag in (b"\x0a", b"\x0a", entry, b"\x0a"):
        prefix = tag + _varint(len(prefix) + length) + prefix
    return prefix


@functools.lru_cache(maxsize=1 << 16)
def _length_prefix(length: int) -> bytes:
    return b"\x0a" + _varint(length)


def _varint(value: int) -> bytes:
    low = []
    while value >= 0x80:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*low, value))


def _read_varint(data: bytes, position: int) -> int:
    value = 0
    for shift, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80 and value < 2**63:
            return value
    raise ValueError(
        f"expected a varint of at most {_MAX_VARINT_BYTES} bytes, below 2^63. "
        f"Received: {data[position : position + _MAX_VARINT_BYTES].hex()}"
    )
