"""The command `keras-arcface align`."""

import json

import pytest
from conftest import encode
from faces.detectors import SquareDetector
from faces.detectors import photo_with_squares

from keras_arcface import faces


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "YuNet", lambda path=None, min_score=0.7: SquareDetector())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(encode(photo_with_squares((100, 60, 120), (300, 200, 30))))
    (tmp_path / "photos" / "1.png").write_bytes(b"damaged")
    return tmp_path / "photos"


def test_a_folder_is_aligned(run, photos, tmp_path):
    output = tmp_path / "out"
    done = run("align", photos, output, "--min-size", 20)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{output} 2 photos, 1 faces kept",
        "  1 rejected: size is below 20",
        "  1 rejected: cannot be read",
        f"To look at them: {output / 'contact_sheet.html'}",
    ]
    again = run("align", photos, output, "--min-size", 20, "--json")
    assert json.loads(again.out) == {
        "directory": str(output),
        "photos": 2,
        "kept": 1,
        "rejected": {"size is below 20": 1, "cannot be read": 1},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--detector", "yunat"), "--detector must be yunet, yunet=PATH, mtcnn or scrfd=PATH"),
        (("--detector", "scrfd"), "--detector must be yunet, yunet=PATH, mtcnn or scrfd=PATH"),
        (("--detector", "scrfd=absent.onnx"), "No such file or directory: absent.onnx"),
        (("--detector", "mtcnn", "--min-score", "0.5"), "--min-score requires yunet or scrfd"),
        (("--size", "3"), "image_size must be an integer of at least 16"),
    ],
)
def test_mistakes(run, photos, tmp_path, options, message):
    done = run("align", photos, tmp_path / "out", *options)
    assert done.code == 1
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(run, tmp_path):
    done = run("align", tmp_path / "absent", tmp_path / "out")
    assert (done.code, done.err) == (1, f"error: No such file or directory: {tmp_path / 'absent'}\n")
