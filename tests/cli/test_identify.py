"""The command `keras-arcface identify`, on photos of squares whose color is the person."""

import json
import re

import numpy as np
import pytest
from faces.detectors import BLUE
from faces.detectors import DARK_RED
from faces.detectors import GREEN
from faces.detectors import RED
from faces.detectors import photo_of

from keras_arcface.faces import FacePipeline
from keras_arcface.gallery import Gallery

PURPLE = (100, 20, 255)


@pytest.fixture
def here(tmp_path, color_detector, color_embedder, monkeypatch):
    """The current directory, with a gallery of ann (red) and bob (green), and photos."""
    monkeypatch.chdir(tmp_path)
    for name, colors in {"ann": [DARK_RED], "group": [GREEN, PURPLE], "none": []}.items():
        (tmp_path / f"{name}.png").write_bytes(photo_of(*colors))
    (tmp_path / "text.png").write_text("no photo")
    with Gallery.open("people.db", FacePipeline(None, color_embedder).embedder_sha256) as gallery:
        gallery.enroll("ann", [RED])
        gallery.enroll("bob", [GREEN])
    return tmp_path


@pytest.fixture
def identify(run, here, color_embedder):
    """Runs `identify people.db`, which must end with exit code 0."""

    def identify(*arguments, code=0):
        done = run("identify", "people.db", *arguments, "--embedder", color_embedder)
        assert done.code == code, done.err
        return done

    return identify


def lines_of(done):
    """Returns the lines of the output, with two digits of the scores."""
    return re.sub(r"(\d\.\d\d)\d\d", r"\1", done.out).splitlines()


def calibrate(fpir):
    """Stores a threshold between the scores 0.96 and 0.16."""
    impostors = [RED, *[BLUE] * 9]
    with Gallery.open("people.db") as gallery:
        return gallery.calibrate(np.array(impostors, np.float32), fpir).threshold


def test_without_a_threshold_all_scores_are_printed(identify):
    done = identify("ann.png", "group.png")
    assert lines_of(done) == [
        "No threshold, because the gallery has none. The most similar people are printed for strangers too.",
        "ann.png: ann 0.95, bob 0.36",
        "group.png#1 at (10, 10): bob 1.00, ann 0.16",
        "group.png#2 at (70, 10): ann 0.44, bob 0.17",
    ]


def test_a_single_stored_threshold_is_the_default(identify):
    threshold = calibrate(0.1)
    done = identify("ann.png", "group.png")
    assert done.out.startswith(f"Threshold {threshold:.4f} (fpir=0.1)\n")
    assert lines_of(done)[1:] == [
        "ann.png: ann 0.95",
        "group.png#1 at (10, 10): bob 1.00",
        "group.png#2 at (70, 10): unknown",
    ]


def test_one_of_several_stored_thresholds(identify):
    for fpir in (0.1, 1):
        calibrate(fpir)
    lines = lines_of(identify("group.png"))
    assert lines[0].startswith("No threshold, because the gallery has several: fpir=0.1, fpir=1. ")
    assert lines[2] == "group.png#2 at (70, 10): ann 0.44, bob 0.17"
    assert "group.png#2 at (70, 10): unknown" in identify("group.png", "--threshold", "fpir=0.1").out
    message = "error: --threshold must be a cosine or a stored threshold of people.db (fpir=0.1, fpir=1). "
    assert identify("group.png", "--threshold", "fpir=0.2", code=1).err == f"{message}Received: --threshold fpir=0.2\n"


def test_a_number_as_threshold(identify):
    calibrate(0.1)
    assert "Threshold 0.9900\nann.png: unknown\n" in identify("ann.png", "--threshold", 0.99).out
    assert lines_of(identify("ann.png", "--threshold", -1)) == ["Threshold -1.00", "ann.png: ann 0.95, bob 0.36"]
    assert "Threshold 0.0000\n" in identify("ann.png", "--threshold", 0).out
    for value in ("1.5", "nan"):
        message = identify("ann.png", "--threshold", value, code=1).err
        assert message.startswith("error: --threshold must be a cosine in [-1, 1]. Received: ")


