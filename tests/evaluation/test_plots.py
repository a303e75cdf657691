import sys
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from keras_arcface.evaluation import Roc
from keras_arcface.evaluation import by_group
from keras_arcface.evaluation import plot_groups
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


@pytest.fixture(scope="module")
def groups():
    generator = np.random.default_rng(0)
    same, labels = np.arange(4000) % 2 == 0, np.arange(4000) // 2 % 4
    scores = generator.normal(np.where(same, 1.0, 0.0) + 0.1 * labels, 0.5)
    return {name: by_group(scores, same, labels, threshold=value) for name, value in (("low", 0.5), ("high", 0.7))}


def test_plot_groups(groups, tmp_path):
    one = cv2.imread(str(plot_groups({"low": groups["low"]}, tmp_path / "one.png")))
    both = cv2.imread(str(plot_groups(groups, tmp_path / "both")))
    assert both.shape[0] > one.shape[0]
    assert both.std() > 10
    others = by_group([1, 1, 0, 0] * 20, [True, False] * 40, [7] * 40 + [8] * 40, threshold=0.5)
    message = r"results must have the groups \['0', '1', '2', '3'\]. Received: \['7', '8'\] of 'other'"
    with pytest.raises(ValueError, match=message):
        plot_groups({**groups, "other": others}, tmp_path / "other.png")


def test_groups_plot_shows_rates_intervals_and_overall_rates(groups):
    """The lines of the plot are the intervals and the overall rate of each model, on both panels."""
    figure = plots._draw_groups(groups)
    for panel, rate in zip(figure.axes, ("fnmr", "fmr"), strict=True):
        bars = [bar for container in panel.containers for bar in container[2][0].get_segments()]
        expected = [getattr(r, f"{rate}_interval") for result in groups.values() for r in result.groups.values()]
        np.testing.assert_allclose([bar[:, 0] for bar in bars], expected)
        points = [container[0].get_xdata() for container in panel.containers]
        np.testing.assert_allclose(
            points, [[getattr(r, rate) for r in result.groups.values()] for result in groups.values()]
        )
        lines = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"]
        np.testing.assert_allclose(lines, [getattr(result.overall, rate) for result in groups.values()])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "1", "2", "3"]


def test_svg_plots_are_reproducible(results, groups):
    svg = plots.roc_svg(results)
    assert svg == plots.roc_svg(results)
    for image in (svg, plots.det_svg(results), plots.folds_svg(results), plots.groups_svg(groups)):
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
