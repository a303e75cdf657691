"""Photos of many kinds, as `read_photo` returns them."""

import io

import cv2
import numpy as np
import pytest
from conftest import encode
from conftest import make_face
from image_formats import exif
from image_formats import pillow
from image_formats import saved
from PIL import Image

from keras_arcface import _image_headers
from keras_arcface.faces import read_photo

FACE = make_face(0, 0, (24, 36))
COLOR = Image.fromarray(FACE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    encoded = saved(COLOR, kind, exif=exif(orientation))
    photo = read_photo(encoded)
    np.testing.assert_allclose(photo.astype(int), pillow(encoded), atol=3 if kind == "JPEG" else 0)
    assert photo.shape == ((24, 36, 3) if orientation < 5 else (36, 24, 3))


@pytest.mark.parametrize(
    ("encoded", "tolerance"),
    [
        (saved(COLOR.convert("L"), "PNG"), 0),
        (saved(COLOR.convert("L"), "JPEG"), 3),
        (saved(COLOR.convert("LA"), "PNG"), 0),
        (saved(COLOR.convert("RGBA"), "PNG"), 0),
        (saved(COLOR.quantize(64), "PNG"), 0),
        (saved(COLOR.convert("1"), "PNG"), 0),
        (encode(FACE.astype(np.uint16) * 257), 0),
        (saved(COLOR, "BMP"), 0),
        (saved(COLOR, "PPM"), 0),
    ],
    ids=["gray", "gray JPEG", "gray with alpha", "alpha", "palette", "1 bit", "16 bit", "BMP", "PPM"],
)
def test_every_kind_becomes_8_bit_rgb(encoded, tolerance):
    photo = read_photo(encoded)
    assert photo.dtype == np.uint8
    expected = FACE if encoded == encode(FACE.astype(np.uint16) * 257) else pillow(encoded)
    np.testing.assert_allclose(photo.astype(int), expected, atol=tolerance)


def test_cmyk_is_converted():
    photo = read_photo(saved(COLOR.convert("CMYK"), "JPEG", quality=98))
    np.testing.assert_allclose(photo.astype(int), FACE, atol=20)


def animation(kind):
    file = io.BytesIO()
    COLOR.save(file, kind, save_all=True, append_images=[Image.fromarray(255 - FACE)], duration=100, lossless=True)
    return file.getvalue()


def test_the_first_image_of_an_animated_png_is_read():
    np.testing.assert_array_equal(read_photo(animation("PNG")), FACE)


@pytest.mark.parametrize(("kind", "reason"), [("WEBP", "an animation"), ("GIF", "unknown format")])
def test_other_animations_are_refused(kind, reason):
    with pytest.raises(ValueError, match=reason):
        read_photo(animation(kind))


def test_heic_is_read_upright():
    pillow_heif = pytest.importorskip("pillow_heif", reason="reads HEIC photos")
    file = io.BytesIO()
    pillow_heif.from_pillow(COLOR).save(file, quality=95)
    photo = read_photo(file.getvalue())
    assert photo.shape == FACE.shape
    assert np.abs(photo.astype(int) - FACE).mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_refused(kind, share):
    encoded = saved(Image.fromarray(make_face(0, 0, (200, 300))), kind)
    with pytest.raises(ValueError, match=r"photo is not a readable photo.*bytes"):
        read_photo(encoded[: int(share * len(encoded))])


@pytest.mark.parametrize(
    "encoded", [b"", b"GIF89a" + bytes(100), b"text", b"\xff\xd8\xff", b"\0\0\0\x18ftypheic" + bytes(99)]
)
def test_other_files_are_refused(encoded, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded)
    with pytest.raises(ValueError, match=r"photo\.jpg is not a readable photo"):
        read_photo(path)


def test_a_header_of_too_many_pixels_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(_image_headers, "MAX_PHOTO_PIXELS", 24 * 36 - 1)
    with pytest.raises(ValueError, match="24 x 36 pixels; the limit is 863"):
        read_photo(encode(FACE))


def test_photos_may_be_larger_than_images_of_a_dataset():
    large = np.zeros((4097, 4097), np.uint8)
    assert large.size > _image_headers.MAX_PIXELS
    assert read_photo(cv2.imencode(".png", large)[1].tobytes()).shape == (4097, 4097, 3)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg must be an existing image file"):
        read_photo(tmp_path / "absent.jpg")


def test_pixels_are_returned():
    assert read_photo(FACE) is FACE
    np.testing.assert_array_equal(read_photo(FACE[..., 0]), np.repeat(FACE[..., :1], 3, axis=2))
    for wrong in (FACE.astype(np.float32), FACE[np.newaxis], FACE[..., :2], FACE[:0]):
        with pytest.raises(ValueError, match="photo must be RGB pixels"):
            read_photo(wrong)
