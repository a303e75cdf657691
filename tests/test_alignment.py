import cv2
import numpy as np
import pytest

from keras_arcface._alignment import TEMPLATE
from keras_arcface._alignment import similarity_transform
from keras_arcface.data import align


def moved(points, degrees=0.0, scale=1.0, shift=(0.0, 0.0)):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ rotation.T + shift


def test_an_aligned_face_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    np.testing.assert_allclose(similarity_transform(TEMPLATE), np.eye(2, 3), atol=1e-12)
    np.testing.assert_array_equal(align(image, TEMPLATE), image)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, -170.0])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_landmarks_match_the_template_exactly_after_a_similarity(degrees, scale):
    landmarks = moved(TEMPLATE, degrees, scale, (250.0, 40.0))
    matrix = similarity_transform(landmarks)
    np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-9)


def test_the_similarity_has_the_least_squared_distance():
    rng = np.random.default_rng(1)
    landmarks = rng.uniform(0, 200, (5, 2))

    def distance(matrix):
        return np.sum((landmarks @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE) ** 2)

    best = similarity_transform(landmarks)
    assert best[0, 0] == best[1, 1]
    assert best[0, 1] == -best[1, 0]
    for _ in range(1000):
        a, b, x, y = rng.normal(0, [1e-3, 1e-3, 0.1, 0.1])
        assert distance(best + np.array([[a, -b, x], [b, a, y]])) >= distance(best)


def test_a_mirrored_face_stays_mirrored():
    matrix = similarity_transform(TEMPLATE * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("size", [112, 224, 56])
def test_dots_on_the_landmarks_move_to_the_template(size):
    landmarks = moved(TEMPLATE, degrees=20.0, scale=3.0, shift=(150.0, 60.0))
    image = np.zeros((600, 600, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(image, (round(x), round(y)), 8, (255, 255, 255), -1)
    face = align(image, landmarks, size)
    assert face.shape == (size, size, 3)
    _, _, _, centers = cv2.connectedComponentsWithStats((face[:, :, 0] > 100).astype(np.uint8))
    found = centers[1:]
    expected = TEMPLATE * size / 112
    distances = np.linalg.norm(found[:, None] - expected[None], axis=2).min(axis=1)
    assert len(found) == 5
    assert distances.max() < 0.5 * max(1, size / 112)


def test_outside_the_image_is_black_and_gray_images_stay_gray():
    image = np.full((50, 50), 200, np.uint8)
    face = align(image, TEMPLATE)
    assert face.shape == (112, 112)
    assert (face[:49, :49] == 200).all()
    assert not face[51:].any()


@pytest.mark.parametrize(
    ("image", "landmarks", "message"),
    [
        (
            np.zeros((9, 9, 3), np.float32),
            TEMPLATE,
            r"image must be a uint8 array.*Received: image.dtype=float32, image.shape=\(9, 9, 3\)",
        ),
        (np.zeros((9, 9, 4), np.uint8), TEMPLATE, r"Received: image.dtype=uint8, image.shape=\(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), TEMPLATE, r"Received: image.dtype=uint8, image.shape=\(0, 9, 3\)"),
        (np.zeros((9, 9, 3), np.uint8), TEMPLATE[:4], r"landmarks must be 5 finite points.*shape=\(4, 2\)"),
        (np.zeros((9, 9, 3), np.uint8), TEMPLATE * np.nan, r"landmarks must be 5 finite points"),
        (
            np.zeros((9, 9, 3), np.uint8),
            np.ones((5, 2)),
            r"landmarks must not all be the same point. Received: landmarks=\[\[1.0, 1.0\], ",
        ),
    ],
)
def test_invalid_faces_are_rejected(image, landmarks, message):
    with pytest.raises(ValueError, match=message):
        align(image, landmarks)
