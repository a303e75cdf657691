"""Warns about pixels that were scaled to 0..1 for a model that expects 0..255."""

import sys
import warnings

import keras
import numpy as np
from keras import ops

# Images to look at: enough that one dark image decides nothing, few enough to cost nothing.
_IMAGES = 16

_warned = set()


def warn_if_unit_range(images, where: str):
    """Warns if pixels that should be in 0..255 all lie within 0..1, or within -1..1; once per process and `where`.

    Only the first images are looked at. Images that are all black have no range, and pass; so do integers, which scaled
    pixels cannot be.

    Args:
        images: array `(n, height, width, 3)` of numbers.
        where: what the images are for the reader of the warning, such as "`images` of embed_images".
    """
    if where in _warned:
        return
    pixels = np.asarray(images[:_IMAGES])
    if pixels.size and _is_floating(pixels) and _is_unit_range(pixels.min(), pixels.max()):
        warn(where)


def warn(where: str):
    """Gives the warning about `where`, once per process."""
    if where in _warned:
        return
    _warned.add(where)
    warnings.warn(
        f"The pixels of {where} are all within 0..1, or -1..1. The model expects RGB in 0..255 (uint8 or float) and "
        "scales it itself: pass pixels as they were decoded, without `/ 255` or the like.",
        UserWarning,
        stacklevel=_stacklevel_of_the_caller(),
    )


def _stacklevel_of_the_caller() -> int:
    """The `stacklevel` that shows the first frame outside of Keras and this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("keras", "keras_arcface"):
        frame, level = frame.f_back, level + 1
    return level


def unit_range(images):
    """Whether a batch is one to warn about, a bool scalar; with `keras.ops`, so it also runs inside a graph."""
    if not _is_floating(images):
        return ops.convert_to_tensor(False)
    pixels = ops.cast(images[:_IMAGES], "float32")
    return _is_unit_range(ops.min(pixels), ops.max(pixels))


def _is_floating(images):
    return "float" in keras.backend.standardize_dtype(images.dtype)


def _is_unit_range(lowest, highest):
    # The first condition is false for the empty batch of a replica, whose bounds are infinite.
    return (lowest <= highest) & (lowest >= -1) & (highest <= 1) & ((lowest != 0) | (highest != 0))
