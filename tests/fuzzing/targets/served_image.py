"""Decodes an image beside a good one in the served graph."""

import functools

import cv2
import numpy as np
import tensorflow as tf
from image_formats import CASES
from image_formats import NOT_SERVED
from image_formats import PNG

from keras_arcface import _image_headers
from keras_arcface.serving.saved_model.decoding import decode_rows

COVERS = ("keras_arcface/serving/saved_model/decoding.py",)
ALLOWED = ()
MAX_SECONDS = 5
MAX_MIB = 512
SIZE = (12, 12)


@functools.cache
def _graph():
    decode = tf.function(lambda images: decode_rows(images, SIZE)).get_concrete_function(
        tf.TensorSpec([None], tf.string)
    )
    return decode, decode(tf.constant([PNG]))[0].numpy()[0]


def seeds() -> list[bytes]:
    _graph()  # tracing takes longer than an input may take
    small = np.arange(108, dtype=np.uint8).reshape(4, 9, 3)
    encoded = [cv2.imencode(suffix, small)[1].tobytes() for suffix in (".png", ".jpg", ".bmp")]
    return encoded + [image for name, image in CASES.items() if name not in NOT_SERVED]


def run(data: bytes) -> None:
    decode, expected = _graph()
    images, valid = (output.numpy() for output in decode(tf.constant([PNG, data])))
    assert valid[0]
    np.testing.assert_array_equal(images[0], expected)
    if not valid[1]:
        assert not images[1].any()
    elif not data.startswith(_image_headers.JPEG):  # conversion also refuses faults behind the last row of a JPEG file
        _image_headers.read_size(data)  # the same limits as in conversion
