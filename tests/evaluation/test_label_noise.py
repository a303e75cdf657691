import numpy as np
import pytest

from keras_arcface.evaluation import find_label_noise

AXES = np.eye(4, dtype="float32")
# Class 0 is at axis 0, with noise at axis 2. Class 1 is at axis 1; its other sub-center has no images.
CENTERS = np.stack([[AXES[2] * 5, AXES[0] * 0.1], [AXES[1], AXES[3]]])


def at(axis, degrees):
    """Returns a vector at an angle from an axis, towards the next axis."""
    angle = np.deg2rad(degrees)
    return (np.cos(angle) * AXES[axis] + np.sin(angle) * AXES[(axis + 1) % 4]) * 3


def test_images_far_from_dominant_sub_center():
    embeddings = [at(0, 0), at(0, 20), at(0, 60), at(2, 0), at(1, 10), at(0, 30)]
    labels = [0, 0, 0, 0, 1, 1]
    noise = find_label_noise(np.array(embeddings), labels, CENTERS)
    assert noise.dominant_sub_centers.tolist() == [1, 0]
    np.testing.assert_allclose(np.rad2deg(noise.angles), [0, 20, 60, 90, 10, 60], atol=0.1)
    assert noise.nearest_classes.tolist() == [0, 0, 1, 0, 1, 0]
    np.testing.assert_allclose(np.rad2deg(noise.nearest_angles), [0, 20, 30, 90, 10, 30], atol=0.1)
    assert noise.clean_labels().tolist() == [0, 0, 0, -1, 1, 1]
    assert noise.clean_labels(np.deg2rad(50)).tolist() == [0, 0, -1, -1, 1, -1]
    assert noise.clean_labels(np.deg2rad(50), np.deg2rad(40)).tolist() == [0, 0, 1, -1, 1, 0]


def test_matches_plain_implementation():
    generator = np.random.default_rng(0)
    embeddings, centers = generator.normal(size=(700, 6)), generator.normal(size=(9, 3, 6))
    labels = generator.integers(0, 9, 700)
    noise = find_label_noise(embeddings, labels, centers)

    def angle(a, b):
        return np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    votes = np.zeros((9, 3))
    for embedding, label in zip(embeddings, labels, strict=True):
        votes[label, np.argmin([angle(embedding, center) for center in centers[label]])] += 1
    assert noise.dominant_sub_centers.tolist() == votes.argmax(axis=1).tolist()
    dominant = centers[np.arange(9), votes.argmax(axis=1)]
    angles = np.array([[angle(embedding, center) for center in dominant] for embedding in embeddings])
    np.testing.assert_allclose(noise.angles, angles[np.arange(700), labels], atol=1e-5)
    assert noise.nearest_classes.tolist() == angles.argmin(axis=1).tolist()
    np.testing.assert_allclose(noise.nearest_angles, angles.min(axis=1), atol=1e-5)


def test_one_center_per_class():
    noise = find_label_noise(AXES[:2], [0, 1], AXES[:2])
    assert noise.dominant_sub_centers.tolist() == [0, 0]
    np.testing.assert_allclose(noise.angles, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": [0, 2]}, r"in \[0, 2\).*Received: labels\[1\]=2"),
        ({"labels": [0.0, 1.0]}, "labels must be integers"),
        ({"centers": CENTERS[:, :, :3]}, r"sub-centers, 4\).*Received: centers of shape \(2, 2, 3\)"),
        ({"embeddings": np.zeros((2, 4))}, "zero or not finite"),
    ],
)
def test_invalid_arguments(changes, named):
    with pytest.raises(ValueError, match=named):
        find_label_noise(**{"embeddings": AXES[:2], "labels": [0, 1], "centers": CENTERS, **changes})
