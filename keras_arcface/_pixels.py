"""Warning about pixels in 0..1 for models that expect 0..255."""

import sys
import warnings

import keras
import numpy as np
from keras import ops

# Number of checked images. Several images avoid a warning about one dark image; few images keep the check fast.
_MAX_IMAGES = 16

_warned: set[str] = set()


def warn_if_unit_range(images, where: str) -> None:
    """Warns if all pixels are within 0..1 or -1..1 instead of 0..255, once per process and `where`.

    Only the first 16 images are checked. Black images and integers cause no warning: the range of black images is
    unknown, and scaled pixels are never integers.

    Args:
        images: array of shape `(n, height, width, 3)`.
        where: description of the images for the warning, such as "`images` of embed_images".
    """
    if where in _warned:
        return
    pixels = np.asarray(images[:_MAX_IMAGES])
    if pixels.size and _is_floating(pixels) and _is_unit_range(pixels.min(), pixels.max()):
        warn_once(where)


def warn_once(where: str) -> None:
    """Emits the warning, once per process and `where`."""
    if where in _warned:
        return
    _warned.add(where)
    warnings.warn(
        f"The pixels of {where} are all within 0..1, or -1..1. The model expects RGB in 0..255 (uint8 or float) and "
        "scales it itself: pass decoded pixels without scaling such as `/ 255`.",
        UserWarning,
        stacklevel=_caller_stacklevel(),
    )


def _caller_stacklevel() -> int:
    """Returns the `stacklevel` of the first frame outside of Keras and this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("keras", "keras_arcface"):
        frame, level = frame.f_back, level + 1
    return level


def has_unit_range(images):
    """Returns whether `warn_if_unit_range` warns about a batch, as a bool scalar tensor, also inside a graph."""
    if not _is_floating(images):
        return ops.convert_to_tensor(False)
    pixels = ops.cast(images[:_MAX_IMAGES], "float32")
    return _is_unit_range(ops.min(pixels), ops.max(pixels))


def _is_floating(images):
    return "float" in keras.backend.standardize_dtype(images.dtype)


def _is_unit_range(lowest, highest):
    # The first condition is false for the empty batch of a replica, whose minimum and maximum are infinite.
    return (lowest <= highest) & (lowest >= -1) & (highest <= 1) & ((lowest != 0) | (highest != 0))
