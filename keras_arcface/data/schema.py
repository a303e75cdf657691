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

    def value(**kwargs):
        return tf.train.Feature(**{kind: type_(value=[item]) for kind, (type_, item) in kwargs.items()})

    features = {
        "image": value(bytes_list=(tf.train.BytesList, image)),
        "label": value(int64_list=(tf.train.Int64List, label)),
        "name": value(bytes_list=(tf.train.BytesList, name.encode())),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse(serialized):
    """Parses a batch of examples.

    Args:
        serialized: string tensor `(batch,)`.

    Returns:
        `(images, labels, names)`: `(batch,)` strings, int64 and strings.
    """
    example = tf.io.parse_example(serialized, _FEATURES)
    return example["image"], example["label"], example["name"]