def test_json(identify, here):
    (here / "folder").mkdir()
    (here / "folder" / "a.png").write_bytes((here / "group.png").read_bytes())
    (here / "folder" / "a.txt").write_text("a note")
    done = identify("folder", "none.png", "text.png", "--top-k", 1, "--json", "--threshold", 0.5)
    found = json.loads(done.out)
    assert (found["threshold"], found["threshold_name"], found["skipped"]) == (0.5, None, 1)
    group, none, text = found["photos"]
    assert group["photo"] == "folder/a.png"
    assert group["faces"] == [
        {"box": [10, 10, 40, 40], "matches": [{"person": "bob", "score": pytest.approx(1)}]},
        {"box": [70, 10, 40, 40], "matches": []},
    ]
    assert (none["faces"], none["error"]) == ([], None)
    assert text["error"].startswith("text.png is not a readable photo.")
    assert "none.png: no face was found\n" in done.err
    assert "WARNING: text.png is not a readable photo." in done.err
    assert "1 file has another type\n" in done.err


def test_top_k(identify):
    assert lines_of(identify("ann.png", "--top-k", 1))[1] == "ann.png: ann 0.95"
    assert "top_k must be an integer of at least 1" in identify("ann.png", "--top-k", 0, code=1).err


def test_faces_outside_of_the_limits(identify):
    found = json.loads(identify("ann.png", "--min-size", 100, "--json").out)["photos"][0]
    assert found["faces"] == []
    assert found["rejected"] == [{"box": [10, 10, 40, 40], "reason": "size is below 100"}]
    assert (
        "ann.png: the face at (10, 10) is rejected: size is below 100\n" in identify("ann.png", "--min-size", 100).out
    )


@pytest.mark.filterwarnings("default::keras_arcface.gallery.StaleThresholdWarning")
def test_a_stale_threshold_is_reported_once(identify):
    calibrate(0.1)
    with Gallery.open("people.db") as gallery:
        gallery.enroll("carl", [BLUE])
    done = identify("ann.png", "group.png")
    assert done.err.count("WARNING: The threshold 'fpir=0.1' was calibrated for 2 people, and people.db now has 3") == 1


def test_a_missing_gallery_is_not_created(run, here):
    done = run("identify", "absent.db", "ann.png")
    assert done == (1, "", "error: No such file or directory: absent.db\n")
    assert not list(here.glob("absent.db*"))


def test_an_empty_gallery(identify):
    with Gallery.open("people.db") as gallery:
        gallery.remove("ann")
        gallery.remove("bob")
    assert identify("ann.png", code=1).err == (
        "error: GALLERY must have at least one person. Received: people.db without anybody\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("people.db", "nowhere"), "No such file or directory: nowhere"),
        (("people.db", "empty"), "PHOTOS must be a folder with photos (.jpg"),
        (("people.db", "text.png"), "PHOTOS must be readable photos. Received: text.png is not a readable photo."),
        (("empty", "people.db"), "GALLERY must be a file, and comes before PHOTOS. Received: the folder empty"),
        (("text.png", "ann.png"), "text.png must be the undamaged file of a gallery. Received: "),
    ],
)
def test_mistakes(run, here, color_embedder, arguments, message):
    (here / "empty").mkdir()
    done = run("identify", *arguments, "--embedder", color_embedder)
    assert (done.code, done.out) == (1, "")
    assert f"error: {message}" in done.err


def test_another_embedder_is_refused(run, here):
    import keras

    images = keras.Input((112, 112, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    keras.Model(images, keras.layers.Dense(3)(pooled)).save("other.keras")
    done = run("identify", "people.db", "ann.png", "--embedder", "other.keras")
    assert (done.code, done.out) == (1, "")
    assert "--embedder must be the one with which the gallery was created. Received: other.keras\n" in done.err
