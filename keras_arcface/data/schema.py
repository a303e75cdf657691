"""The TFRecord schema: one `tf.train.Example` per image. Nothing else in the package names its fields."""

import tensorflow as tf

VERSION = 1

_FEATURES = {
    "image": tf.io.FixedLenFeature((), tf.string),  # the encoded file, JPEG or PNG, as it was found
    "label": tf.io.FixedLenFeature((), tf.int64),  # in [0, num_classes)
    "name": tf.io.FixedLenFeature((), tf.string),  # where it came from, for error messages
}


def encode(image: bytes, label: int, name: str) -> bytes:
    """Serialises one example."""
    return _before_image(len(image), label, name) + image


def encode_parts(image: bytes, label: int, name: str) -> tuple[bytes, bytes]:
    """What `encode` gives in two parts, without copying the image: `(all before it, image)`."""
    return _before_image(len(image), label, name), image


def label_of(start: bytes) -> int:
    """The label of an example that `encode` made, from its first bytes (`LABEL_WITHIN` are enough).

    Raises:
        ValueError: if these are not the first bytes of such an example.
    """
    at = start.find(_LABEL_ENTRY)
    if not 0 < at <= _LONGEST_VARINT * 4 + 3:
        raise ValueError("no label where the schema has it")
    return _read_varint(start, at + len(_LABEL_ENTRY) + 5)


def parse(serialized):
    """Parses a batch of examples.

    Args:
        serialized: string tensor `(batch,)`.

    Returns:
        `(images, labels, names)`: `(batch,)` strings, int64 and strings.
    """
    example = tf.io.parse_example(serialized, _FEATURES)
    return example["image"], example["label"], example["name"]


# Protocol buffers by hand: `tf.train.Example` takes 20 us for an image, five times as long as its sha256. The wire
# format of a field is a tag byte (number << 3 | 2), the length and the content. The label stands first and the image
# last, so that the labels of a file can be read without its images.
_LONGEST_VARINT = 10
_LABEL_ENTRY = b"\x0a\x05label\x12"
LABEL_WITHIN = 64


def _before_image(image_bytes: int, label: int, name: str) -> bytes:
    value = _varint(label)
    label_list = b"\x1a" + bytes([len(value) + 2]) + b"\x0a" + bytes([len(value)]) + value
    label_entry = _field(_LABEL_ENTRY + bytes([len(label_list)]) + label_list)
    name_entry = _field(b"\x0a\x04name" + _field(_field(_field(name.encode()), b"\x0a"), b"\x12"))
    # From the inside out: BytesList.value, Feature.bytes_list, the entry's value, the entry.
    image_start = b"\x0a" + _varint(image_bytes)
    inside = len(image_start) + image_bytes
    image_start = b"\x0a" + _varint(inside) + image_start
    inside = len(image_start) + image_bytes
    image_start = b"\x0a\x05image\x12" + _varint(inside) + image_start
    inside = len(image_start) + image_bytes
    image_start = b"\x0a" + _varint(inside) + image_start
    features = len(label_entry) + len(name_entry) + len(image_start) + image_bytes
    return b"".join((b"\x0a", _varint(features), label_entry, name_entry, image_start))


def _field(content: bytes, tag: bytes = b"\x0a") -> bytes:
    return tag + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    low = []
    while value >= 0x80:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*low, value))


def _read_varint(data: bytes, at: int) -> int:
    value = 0
    for shift, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value
    raise ValueError("a number that does not end")
