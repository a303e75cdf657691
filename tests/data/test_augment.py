import functools
import itertools

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import decode
from conftest import make_face

from keras_arcface.data import augment

FACES = np.stack([make_face(person, 0) for person in range(64)])
# Black at the top and on the right, as outside a photograph, and a black pixel inside.
BORDERED = np.maximum(FACES, 20)
BORDERED[:, :5] = BORDERED[:, :, 29:] = BORDERED[:, 16, 16] = 0
SEED = tf.constant([1, 2], tf.int64)
WITH_PROBABILITY = ["flip", "gray", "erase", "crop", "photometric", "blur", "low_resolution", "jpeg", "fill_border"]
ALL = [*WITH_PROBABILITY, "affine", "translate", "adaface"]


def faces_for(change):
    return BORDERED if change == "fill_border" else FACES


def apply(change, faces=None, seed=SEED, **kwargs):
    faces = faces_for(change) if faces is None else faces
    return getattr(augment, change)(tf.constant(faces), seed, **kwargs).numpy()


def is_changed(changed, faces=FACES):
    return (changed != faces).any(axis=(1, 2, 3))


@pytest.mark.parametrize("change", ALL)
def test_parts_of_a_global_batch_are_changed_like_the_whole(change):
    whole, function, faces = apply(change), getattr(augment, change), faces_for(change)
    _, mirrored = augment.apply_to_part(function, tf.constant(faces), SEED, 0, 64)
    for rows in (slice(0, 24), slice(24, 64)):
        part, of_part = augment.apply_to_part(function, tf.constant(faces[rows]), SEED, rows.start, 64)
        np.testing.assert_array_equal(part, whole[rows])
        np.testing.assert_array_equal(of_part, mirrored[rows])


@pytest.mark.parametrize("change", ALL)
def test_the_result_depends_on_seed_and_row(change):
    first = apply(change)
    faces = faces_for(change)
    assert (first.shape, first.dtype) == (faces.shape, np.uint8)
    np.testing.assert_array_equal(apply(change), first)
    assert (apply(change, seed=tf.constant([1, 3], tf.int64)) != first).any()
    equal = apply(change, np.repeat(faces[:1], 64, axis=0))
    assert len({image.tobytes() for image in equal}) > 1, "all rows have the same random numbers"
    in_graph = tf.function(getattr(augment, change))(tf.constant(faces), SEED)
    assert in_graph.shape == faces.shape
    assert np.abs(in_graph.numpy().astype(int) - first).max() <= 1  # rounding may differ in a graph


@pytest.mark.parametrize("change", ALL)
def test_a_row_does_not_depend_on_the_others(change):
    others = faces_for(change).copy()
    others[1:] = 255 - others[1:]
    np.testing.assert_array_equal(apply(change, others)[0], apply(change)[0])


@pytest.mark.parametrize("change", WITH_PROBABILITY)
def test_the_fraction_of_changed_images(change):
    faces = np.tile(faces_for(change), (8, 1, 1, 1))
    assert not is_changed(apply(change, faces, probability=0.0), faces).any()
    assert is_changed(apply(change, faces, probability=1.0), faces).mean() > 0.9
    share = is_changed(apply(change, faces, probability=0.3), faces).mean()
    assert 0.2 < share < 0.4  # 512 draws


@pytest.mark.parametrize("change", ALL)
def test_images_of_any_shape(change):
    faces = np.stack([make_face(person, 0, size=(24, 40)) for person in range(4)])
    assert apply(change, faces).shape == faces.shape
    assert apply(change, faces[:0]).shape == (0, 24, 40, 3)


def test_flip_mirrors():
    np.testing.assert_array_equal(apply("flip", probability=1.0), FACES[:, :, ::-1])
    flipped = apply("flip")
    mirrored = (flipped == FACES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (flipped == FACES).all(axis=(1, 2, 3))).all()
    assert 16 <= mirrored.sum() <= 48


def test_gray_has_three_equal_channels():
    gray = apply("gray", probability=1.0)
    assert (gray == gray[..., :1]).all()
    expected = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in FACES]
    assert np.abs(gray[..., 0].astype(int) - expected).max() <= 1


