import keras
import numpy as np
import pytest
from keras import ops

from keras_arcface import _pixels


@pytest.fixture(autouse=True)
def _no_earlier_warnings(monkeypatch):
    monkeypatch.setattr(_pixels, "_warned", set())


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))
SCALED = {
    "to 0..1": (IMAGES / 255).astype("float32"),
    "to -1..1": (IMAGES / 127.5 - 1).astype("float32"),
    "in half precision": (IMAGES / 255).astype("float16"),
}
UNSCALED = {
    "bytes": IMAGES.astype("uint8"),
    "floats": IMAGES.astype("float16"),
    "bytes of two values": (IMAGES > 127).astype("uint8"),
    "black": np.zeros((3, 8, 8, 3), "uint8"),
    "none": IMAGES[:0],
}


@pytest.mark.parametrize("images", SCALED.values(), ids=SCALED)
def test_scaled_pixels_emit_one_warning(images):
    with pytest.warns(UserWarning, match=r"pixels of `x` are all within 0\.\.1.*expects RGB in 0\.\.255"):
        _pixels.warn_if_unit_range(images, "`x`")
    _pixels.warn_if_unit_range(images, "`x`")  # a second warning would be an error
    assert bool(_pixels.has_unit_range(ops.convert_to_tensor(images, keras.backend.standardize_dtype(images.dtype))))


@pytest.mark.parametrize("images", UNSCALED.values(), ids=UNSCALED)
def test_unscaled_pixels_pass(images):
    _pixels.warn_if_unit_range(images, "`x`")
    assert not bool(_pixels.has_unit_range(images))


FLOATS = IMAGES.astype("float32")


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16", "float16", "float32", "float64", "bfloat16"])
def test_pixels_of_any_number_type_are_returned(dtype):
    images = np.asarray(ops.convert_to_numpy(ops.cast(IMAGES, dtype))) if dtype == "bfloat16" else IMAGES.astype(dtype)
    assert _pixels.check_pixels(images, "`x`") is images
    np.testing.assert_array_equal(_pixels.to_uint8(images, "`x`"), images.astype("uint8"))


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (IMAGES - 1, "int64 values from -1 to "),
        (IMAGES + 1 + (IMAGES.max() == IMAGES), "int64 values from .* to 25[67]"),
        (FLOATS * 2, "float32 values from"),
        (np.where(FLOATS > 100, np.nan, FLOATS), "float32 values from nan to nan"),
        (np.where(FLOATS > 100, -np.inf, FLOATS), "float32 values from -inf to"),
        (IMAGES > 100, "an array of bool"),
        (IMAGES[0], "one image. Pass image"),
        (IMAGES[..., 0], "gray images"),
        (IMAGES[..., [0, 1, 2, 0]], r"an array of shape \(3, 8, 8, 4\)$"),
    ],
)
def test_other_arrays_are_refused(images, received):
    with pytest.raises(ValueError, match=rf"`x` expects RGB pixels in 0\.\.255 of shape .* Received: .*{received}"):
        _pixels.check_pixels(images, "`x`")


@pytest.mark.parametrize("images", [FLOATS + 0.5, FLOATS - 1, FLOATS + 1, SCALED["to 0..1"]])
def test_numbers_that_uint8_does_not_have_are_refused(images):
    with pytest.raises(ValueError, match=r"`x` expects RGB pixels of type uint8, .* Received: other numbers of type"):
        _pixels.to_uint8(np.where(IMAGES == 255, 255.5, images), "`x`")
