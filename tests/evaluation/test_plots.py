import sys

import cv2
import numpy as np
import pytest

from keras_arcface.evaluation import plot_verification
from keras_arcface.evaluation import verify


@pytest.fixture
def results():
    generator = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    first = generator.normal(size=(200, 8))
    second = np.where(same[:, None], first + 0.5 * generator.normal(size=(200, 8)), generator.normal(size=(200, 8)))
    good = verify(np.stack([first, second], axis=1).reshape(400, 8), same)
    return {"good": good, "random": verify(generator.normal(size=(400, 8)), same)}


def test_a_picture_is_drawn(results, tmp_path):
    path = plot_verification(results, tmp_path / "verification.png")
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 2 * picture.shape[0]  # ROC curve and two histograms side by side
    assert picture.std() > 10


def test_without_matplotlib_it_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[plots\]'"):
        plot_verification(results, tmp_path / "verification.png")
