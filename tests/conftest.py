"""Fixtures and images that several packages' tests share."""

import os

import hypothesis
import numpy as np
import pytest

# Keras and OpenCV are imported late: the process that starts the workers of pytest-xdist loads this file too.
pytest.register_assert_rewrite("comparing", "layer_checks")

# OpenVINO sends usage statistics from a forked process, which fails where JAX is loaded. It does not in CI.
os.environ.setdefault("CI", "true")

# The same examples in every run, and no time limit, which a busy machine would exceed.
hypothesis.settings.register_profile("tests", max_examples=50, deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seeded():
    import keras

    keras.utils.set_random_seed(0)


def make_face(person: int, image: int, size=(32, 32)) -> np.ndarray:
    """Returns an RGB image that differs between people, and a little between images of one person."""
    import cv2

    person_rng, image_rng = np.random.default_rng(person), np.random.default_rng([person, image])
    coarse = person_rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + image_rng.normal(0, 15, (*size, 3)), 0, 255).astype(np.uint8)


def encode(image: np.ndarray, suffix=".png") -> bytes:
    import cv2

    return cv2.imencode(suffix, image[:, :, ::-1])[1].tobytes()


def decode(image: bytes) -> np.ndarray:
    """Returns RGB pixels as OpenCV decodes them: the reference for all decoders."""
    import cv2

    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.fixture
def face_folder(tmp_path):
    """A folder of three people with 4, 3 and 5 images, PNG and JPEG."""
    return write_face_folder(tmp_path / "faces")


def write_face_folder(folder):
    for person, count in enumerate((4, 3, 5)):
        (folder / f"person_{person}").mkdir(parents=True)
        for image in range(count):
            suffix = (".png", ".jpg")[image % 2]
            (folder / f"person_{person}" / f"{image}{suffix}").write_bytes(encode(make_face(person, image), suffix))
    return folder
