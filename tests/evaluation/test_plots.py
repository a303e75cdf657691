import sys
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation import plot_verification
from keras_arcface.evaluation import plots
from keras_arcface.evaluation import verify


@pytest.fixture(scope="module")
def results():
    generator = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    first = generator.normal(size=(200, 8))
    second = np.where(same[:, None], first + 0.5 * generator.normal(size=(200, 8)), generator.normal(size=(200, 8)))
    good = verify(np.stack([first, second], axis=1).reshape(400, 8), same)
    return {"good": good, "random": verify(generator.normal(size=(400, 8)), same)}


def test_plot_verification(results, tmp_path):
    path = plot_verification(results, tmp_path / "verification.png")
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 2 * picture.shape[0]  # ROC curve and two histograms side by side
    assert picture.std() > 10


def test_svg_plots_are_reproducible(results):
    svg = plots.roc_svg(results)
    assert svg == plots.roc_svg(results)
    for image in (svg, plots.det_svg(results), plots.folds_svg(results)):
        assert ElementTree.fromstring(image).tag.endswith("svg")
    assert plots.scores_svg("good", results["good"]) != plots.scores_svg("random", results["random"])


def test_thinned_curve_stays_close():
    generator = np.random.default_rng(0)
    roc = Roc(generator.normal(1, 1, 20_000), generator.normal(0, 1, 30_000))
    far, tar = plots._subsample_curve(roc.far, roc.tar, 1 / 30_000)
    assert len(far) <= plots._MAX_POINTS + 2
    assert far[0] == 1 / 30_000
    assert (far[-1], tar[-1]) == (1.0, 1.0)
    places = np.geomspace(1e-3, 0.9, 50)
    np.testing.assert_allclose(np.interp(places, far, tar), [roc.tar_at(place) for place in places], atol=0.005)


def test_missing_matplotlib(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[plots\]'"):
        plot_verification(results, tmp_path / "verification.png")
