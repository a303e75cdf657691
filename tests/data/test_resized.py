"""Resizing of images, compared with a plain program."""

import numpy as np
import pytest
from conftest import decode
from conftest import encode
from conftest import make_face

from keras_arcface.data import ClassSubset
from keras_arcface.data import ImageFolder
from keras_arcface.data import Resized
from keras_arcface.data import load_info
from keras_arcface.data import write_dataset
from keras_arcface.data.resized import resize_image


def average_over_areas(pixels, height, width):
    """Returns the mean of the source pixels under each pixel, weighted by the area that they share."""

    def weights(source, target):
        scale = source / target
        edges = np.arange(source)
        matrix = np.zeros((target, source))
        for row in range(target):
            overlap = np.minimum(edges + 1, (row + 1) * scale) - np.maximum(edges, row * scale)
            matrix[row] = np.maximum(overlap, 0) / scale
        return matrix

    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(np.float64), columns)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (60, 60), (61, 97)])
def test_the_center_is_cropped_from_the_image_of_the_right_shorter_side(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    resized = resize_image(pixels, (28, 24), 32, "photo")
    height, width = (int(32 * side / min(shape)) for side in shape)
    whole = average_over_areas(pixels, height, width)
    top, left = (height - 28) // 2, (width - 24) // 2
    np.testing.assert_allclose(resized, whole[top : top + 28, left : left + 24], atol=1.01)
    assert resized.shape == (28, 24, 3)


def test_without_resize_the_whole_image_is_stretched():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        resize_image(pixels, (20, 20), None, "photo"), average_over_areas(pixels, 20, 20), atol=1.01
    )
    assert resize_image(pixels, (60, 90), None, "photo") is pixels


def test_small_images_are_enlarged_linearly():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[:, 1] = 200
    enlarged = resize_image(pixels, (4, 4), 4, "photo")
    assert enlarged[:, :, 0].tolist() == [[0, 50, 150, 200]] * 4


def test_elongated_images_are_refused_before_memory_is_allocated():
    pixels = np.zeros((1, 16384, 3), np.uint8)
    with pytest.raises(ValueError, match=r"photo must have at most 16777216 pixels .* side is 224. Received: .*1 x 1"):
        resize_image(pixels, (224, 224), 224, "photo")


def test_images_of_any_size_are_written(tmp_path):
    for person, shape in enumerate([(40, 60), (50, 30), (32, 32)]):
        folder = tmp_path / "photos" / f"person_{person}"
        folder.mkdir(parents=True)
        for image in range(2):
            (folder / f"{image}.png").write_bytes(encode(make_face(person, image, shape)))
    source = ImageFolder(tmp_path / "photos")
    resized = Resized(source, (32, 32), resize=32)
    assert resized.image_size == (32, 32)
    assert (resized.num_classes, resized.class_names) == (3, source.class_names)
    np.testing.assert_array_equal(resized.labels, source.labels)
    info = write_dataset(resized, tmp_path / "out")
    assert (info.image_size, info.num_examples) == ((32, 32), 6)
    assert info.source == f"{source}, 32 x 32, center of images with a shorter side of 32"
    expected = resize_image(decode(source[0].image), (32, 32), 32, "photo")
    np.testing.assert_array_equal(decode(resized[0].image), expected)
    assert resized[0][1:] == source[0][1:]
    assert resized[4].image == source[4].image  # it has the size already
    assert write_dataset(Resized(source, (32, 32), resize=32), tmp_path / "out") == load_info(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"the source was .*, 32 x 32, center .*, now .*photos'\), 32 x 32$"):
        write_dataset(Resized(source, (32, 32)), tmp_path / "out")
    with pytest.raises(ValueError, match=r"must have the size of the other images, 40 x 60"):
        write_dataset(source, tmp_path / "other")
    subset = ClassSubset(Resized(ClassSubset(source, [2, 1]), (8, 8)), [1])
    assert (subset.source_labels.tolist(), subset.image_size) == ([1], (8, 8))


@pytest.mark.parametrize(
    ("size", "resize", "message"),
    [
        ((0, 8), None, "size must be an integer of at least 1. Received: size=0"),
        ((8,), None, r"size must be \(height, width\). Received: size=\(8,\)"),
        ((8, 16), 15, "resize must be an integer of at least 16. Received: resize=15"),
        ((8, 16), 16.5, "resize must be an integer of at least 16. Received: resize=16.5"),
    ],
)
def test_invalid_sizes(size, resize, message, face_folder):
    with pytest.raises(ValueError, match=message):
        Resized(ImageFolder(face_folder), size, resize)


def test_a_damaged_image_is_named(face_folder):
    (face_folder / "person_0" / "0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"person_0/0.png is not a readable image"):
        Resized(ImageFolder(face_folder), (8, 8))[0]
