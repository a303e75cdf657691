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
