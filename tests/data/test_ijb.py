import cv2
import numpy as np
import pytest
from conftest import make_face

from keras_arcface._alignment import TEMPLATE
from keras_arcface.data import IjbSet
from keras_arcface.data import align
from keras_arcface.evaluation import pool_templates
from keras_arcface.evaluation import verify_templates


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
        ("face_tid_mid", "1.png 7 100\n", r"must have 1 images, as ijbc_face_tid_mid.txt. Received: 5"),
        ("template_pair_label", "7 8 1\n7 99999999999999999999 1\n", r"line 2: expected numbers. Received: '7 9999"),
        ("face_tid_mid", "1.png 7 1\n\udcff.png 7 2\n", r"face_tid_mid.txt must contain lines of 3 fields. Received: "),
        ("face_tid_mid", "1.png 7 1\n" + "9" * 10**5, r"line 2: expected 3 fields. Received: '9{79}\.\.\.$"),
        ("face_tid_mid", "1" * 10**5 + " 7 1\n", r"line 1: expected image 1{200}\.\.\., as in .* Received: 1.png$"),
        ("template_pair_label", "", r"template_pair_label.txt must contain lines of 3 fields. Received: an empty file"),
        ("template_pair_label", "7 8 1\n7 8 1\n7 8 2\n", r"line 3: expected 1 or 0 as the last field. Received: 2"),
        ("template_pair_label", "7 8 1\n7 8\n", r"line 2: expected 3 fields. Received: '7 8'"),
        ("name_5pts_score", "1.png 1 2 3\n", r"name_5pts_score.txt, line 1: expected 12 fields"),
    ],
)
def test_invalid_files_are_named(ijb, file, text, message):
    (ijb / "meta" / f"ijbc_{file}.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        IjbSet(ijb)


def test_missing_files_are_named(ijb):
    (ijb / "loose_crop" / "2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2.png is not a readable image.* Received: 6 bytes"):
        IjbSet(ijb)[1:2]
    (ijb / "loose_crop" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2.png must be an existing image file. Received: no such file"):
        IjbSet(ijb)[1:2]
    (ijb / "meta" / "ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"ijbc_name_5pts_score.txt must be a file of .*Received: no such file"):
        IjbSet(ijb)
    with pytest.raises(FileNotFoundError, match=r"must contain one file <name>_face_tid_mid.txt. Received: \[\]"):
        IjbSet(ijb / "loose_crop")


def write_landmarks(ijb, undetected):
    """Replaces the landmarks of some images; `undetected` is `{number: text}`."""
    path = ijb / "meta" / "ijbc_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    for number, text in undetected.items():
        lines[number - 1] = f"{number}.png {text} 0.0"
    path.write_text("\n".join(lines) + "\n")


UNDETECTED = ("-1 " * 10, "nan " * 10, "0 " * 10, "50 60 70 60 -1 -1 50 90 70 90")


@pytest.mark.parametrize("text", UNDETECTED)
def test_an_image_without_a_detected_face_is_named(text, ijb):
    write_landmarks(ijb, {4: text, 5: "-1 " * 10})
    message = r"5pts_score.txt, line 4: 4.png has no detected face.*undetected=\"skip\".*Received: 2 of 5"
    with pytest.raises(ValueError, match=message):
        IjbSet(ijb)


def test_images_without_a_detected_face_can_be_skipped(ijb, caplog):
    (ijb / "meta" / "ijbc_template_pair_label.txt").write_text("7 8 0\n8 8 1\n7 7 1\n")
    write_landmarks(ijb, {2: "-1 " * 10, 3: "-1 " * 10, 4: UNDETECTED[3], 5: "nan " * 10})
    found = IjbSet(ijb, undetected="skip")
    assert (found.names, found.templates.tolist(), found.media.tolist()) == (["1.png"], [7], [100])
    assert (found.pairs.tolist(), found.same.tolist()) == ([[7, 7]], [True])
    assert (found.skipped, found.skipped_pairs) == (["2.png", "3.png", "4.png", "5.png"], 2)
    assert "skipped 4 images without a detected face, and 2 pairs of templates without a remaining image" in caplog.text
    assert found[:].shape == (1, 112, 112, 3)
    write_landmarks(ijb, {1: "-1 " * 10})
    with pytest.raises(
        ValueError,
        match=r"must have a pair of templates with detected faces. Received: 5 images without a detected face",
    ):
        IjbSet(ijb, undetected="skip")


def test_the_remaining_images_can_be_evaluated(ijb):
    (ijb / "meta" / "ijbc_template_pair_label.txt").write_text("7 8 0\n8 8 1\n9 8 0\n")
    (ijb / "meta" / "ijbc_face_tid_mid.txt").write_text("1.png 7 1\n2.png 7 2\n3.png 8 3\n4.png 8 4\n5.png 9 5\n")
    write_landmarks(ijb, {2: "-1 " * 10, 5: "-1 " * 10})
    found = IjbSet(ijb, undetected="skip")
    embeddings = found[:].reshape(3, -1).astype(np.float32)
    ids, pooled = pool_templates(embeddings, found.templates, found.media, detector_scores=found.detector_scores)
    assert ids.tolist() == [7, 8]
    assert verify_templates(pooled, ids, found.pairs, found.same, progress=False).auc == 1.0


def test_the_center_of_the_loose_crop_can_replace_an_undetected_face(ijb):
    write_landmarks(ijb, {2: "-1 " * 10})
    found = IjbSet(ijb, undetected="crop")
    assert found.detected.tolist() == [True, False, True, True, True]
    faces = found[:]
    expected = cv2.resize(make_face(2, 0, size=(140, 130))[5:135], (112, 112), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(faces[1], expected)
    (ijb / "meta" / "ijbc_name_5pts_score.txt").write_text(
        (ijb / "meta" / "ijbc_name_5pts_score.txt").read_text().replace("-1 " * 10, "1 2 3 4 5 6 7 8 9 11 ")
    )
    np.testing.assert_array_equal(faces[[0, 2, 3, 4]], IjbSet(ijb)[:][[0, 2, 3, 4]])


def test_other_values_of_undetected_are_rejected(ijb):
    with pytest.raises(ValueError, match=r"undetected must be one of raise, skip, crop. Received: undetected='box'"):
        IjbSet(ijb, undetected="box")


def test_repr(ijb):
    assert repr(IjbSet(ijb)) == f"<IjbSet({str(ijb)!r}): 5 images of 2 templates, 2 pairs>"
