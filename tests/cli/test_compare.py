"""The command `keras-arcface compare`, on photos of squares whose color is the person."""

import json
import re

import keras
import pytest
from faces.detectors import BLUE
from faces.detectors import DARK_RED
from faces.detectors import RED
from faces.detectors import photo_of

from keras_arcface import pretrained


@pytest.fixture
def photos(tmp_path, color_detector, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colors in {"red": [RED], "dark": [DARK_RED], "blue": [BLUE], "two": [BLUE, RED], "none": []}.items():
        (tmp_path / f"{name}.png").write_bytes(photo_of(*colors))
    (tmp_path / "text.png").write_text("no photo")


def test_score_and_decision(run, photos, color_embedder):
    options = ("--embedder", color_embedder, "--threshold", 0.9)
    done = run("compare", "red.png", "dark.png", *options)
    assert re.fullmatch(r"score      0\.95\d\d\nthreshold  0\.9000\nthe same person\n", done.out)
    done = run("compare", "red.png", "blue.png", *options)
    assert re.fullmatch(r"score      0\.16\d\d\nthreshold  0\.9000\nnot the same person\n", done.out)
    assert done.code == 0


def test_json(run, photos, color_embedder):
    done = run("compare", "red.png", "dark.png", "--embedder", color_embedder, "--threshold", 0.96, "--json")
    found = json.loads(done.out)
    assert found["score"] == pytest.approx(0.958, abs=1e-3)
    assert (found["threshold"], found["same"]) == (0.96, False)
    assert found["second"] == {"photo": "dark.png", "box": [10, 10, 40, 40]}


def test_the_default_threshold_is_the_published_one(run, photos, color_embedder, monkeypatch):
    model = keras.saving.load_model(color_embedder)
    monkeypatch.setattr(pretrained, "load", lambda identifier, accept_license=False: {"sface": model}[str(identifier)])
    assert "threshold  0.3630" in run("compare", "red.png", "dark.png").out
    done = run("compare", "red.png", "dark.png", "--embedder", color_embedder)
    assert (done.code, done.out) == (1, "")
    assert f"error: --threshold is required, because no threshold of {color_embedder} is known" in done.err


def test_limits_reach_the_pipeline(run, photos, color_embedder):
    done = run("compare", "red.png", "dark.png", "--embedder", color_embedder, "--threshold", 0.5, "--min-size", 100)
    assert done.code == 1
    assert "first must show a face. Received: red.png: the main face is rejected: size is below 100" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.png", "red.png"), "No such file or directory: absent.png"),
        (("red.png", "none.png"), "second must show a face. Received: none.png: no face was found"),
        (("text.png", "red.png"), "first must be a readable photo. Received: text.png is not a readable photo"),
        ((".", "red.png"), "first must be a readable photo. Received: . must be a regular file. Received: a folder"),
        (("red.png", "red.png", "--threshold", 1.5), "--threshold must be a cosine in [-1, 1]. Received: "),
        (("red.png", "red.png", "--detector", "yunet=absent.onnx"), "No such file or directory: absent.onnx"),
    ],
)
def test_mistakes(run, photos, color_embedder, arguments, message):
    done = run("compare", "--embedder", color_embedder, "--threshold", 0.5, *arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {message}")
