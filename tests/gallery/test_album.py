import base64
import re
import urllib.parse

import cv2
import numpy as np
import pytest
from conftest import make_face
from html_page import Page

from keras_arcface.gallery import write_album
from keras_arcface.gallery.album import face_names


def crops(count, size=(112, 112)):
    return [make_face(number, 0, size) for number in range(count)]


def test_sections_counts_and_order(tmp_path):
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg", "a.jpg", "c.jpg", "d.jpg")]
    faces = zip(photos, crops(5), [1, 0, 0, 0, -1], strict=True)
    path = write_album(tmp_path / "album.html", faces, "Summer & <sun>", root=tmp_path)
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    headings = [text for text in page.text if re.match("Person|Unsure", text)]
    assert headings == ["Person 1", "Person 2", "Unsure"]
    text = "".join(page.text)
    assert "Person 13 faces in 3 photos" in text
    assert "Person 21 face in 1 photo" in text
    assert "4 faces of 2 people, and 1 face that belong to no group." in text
    assert "Summer & <sun>" in text
    assert [part for part in page.text if ".jpg" in part] == ["b.jpg", "a.jpg#2", "c.jpg", "a.jpg#1", "d.jpg"]


def test_page_contains_the_crops(tmp_path):
    faces = crops(3)
    path = write_album(tmp_path / "album.html", zip(["a.jpg", "b.jpg", "c.jpg"], faces, [1, 0, -1], strict=True))
    page = path.read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    shown = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    for encoded, face in zip(shown, (faces[1], faces[0], faces[2]), strict=True):
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(cv2.resize(pixels.astype(float) - face, (8, 8), interpolation=cv2.INTER_AREA)).max() < 6
    assert page.count('loading="lazy"') == 3
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    "name",
    [
        *('"><script>alert(1)</script>.jpg', "javascript:alert(1).jpg", "a b#c?d%20.jpg", "großmutter.jpg"),
        "line\nbreak.jpg",
        b"\xff.jpg",
    ],
)
def test_links_to_photos_with_unusual_names(tmp_path, name):
    name = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    (tmp_path / "page").mkdir()
    path = write_album(tmp_path / "page" / "album.html", [(tmp_path / "my photos" / name, crops(1)[0], 0)])
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    (link,) = (source for source in page.sources if not source.startswith("data:"))
    assert urllib.parse.unquote_to_bytes(link) == b"../my photos/" + name.encode("utf-8", "surrogateescape")
    assert ":" not in link
    assert "script" not in {tag for tag, _ in page.tags}


def test_no_faces(tmp_path):
    page = Page(write_album(tmp_path / "album.html", []).read_text("utf-8"))
    assert "No faces." in page.text
    assert page.sources == []


def test_only_unsure_faces(tmp_path):
    page = Page(write_album(tmp_path / "album.html", [("a.jpg", crops(1)[0], -1)], note="A <note>.").read_text("utf-8"))
    assert "A <note>." in page.text
    assert "".join(page.text).count("Person") == 0


def test_failure_keeps_the_old_page(tmp_path):
    path = write_album(tmp_path / "album.html", [("a.jpg", crops(1)[0], 0)])
    before = path.read_bytes()

    def faces():
        yield "b.jpg", crops(1)[0], 0
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_album(path, faces())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("crop", "cluster", "message"),
    [
        (
            np.zeros((112, 112), "uint8"),
            0,
            r"uint8 \(height, width, 3\). Received: shape \(112, 112\), uint8, for .* x.jpg",
        ),
        (np.zeros((112, 112, 3), "float32"), 0, r"Received: shape \(112, 112, 3\), float32, for a face of x.jpg"),
        (np.zeros((0, 112, 3), "uint8"), 0, r"Received: shape \(0, 112, 3\)"),
        (np.zeros((112, 112, 3), "uint8"), -2, "cluster must be an integer of at least -1. Received: -2, for .* x.jpg"),
        (np.zeros((112, 112, 3), "uint8"), 0.5, "Received: 0.5, for a face of x.jpg"),
    ],
)
def test_invalid_faces(tmp_path, crop, cluster, message):
    with pytest.raises(ValueError, match=message):
        write_album(tmp_path / "album.html", [("x.jpg", crop, cluster)])
    assert not list(tmp_path.iterdir())


def test_names_of_faces(tmp_path):
    assert face_names([]) == []
    assert face_names([tmp_path / "a.jpg", "b.jpg", tmp_path / "a.jpg"]) == [
        f"{tmp_path}/a.jpg#1",
        "b.jpg",
        f"{tmp_path}/a.jpg#2",
    ]
