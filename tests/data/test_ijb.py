import cv2
import numpy as np
import pytest
from conftest import make_face

from keras_arcface.data import IjbSet
from keras_arcface.data import align
from keras_arcface.data.alignment import TEMPLATE


@pytest.fixture
def ijb(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    faces, points = [], []
    for number in range(1, 6):
        face = make_face(number, 0, size=(140, 130))
        cv2.imwrite(str(tmp_path / "loose_crop" / f"{number}.png"), face[:, :, ::-1])
        faces.append(f"{number}.png {number // 3 + 7} {number * 100}")
        landmarks = " ".join(f"{value:.3f}" for value in (TEMPLATE + number).ravel())
        points.append(f"{number}.png {landmarks} 0.9{number}")
    (tmp_path / "meta" / "ijbc_face_tid_mid.txt").write_text("\n".join(faces) + "\n")
    (tmp_path / "meta" / "ijbc_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    (tmp_path / "meta" / "ijbc_template_pair_label.txt").write_text("7 8 0\n8 8 1\n")
    return tmp_path


def test_files_and_faces(ijb):
    found = IjbSet(ijb)
    assert len(found) == 5
    assert found.names == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    assert found.templates.tolist() == [7, 7, 8, 8, 8]
    assert found.media.tolist() == [100, 200, 300, 400, 500]
    np.testing.assert_allclose(found.detector_scores, [0.91, 0.92, 0.93, 0.94, 0.95])
    assert (found.pairs.tolist(), found.same.tolist()) == ([[7, 8], [8, 8]], [False, True])
    faces = found[1:3]
    assert (faces.shape, faces.dtype) == ((2, 112, 112, 3), np.uint8)
    np.testing.assert_array_equal(
        faces[0], align(make_face(2, 0, size=(140, 130)), np.round(TEMPLATE + 2, 3).astype(np.float32))
    )
    assert IjbSet(ijb, "ijbc", size=56)[:1].shape == (1, 56, 56, 3)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("face_tid_mid", "1.png 7\n", r"ijbc_face_tid_mid.txt, line 1: expected 3 fields. Received: '1.png 7'"),
        ("template_pair_label", "7 8 1\n7 x 1\n", r"line 2: expected numbers. Received: '7 x 1'"),
        (
            "face_tid_mid",
            "1.png 7 100\n9.png 7 100\n",
            r"name_5pts_score.txt, line 2: expected image 9.png.*Received: 2",
        ),
        ("face_tid_mid", "1.png 7 100\n", r"has 1 images, ijbc_name_5pts_score.txt 5"),
        ("template_pair_label", "", r"template_pair_label.txt is empty"),
        ("template_pair_label", "7 8 1\n7 8 1\n7 8 2\n", r"line 3: expected 1 or 0 as the last field. Received: 2"),
        ("template_pair_label", "7 8 1\n7 8\n", r"line 2: expected 3 fields. Received: '7 8'"),
        ("name_5pts_score", "1.png 1 2 3\n", r"name_5pts_score.txt, line 1: expected 12 fields"),
    ],
)
def test_files_that_do_not_fit_are_named(ijb, file, text, message):
    (ijb / "meta" / f"ijbc_{file}.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        IjbSet(ijb)


def test_what_is_missing_is_named(ijb):
    (ijb / "loose_crop" / "2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2.png is not a readable image"):
        IjbSet(ijb)[1:2]
    (ijb / "loose_crop" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image .*2.png"):
        IjbSet(ijb)[1:2]
    (ijb / "meta" / "ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*ijbc_name_5pts_score.txt"):
        IjbSet(ijb)
    with pytest.raises(FileNotFoundError, match=r"must hold one file <name>_face_tid_mid.txt. Received: \[\]"):
        IjbSet(ijb / "loose_crop")
