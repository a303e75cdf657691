"""Checks of pixels for models that expect RGB in 0..255."""

import sys
import warnings

import keras
import numpy as np
from keras import ops

# Number of checked images. Several images avoid a warning about one dark image; few images keep the check fast.
_MAX_IMAGES = 16

# Limits of floats with a margin, because bicubic and Lanczos resizing produce values outside of 0..255.
_MIN_FLOAT, _MAX_FLOAT = -64, 320

_warned: set[str] = set()


def check_pixels(images, where: str, alternatives: str = "") -> np.ndarray:
    """Returns pixels as a NumPy array. Arrays of uint8 are not read; for others, the minimum and maximum are computed.

    Args:
        images: array or tensor.
        where: function or file that expects the pixels, for errors.
        alternatives: other objects that it accepts, for errors.

    Raises:
        ValueError: unless the shape is `(n, height, width, 3)`, with integers in 0..255, or floats in 0..255 or
            slightly outside. Floats in -1..1 are accepted, see `warn_if_unit_range`.
    """
    pixels = np.asarray(images)
    received = f"an array of shape {pixels.shape}"
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        received = f"{received}, one image. Pass image[np.newaxis]"
    elif pixels.ndim in (2, 3) or (pixels.ndim == 4 and pixels.shape[-1] == 1):
        received = f"{received}, gray images. Repeat the channel three times on the last axis"
    elif pixels.ndim == 4 and pixels.shape[-1] == 3:
        if pixels.dtype == np.uint8 or pixels.size == 0:
            return pixels
        received = f"an array of {pixels.dtype}"
        if pixels.dtype.kind in "uif" or pixels.dtype.name == "bfloat16":
            lowest, highest = pixels.min(), pixels.max()
            if _is_in_range(pixels.dtype, float(lowest), float(highest)):
                return pixels
            received = f"{pixels.dtype} values from {lowest} to {highest}"
    raise ValueError(
        f"{where} expects RGB pixels in 0..255 of shape (n, height, width, 3){alternatives}. Received: {received}"
    )


def _is_in_range(dtype, lowest: float, highest: float) -> bool:
    """Returns whether the minimum and maximum are those of pixels. False for NaN."""
    if dtype.kind in "ui":
        return lowest >= 0 and highest <= 255
    # The minimum of normalized pixels is about minus their maximum.
    is_in_range = lowest >= max(_MIN_FLOAT, -highest / 2) and highest <= _MAX_FLOAT
    return is_in_range or (lowest >= -1 and highest <= 1)


def to_uint8(pixels: np.ndarray, where: str) -> np.ndarray:
    """Returns pixels as uint8, for a model with an input of this type.

    Raises:
        ValueError: unless all pixels are whole numbers in 0..255.
    """
    if pixels.dtype == np.uint8:
        return pixels
    rounded = np.clip(pixels, 0, 255).astype(np.uint8)
    if not np.array_equal(rounded, pixels):
        raise ValueError(
            f"{where} expects RGB pixels of type uint8, or whole numbers in 0..255. Received: other numbers of type "
            f"{pixels.dtype} from {pixels.min()} to {pixels.max()}. Pass pixels in 0..255 as "
            "np.clip(np.rint(images), 0, 255).astype('uint8')"
        )
    return rounded


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
