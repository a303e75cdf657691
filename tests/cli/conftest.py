"""Fixtures of all tests of commands."""

from typing import NamedTuple

import pytest
from faces.detectors import ColorDetector

from keras_arcface.cli.main import main


class Ended(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Restores the environment variables that a command sets."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def color_detector(monkeypatch):
    """Replaces the default detector by one for squares of color."""
    from keras_arcface import faces

    monkeypatch.setattr(faces, "YuNet", lambda path=None, min_score=0.6: ColorDetector())


@pytest.fixture
def color_embedder(tmp_path):
    """Path of an embedder, whose embedding is the mean color."""
    import keras

    images = keras.Input((112, 112, 3))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(tmp_path / "color.keras")
    return tmp_path / "color.keras"


@pytest.fixture
def run(capsys):
    """Returns a function that runs a command in this process, which saves the seconds that TensorFlow takes to load."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ended(code, *capsys.readouterr())

    return run
