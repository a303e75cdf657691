"""The TFRecord schema: one `tf.train.Example` per image. Nothing else in the package names its fields."""

import functools

import tensorflow as tf

VERSION = 1

_FEATURES = {
    "image": tf.io.FixedLenFeature((), tf.string),  # the encoded file, JPEG or PNG, as it was found
    "label": tf.io.FixedLenFeature((), tf.int64),  # in [0, num_classes)
    "name": tf.io.FixedLenFeature((), tf.string),  # where it came from, for error messages
}


def encode(image: bytes, label: int, name: str) -> bytes:
    """Serializes one example."""
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
# last, so that the labels of a file can be read without its images. What precedes a value depends on its length alone.
LABEL_WITHIN = 64
_LONGEST_VARINT = 10
_LABEL_ENTRY = b"\x0a\x05label\x12"
_NAME_ENTRY = b"\x0a\x04name\x12"
_IMAGE_ENTRY = b"\x0a\x05image\x12"


def _before_image(image_bytes: int, label: int, name: str) -> bytes:
    label_entry, encoded_name, image_start = (
        _label_entry(label),
        name.encode(errors="backslashreplace"),
        _before_bytes(_IMAGE_ENTRY, image_bytes),
    )
    name_start = _before_bytes(_NAME_ENTRY, len(encoded_name))
    features = len(label_entry) + len(name_start) + len(encoded_name) + len(image_start) + image_bytes
    return b"".join((_before_content(features), label_entry, name_start, encoded_name, image_start))


@functools.lru_cache(maxsize=1 << 16)
def _label_entry(label: int) -> bytes:
    value = _varint(label)
    int64_list = _before_content(len(value)) + value
    feature = b"\x1a" + _varint(len(int64_list)) + int64_list
    entry = _LABEL_ENTRY + _varint(len(feature)) + feature
    return _before_content(len(entry)) + entry


@functools.lru_cache(maxsize=1 << 16)
def _before_bytes(entry: bytes, length: int) -> bytes:
    """The entry of a value of bytes, up to the value."""
    start = b""
    # From the inside out: the value in a BytesList, this in a Feature, this in the entry, this in Features.
    for tag in (b"\x0a", b"\x0a", entry, b"\x0a"):
        start = tag + _varint(len(start) + length) + start
    return start


@functools.lru_cache(maxsize=1 << 16)
def _before_content(length: int) -> bytes:
    return b"\x0a" + _varint(length)


def _varint(value: int) -> bytes:
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