def rectangle(mask):
    """Returns the bounding box of the true pixels, and whether they fill it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    bounds = rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    return bounds, mask.sum() == bounds[2] * bounds[3]


def test_erase_fills_a_rectangle_of_the_given_area_and_aspect():
    faces = np.full((64, 100, 100, 3), 77, np.uint8)
    erased = apply("erase", faces, probability=1.0, area=(0.1, 0.2), aspect=(0.5, 2.0))
    places = set()
    for image in erased:
        (top, left, height, width), _ = rectangle((image != 77).any(axis=2))
        places.add((top, left))
        assert 0.09 * 10_000 < height * width < 0.21 * 10_000
        assert 0.45 < height / width < 2.2
    assert len(places) > 32
    assert 60 < np.std(erased[erased != 77].astype(float)) < 85  # of uniform noise: 74


def test_crop_without_rescaling_sets_the_rest_to_black():
    faces = np.full((64, 100, 100, 3), 77, np.uint8)
    for image in apply("crop", faces, probability=1.0, rescale=False):
        (_, _, height, width), filled = rectangle((image == 77).all(axis=2))
        assert filled
        assert 0.17 * 10_000 < height * width <= 10_000
        assert set(np.unique(image)) <= {0, 77}


def test_crop_scales_a_rectangle_to_the_whole_image():
    ramp = np.zeros((64, 101, 101, 3), np.uint8)
    ramp[..., 0] = np.arange(101)
    ramp[..., 1] = np.arange(101)[:, None]
    for image in apply("crop", ramp, probability=1.0, area=(0.2, 0.5)).astype(float):
        across, down = image[50, :, 0], image[:, 50, 1]
        width, height = across[-1] - across[0] + 1, down[-1] - down[0] + 1
        assert 0.17 < width * height / 101**2 < 0.53
        np.testing.assert_allclose(across, np.linspace(across[0], across[-1], 101), atol=1.01)
        np.testing.assert_allclose(down, np.linspace(down[0], down[-1], 101), atol=1.01)


def test_photometric_factors_are_within_their_limits():
    faces = np.clip(FACES, 60, 120)

    def ratio(measure, **limits):
        off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, **limits}
        changed = apply("photometric", faces, probability=1.0, **off)
        return np.array(
            [measure(a) / measure(b) for a, b in zip(changed.astype(float), faces.astype(float), strict=True)]
        )

    assert not is_changed(
        apply("photometric", faces, probability=1.0, brightness=0, contrast=0, saturation=0), faces
    ).any()
    brightness = ratio(np.mean, brightness=0.5)
    contrast = ratio(np.std, contrast=0.5)
    saturation = ratio(lambda image: np.ptp(image, axis=2).mean(), saturation=0.5)
    for name, factors in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
        assert factors.min() > 0.47, name
        assert factors.max() < 1.53, name
        assert np.ptp(factors) > 0.7, name
    assert np.abs(ratio(np.mean, contrast=0.5) - 1).max() < 0.1


def test_blur_is_a_gaussian():
    blurred = apply("blur", probability=1.0, sigma=(1.5, 1.5001))
    expected = np.stack([cv2.GaussianBlur(face, (9, 9), 1.5, borderType=cv2.BORDER_REFLECT) for face in FACES])
    assert np.abs(blurred.astype(int) - expected).max() <= 1
    weak = apply("blur", probability=1.0, sigma=(0.3, 0.3001)).astype(int)
    assert np.abs(weak - FACES).mean() < np.abs(blurred.astype(int) - FACES).mean() / 4


def detail(images):
    images = images.astype(float)
    return np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3)) + np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3))


def test_low_resolution_is_that_of_opencv():
    methods = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    used = set()
    faces = np.stack([make_face(person, 0, size=(24, 40)) for person in range(64)])
    for face, changed in zip(faces, apply("low_resolution", faces, probability=1.0, scale=(0.5, 0.5)), strict=True):
        for pair in itertools.product(methods, methods):
            small = cv2.resize(face, (20, 12), interpolation=pair[0])
            if np.array_equal(cv2.resize(small, (40, 24), interpolation=pair[1]), changed):
                used.add(pair)
                break
        else:
            pytest.fail("no pair of methods gives this image")
    assert len(used) > 15


def test_low_resolution_removes_detail_but_keeps_the_mean():
    strong = apply("low_resolution", probability=1.0, scale=(0.2, 0.25))
    weak = apply("low_resolution", probability=1.0, scale=(0.95, 1.0))
    assert detail(strong).mean() < 0.7 * detail(weak).mean() < detail(FACES).mean()
    means = strong.mean(axis=(1, 2, 3)) - FACES.mean(axis=(1, 2, 3))
    assert np.abs(means).max() < 12


def test_jpeg_quality():
    def error(quality):
        return np.abs(apply("jpeg", probability=1.0, quality=quality).astype(int) - FACES).mean()

    assert 0 < error((94, 95)) < error((50, 51)) < error((10, 11))
    encoded = [cv2.imencode(".jpg", face[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes() for face in FACES]
    np.testing.assert_array_equal(apply("jpeg", probability=1.0, quality=(50, 50)), [decode(face) for face in encoded])


def test_fill_border_changes_only_black_areas_at_the_border():
    filled = apply("fill_border", probability=1.0)
    np.testing.assert_array_equal(filled[:, 5:, :29], BORDERED[:, 5:, :29])
    extended = BORDERED.copy()
    extended[:, :, 29:] = extended[:, :, 25:26]
    extended[:, :5] = extended[:, 8:9]
    plain = 0
    for image, expected in zip(filled, extended, strict=True):
        if (image == expected).all():
            continue
        plain += 1
        assert len(np.unique([*image[:5].reshape(-1, 3), *image[:, 29:].reshape(-1, 3)], axis=0)) == 1
    assert 16 <= plain <= 48
    assert len(np.unique(filled[:, 0, 0], axis=0)) > 50, "all images have the same color"


def test_fill_border_distinguishes_black_from_dark():
    dark = np.maximum(BORDERED, 12)
    np.testing.assert_array_equal(apply("fill_border", dark, probability=1.0), dark)
    assert is_changed(apply("fill_border", dark, probability=1.0, darkest=12), dark).all()
    nothing = np.zeros((4, 20, 20, 3), np.uint8)
    np.testing.assert_array_equal(apply("fill_border", nothing, probability=1.0), nothing)


def test_a_chain_applies_all_with_different_seeds():
    both = augment.chain(augment.flip, augment.flip)(tf.constant(FACES), SEED).numpy()
    assert 0.3 < is_changed(both).mean() < 0.7, "two flips with one seed would cancel"
    twice = augment.chain(*[functools.partial(augment.flip, probability=1.0)] * 2)(tf.constant(FACES), SEED)
    np.testing.assert_array_equal(twice, FACES)


def test_the_recipe_of_adaface():
    black = (apply("adaface", np.full((512, 50, 50, 3), 200, np.uint8)) == 0).all(axis=3).any(axis=(1, 2))
    assert 0.13 < black.mean() < 0.27  # a fifth is cropped
    assert 0.5 < is_changed(apply("adaface")).mean() < 0.95


def test_translate_moves_by_every_number_of_pixels_and_fills_with_black():
    faces = np.tile(np.maximum(FACES, 1), (8, 1, 1, 1))
    moved = apply("translate", faces, pixels=2)
    found = set()
    for before, after in zip(faces, moved, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        size = len(before)
        places = [(y, x) for y in range(5) for x in range(5) if (padded[y : y + size, x : x + size] == after).all()]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25
    np.testing.assert_array_equal(apply("translate", pixels=0), FACES)
    with pytest.raises(ValueError, match=r"pixels must be an integer of at least 0. Received: pixels=-1"):
        apply("translate", pixels=-1)


def test_affine_without_limits_only_flips():
    still = apply("affine", rotation=0.0, zoom=0.0, shift=0.0)
    np.testing.assert_array_equal(still, apply("flip"))


def test_affine_without_flips():
    still = {"rotation": 0.0, "zoom": 0.0, "shift": 0.0}
    np.testing.assert_array_equal(apply("affine", flip_probability=0.0, **still), FACES)
    np.testing.assert_array_equal(apply("affine", flip_probability=1.0, **still), FACES[:, :, ::-1])
    with pytest.raises(ValueError, match=r"flip_probability must be in \[0, 1\]. Received: flip_probability=1.5"):
        apply("affine", flip_probability=1.5)


def center_of(dots):
    weights = dots[..., 0] / dots[..., 0].sum(axis=(1, 2), keepdims=True)
    down, across = (weights * np.arange(33)[:, None]).sum(axis=(1, 2)), (weights * np.arange(33)).sum(axis=(1, 2))
    return np.abs(np.stack([down, across]) - 16)


def test_affine_shifts_within_its_limit_and_rotates_about_the_center():
    dot = np.zeros((64, 33, 33, 3), np.uint8)
    dot[:, 15:18, 15:18] = 255
    moved = center_of(apply("affine", dot, rotation=0.0, zoom=0.0, shift=0.2).astype(float))
    assert moved.max() < 0.2 * 33 + 0.5
    assert moved.max() > 0.15 * 33
    assert center_of(apply("affine", dot, rotation=0.5, zoom=0.0, shift=0.0).astype(float)).max() < 0.1


@pytest.mark.parametrize("change", ALL)
@pytest.mark.parametrize(
    "images", [FACES[0], FACES[..., :1], FACES.astype(np.float32)], ids=["one image", "one channel", "float"]
)
def test_images_of_another_shape_or_type(change, images):
    with pytest.raises(ValueError, match=r"images must be a uint8 batch \(batch, height, width, 3\). Received: images"):
        apply(change, images)


@pytest.mark.parametrize("change", ALL)
@pytest.mark.parametrize("seed", [1, [1, 2, 3], [0.5, 1.0]])
def test_seeds_of_another_shape_or_type(change, seed):
    with pytest.raises(ValueError, match=r"seed must be an integer tensor of shape \(2,\). Received: seed="):
        apply(change, seed=seed)


@pytest.mark.parametrize(
    "change", ["erase", "crop", "blur", "low_resolution", "jpeg", "fill_border", "affine", "translate", "adaface"]
)
def test_images_of_an_unknown_size(change):
    signature = tf.TensorSpec((None, None, None, 3), tf.uint8)
    unknown = tf.data.Dataset.from_generator(lambda: iter([FACES]), output_signature=signature)
    with pytest.raises(ValueError, match=r"images must have a known height and width.*\(None, None, None, 3\)"):
        unknown.map(lambda faces: getattr(augment, change)(faces, SEED))


@pytest.mark.parametrize("change", WITH_PROBABILITY)
def test_a_probability_is_not_a_percentage(change):
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\]. Received: probability=20"):
        apply(change, probability=20)


def test_a_chain_of_a_list():
    with pytest.raises(
        TypeError, match=r"augmentations must be functions \(images, seed\) -> images. Received: \[<func"
    ):
        augment.chain([augment.flip, augment.gray])
