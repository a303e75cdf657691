"""In every format and on every path, images have the pixels of OpenCV and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import decode
from conftest import make_face
from image_formats import CASES
from image_formats import LIKE_OPENCV
from image_formats import LIKE_PILLOW
from image_formats import NOT_READ
from image_formats import NOT_SERVED
from image_formats import PNG
from image_formats import SIZE
from image_formats import bmp
from image_formats import pillow
from image_formats import saved
from PIL import Image

from keras_arcface.data import ImageFolder
from keras_arcface.data import PairSet
from keras_arcface.data import Record
from keras_arcface.data import Source
from keras_arcface.data import encoded_images
from keras_arcface.data import load_dataset
from keras_arcface.data import write_dataset
from keras_arcface.evaluation import embed_images
from keras_arcface.evaluation import embed_pairs
from keras_arcface.serving.saved_model.decoding import decode_rows

READ = [name for name in CASES if name not in NOT_READ]


class Cases(Source):
    """Source of all cases."""

    num_classes = 1
    labels = np.zeros(len(READ), np.int64)

    def __len__(self):
        return len(READ)

    def __getitem__(self, index):
        return Record(CASES[READ[index]], 0, READ[index])

    def __str__(self):
        return "cases"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """`{path: {name of the case: pixels}}`, without images that are not valid."""
    folder = tmp_path_factory.mktemp("formats")
    write_dataset(Cases(), folder / "converted")
    with pytest.MonkeyPatch.context() as patch:  # earlier conversions stored all files unchanged
        patch.setattr(encoded_images, "to_jpeg_or_png", lambda encoded, name: encoded)
        patch.setattr(Cases, "image_size", (SIZE, SIZE))
        write_dataset(Cases(), folder / "as found", check=False)
    converted, read = (
        {
            name.decode(): pixels
            for batch, _, names in load_dataset(folder / part, 16, names=True)
            for pixels, name in zip(batch.numpy(), names.numpy(), strict=True)
        }
        for part in ("converted", "as found")
    )
    serve = tf.function(lambda encoded: decode_rows(encoded, (SIZE, SIZE)))
    served, valid = (output.numpy() for output in serve(tf.constant(list(CASES.values()))))
    embedded = embed_images(flattened, [CASES[name] for name in READ], flip=False, progress=False).reshape(
        -1, SIZE, SIZE, 3
    )
    return {
        "conversion": converted,
        "reading": read,
        "serving": {name: pixels for name, pixels, good in zip(CASES, served, valid, strict=True) if good},
        "evaluation": dict(zip(READ, embedded, strict=True)),
    }


def flattened(batch):
    return np.reshape(batch, (len(batch), -1)).astype(np.float32)


@pytest.mark.parametrize("name", READ)
def test_every_path_has_the_pixels_of_opencv_and_pillow(name, found):
    encoded = CASES[name]
    if name not in LIKE_OPENCV | LIKE_PILLOW:
        np.testing.assert_array_equal(decode(encoded), pillow(encoded))
    expected = decode(encoded) if name in LIKE_OPENCV else pillow(encoded)
    for path, pixels in found.items():
        if path == "serving" and name in NOT_SERVED:
            assert name not in pixels
        else:
            np.testing.assert_array_equal(pixels[name], expected, err_msg=path)


def test_the_table(found):
    """Prints a comparison of each path with Pillow for `pytest -rP`."""
    print(f"{'':36}{'OpenCV':>14}" + "".join(f"{path:>15}" for path in found))
    for name in CASES:
        try:
            expected, opencv = pillow(CASES[name]), decode(CASES[name])
        except (TypeError, OSError):
            print(f"{name:36}{'error':>14}" + "".join(f"{verdict:>15}" for verdict in ["error", "error", "invalid"]))
            continue
        verdicts = [
            "invalid" if name not in pixels else difference(pixels[name], expected) for pixels in found.values()
        ]
        print(f"{name:36}{difference(opencv, expected):>14}" + "".join(f"{verdict:>15}" for verdict in verdicts))


def difference(pixels, expected) -> str:
    if pixels.shape != expected.shape:
        return "other shape"
    mean = np.abs(pixels.astype(np.float64) - expected).mean()
    return "same" if mean == 0 else f"off by {mean:.2f}"


def test_files_without_exif_orientation_are_kept_unchanged():
    kept = {name for name in READ if encoded_images.to_jpeg_or_png(CASES[name], name) == CASES[name]}
    turned = {name for name in READ if "EXIF" in name and not name.endswith(("EXIF 1", "EXIF 9"))}
    assert kept == {name for name in READ if name.startswith(("JPEG", "PNG"))} - turned


def test_an_image_of_another_format_is_named(tmp_path):
    other = CASES["GIF"]
    (tmp_path / "faces" / "person").mkdir(parents=True)
    (tmp_path / "faces" / "person" / "0.png").write_bytes(other)
    source = ImageFolder(tmp_path / "faces")
    message = r"is not a readable image. Expected: an undamaged JPEG, PNG, BMP, WebP, TIFF, .* \(unknown format"
    with pytest.raises(ValueError, match=rf"person/0.png {message}"):
        write_dataset(source, tmp_path / "converted")
    with pytest.raises(ValueError, match=rf"image 1 {message}"):
        embed_images(flattened, [PNG, other], progress=False)
    with pytest.raises(ValueError, match=rf"image 1 \(of pair 0\) {message}"):
        embed_pairs(flattened, PairSet([PNG, other], [True]), progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded_images, "to_jpeg_or_png", lambda encoded, name: encoded)
        patch.setattr(ImageFolder, "image_size", (SIZE, SIZE))
        write_dataset(source, tmp_path / "as found", check=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"person/0.png {message}"):
        next(iter(load_dataset(tmp_path / "as found", 1)))


@pytest.mark.parametrize("name", NOT_READ)
def test_formats_without_a_known_header_are_refused(name):
    with pytest.raises(ValueError, match=r"x is not a readable image. Expected: an undamaged JPEG, PNG"):
        encoded_images.to_jpeg_or_png(CASES[name], "x")
    assert not decode_rows(tf.constant([CASES[name]]), (SIZE, SIZE))[1].numpy().any()


def test_a_damaged_header_only_affects_its_own_row():
    rng = np.random.default_rng(0)
    whole = [CASES[name] for name in ("JPEG, EXIF 6", "PNG, EXIF 6", "BMP, palette", "BMP, 32 bits", "JPEG")]
    damaged = []
    for image in whole[:4] * 60:
        changed = bytearray(image[: rng.integers(20, len(image))] if rng.random() < 0.2 else image)
        for at in rng.integers(4, min(len(changed), 120), rng.integers(1, 5)):
            changed[at] = rng.integers(256)
        damaged.append(bytes(changed))
    decoded, valid = decode_rows(tf.constant([*damaged, *whole]), (SIZE, SIZE))
    print(f"{len(damaged)} damaged images, {np.sum(valid[: len(damaged)])} of them decoded")
    assert valid[len(damaged) :].numpy().all()
    np.testing.assert_array_equal(decoded[len(damaged) :], [decode(image) for image in whole])


def test_a_palette_of_four_colors():
    """The smallest file that was once decoded to the indices of its colors."""
    colors = np.array([[30, 20, 10], [60, 50, 40], [90, 80, 70], [120, 110, 100]], np.uint8)
    encoded = bmp(8, bytes([2, 3, 0, 0, 0, 1, 0, 0]), np.pad(colors[:, ::-1], ((0, 0), (0, 1))).tobytes(), size=(2, 2))
    expected = colors.reshape(2, 2, 3)
    np.testing.assert_array_equal(pillow(encoded), expected)
    np.testing.assert_array_equal(
        encoded_images.decode_jpeg_or_png(encoded_images.to_jpeg_or_png(encoded, "")), expected
    )


def jpegs(size) -> list[bytes]:
    """Returns JPEG files of every subsampling and many qualities, baseline and progressive, gray and RGB."""
    face = Image.fromarray(make_face(0, 0, size))
    options = [
        *({"subsampling": number, "progressive": flag} for number in (0, 1, 2) for flag in (False, True)),
        *({"quality": quality} for quality in (30, 95, 100)),
        *({"subsampling": "4:1:1", "optimize": True}, {"restart_marker_blocks": 1}, {"keep_rgb": True}),
    ]
    return [saved(face, "JPEG", **option) for option in options] + [saved(face.convert("L"), "JPEG")]


@pytest.mark.parametrize("size", [(112, 112), (33, 47), (8, 17), (1, 1)])
def test_jpeg_files_are_decoded_exactly_as_by_opencv_and_pillow(size):
    for encoded in jpegs(size):
        np.testing.assert_array_equal(decode(encoded), pillow(encoded))
        np.testing.assert_array_equal(encoded_images.decode_jpeg_or_png(encoded), pillow(encoded))


def test_jpeg_files_are_decoded_equally_in_batches_and_when_served():
    encoded = tf.constant(jpegs((33, 47)))
    expected = [decode(image) for image in encoded.numpy()]
    np.testing.assert_array_equal(encoded_images.decode_batch(encoded, encoded, (33, 47)), expected)
    served, valid = decode_rows(encoded, (33, 47))
    assert valid.numpy().all()
    np.testing.assert_array_equal(served, expected)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")  # turned by 90 degrees
ICC = segment(0xE2, b"ICC_PROFILE\0")


def with_segment(encoded: bytes, at: int, added: bytes) -> bytes:
    return encoded[:at] + added + encoded[at:]


def comment_with(content: bytes, start: int) -> bytes:
    """Returns a comment beyond the checked bytes, with the content where the check stops in a file that it starts."""
    before = encoded_images._COMMON_HEADER_BYTES - 9 - start - 4
    return segment(0xFE, bytes(before) + content + bytes(2000))


def test_only_jpeg_files_with_common_headers_need_no_exact_check():
    common = jpegs((33, 47))
    jpeg = common[0]
    frame, scan = jpeg.index(b"\xff\xc0\x00\x11"), jpeg.index(b"\xff\xda")
    files = {
        "EXIF before the frame": with_segment(jpeg, 2, EXIF),
        "EXIF before the scan": with_segment(jpeg, scan, EXIF),
        "another segment": with_segment(jpeg, frame, ICC),
        "a long comment": with_segment(jpeg, 2, segment(0xFE, bytes(1100))),
        "a long comment that looks like a scan": with_segment(
            jpeg, scan, comment_with(b"\xff\xda\x00\x08", scan) + EXIF
        ),
        "a long comment that looks like a frame": jpeg[:frame] + comment_with(jpeg[frame:scan], frame),
        "a second frame of another size": with_segment(jpeg, scan, jpeg[frame : frame + 5] + b"\1\1\1\1" + bytes(10)),
        "two frames": with_segment(jpeg, scan, jpeg[frame : frame + 19]),
        "no frame": jpeg[:frame] + jpeg[frame + 19 :],
        "no scan": jpeg[:scan],
        "a fill byte": with_segment(jpeg, frame, b"\xff"),
        "another format": saved(Image.fromarray(make_face(0, 0, (33, 47))), "PNG"),
        "another size": jpegs((47, 33))[0],
        "not an image": b"",
        "more bytes than a photo of this size": jpeg + bytes(1 << 20),
    }
    assert encoded_images._are_common_jpegs(tf.constant(common), (33, 47))
    for name, encoded in files.items():
        assert not encoded_images._are_common_jpegs(tf.constant([*common, encoded]), (33, 47)), name


def test_exif_data_after_the_start_of_a_scan_is_ignored_as_by_opencv():
    (jpeg,) = jpegs((33, 47))[:1]
    for at in (jpeg.index(b"\xff\xda") + 14, len(jpeg) - 2):
        encoded = with_segment(jpeg, at, EXIF)
        decoded = encoded_images.decode_batch(tf.constant([encoded]), tf.constant(["name"]), (33, 47))
        np.testing.assert_array_equal(decoded[0], decode(encoded))


@pytest.mark.parametrize("count", [None, 1, 7, 300, 257])
def test_batches_of_every_size_are_decoded(count):
    files = (jpegs((8, 17)) * 30)[: count or 7]
    decode_all = tf.function(lambda encoded: encoded_images.decode_batch(encoded, encoded, (8, 17)))
    signature = tf.TensorSpec((count,), tf.string)
    decoded = decode_all.get_concrete_function(signature)(tf.constant(files))
    np.testing.assert_array_equal(decoded, [decode(encoded) for encoded in files])
