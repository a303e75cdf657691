"""The command `keras-arcface cluster`, on photos of squares whose color is the person."""

import json
import os

import numpy as np
import pytest
from conftest import encode
from faces.detectors import BLUE
from faces.detectors import DARK_RED
from faces.detectors import GREEN
from faces.detectors import RED
from faces.detectors import photo_of
from html_page import Page

from keras_arcface import faces


@pytest.fixture
def photos(tmp_path, color_detector):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(photo_of(RED))
    (folder / "b.png").write_bytes(photo_of(GREEN, RED))
    (folder / "c.jpg").write_bytes(b"damaged")
    (folder / "more" / "d.png").write_bytes(photo_of(DARK_RED))
    (folder / "more" / "e & f.png").write_bytes(photo_of(BLUE))
    (folder / "more" / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_bytes(photo_of(BLUE))
    return folder


@pytest.fixture
def embedder(color_embedder):
    return color_embedder


def test_album_and_json(run, photos, embedder, tmp_path):
    output = tmp_path / "new" / "album.html"
    done = run("cluster", photos, "--output", output, "--embedder", embedder, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["people"] == [["a.png", "b.png#2", "more/d.png"]]
    assert found["unsure"] == ["b.png#1", "more/e & f.png"]
    assert (found["photos"], found["rejected"], found["skipped"]) == (5, 0, 1)
    assert list(found["errors"]) == [str(photos / "c.jpg")]
    assert f"WARNING: {photos / 'c.jpg'} is not a readable photo" in done.err
    assert "5 photos, 5 faces: 1 people, and 2 faces that belong to no group" in done.err
    page = Page(output.read_text("utf-8"))
    assert [text for text in page.text if ".png" in text] == [*found["people"][0], *found["unsure"]]
    assert "1 file has another type. 1 photo could not be read." in page.text
    links = [source for source in page.sources if not source.startswith("data:")]
    assert links[0] == "../photos/a.png"
    assert all(os.path.exists(output.parent / link.replace("%20", " ").replace("%26", "&")) for link in links)


def test_pairs_correct_the_groups(run, photos, embedder, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a.png, b.png#2, different\n\nmore/d.png,more/e & f.png,same\n")
    output = tmp_path / "album.html"
    done = run("cluster", photos, "--output", output, "--embedder", embedder, "--pairs", pairs, "--json")
    assert done.code == 0, done.err
    groups = json.loads(done.out)["people"]
    assert any({"more/d.png", "more/e & f.png"} <= set(group) for group in groups)
    assert not any({"a.png", "b.png#2"} <= set(group) for group in groups)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png,b.png#1", "line 2: expected face,face,same or face,face,different. Received: 'a.png,b.png#1'"),
        ("a.png,b.png#1,maybe", "line 2: expected face,face,same or face,face,different"),
        ("a.png,b.png,same", "line 2: the photo has several faces. Expected: b.png#1, b.png#2, ... Received: b.png"),
        ("a.png,z.png,same", "line 2: expected a face as in the album: .*Received: 'z.png'"),
        (
            "b.png#1,more/d.png,same\n\nmore/d.png,a.png,different",
            "line 4: expected faces that no other lines join. Received: more/d.png,a.png,different",
        ),
    ],
)
def test_invalid_pairs(run, photos, embedder, tmp_path, line, message):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"a.png,b.png#1,same\n{line}\n")
    done = run("cluster", photos, "--output", tmp_path / "album.html", "--embedder", embedder, "--pairs", pairs)
    assert (done.code, done.out) == (1, "")
    assert message.split(".*")[0] in done.err
    assert message.split(".*")[-1] in done.err
    assert f"{pairs}, line" in done.err
    assert not (tmp_path / "album.html").exists()


def test_options_reach_the_clustering(run, photos, embedder, tmp_path):
    command = ("cluster", photos, "--output", tmp_path / "album.html", "--embedder", embedder, "--json")
    assert json.loads(run(*command, "--threshold", 0.99).out)["people"] == [["a.png", "b.png#2"]]
    assert len(json.loads(run(*command, "--min-faces", 1).out)["people"]) == 3
    assert json.loads(run(*command, "--method", "hdbscan").out)["people"] == []
    done = run(*command, "--method", "hdbscan", "--threshold", 0.5)
    assert (done.code, done.out) == (1, "")
    assert 'threshold must be None for method="hdbscan"' in done.err


def test_options_reach_the_detection(run, photos, embedder, tmp_path, monkeypatch):
    sides = []

    def detector(photo):
        sides.append(max(photo.shape))
        return []

    monkeypatch.setattr(faces, "YuNet", lambda path=None, min_score=0.7: detector)
    command = ("cluster", photos, "--output", tmp_path / "album.html", "--embedder", embedder)
    assert run(*command).code == 0
    assert sides == [60, 120, 60, 60]
    sides.clear()
    assert run(*command, "--max-side", 64, "--tiles").code == 0
    assert sides == [60, 64, 64, 64, 64, 60, 60]


def test_photos_without_faces(run, photos, embedder, tmp_path):
    for name in ("a.png", "b.png", "more/d.png", "more/e & f.png"):
        (photos / name).write_bytes(encode(np.zeros((20, 20, 3), np.uint8)))
    done = run("cluster", photos, "--output", tmp_path / "album.html", "--embedder", embedder)
    assert done.code == 0, done.err
    assert "5 photos, 0 faces: 0 people, and 0 faces that belong to no group" in done.out
    assert "No faces." in (tmp_path / "album.html").read_text()


def test_mistakes(run, photos, embedder, tmp_path):
    done = run("cluster", tmp_path / "absent")
    assert done == (1, "", f"error: No such file or directory: {tmp_path / 'absent'}\n")
    (tmp_path / "empty").mkdir()
    done = run("cluster", tmp_path / "empty", "--output", tmp_path / "album.html")
    assert done.code == 1
    assert "error: PHOTOS must be a folder with photos (.jpg" in done.err
    assert f"Received: {tmp_path / 'empty'} without any" in done.err
    done = run("cluster", photos, "--embedder", "sfase", "--output", tmp_path / "album.html")
    assert done.code == 1
    assert "No such file or directory: sfase" in done.err
