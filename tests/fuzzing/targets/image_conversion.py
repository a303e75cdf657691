"""Converts an image as `write_dataset` does, and decodes the result."""

import numpy as np
from image_formats import CASES

from keras_arcface.data import encoded_images

COVERS = ("keras_arcface/_image_headers.py", "keras_arcface/data/encoded_images.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 5
MAX_MIB = 512


def seeds() -> list[bytes]:
    return list(CASES.values())


def run(data: bytes) -> None:
    message = "a.img "
    try:
        height, width = encoded_images.header_size(data, "a.img")
        converted = encoded_images.to_jpeg_or_png(data, "a.img")
        pixels = encoded_images.decode(converted, "a.img")
    except ValueError as error:
        message = str(error)
        raise
    finally:
        assert message.startswith("a.img "), message
        assert len(message) < 500, message
    assert pixels.dtype == np.uint8
    if converted is data:
        assert pixels.shape == (height, width, 3), (pixels.shape, height, width)
        assert encoded_images.can_all_be_decoded([data], (height, width))
    else:
        assert pixels.size <= 3 * height * width, (pixels.shape, height, width)
