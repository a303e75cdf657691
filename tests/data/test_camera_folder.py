import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import CameraFolder


def test_identities_and_cameras_from_names(tmp_path):
    names = ["0002_c1s1_000451_03.jpg", "-1_c3s2_000001_00.jpg", "0001_c2_f0046182.jpg", "0000_c6s1_1.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encode(make_face(number, 0), ".jpg"))
    for name in ("Thumbs.db", "._0002_c1s1_000451_03.jpg", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    folder = CameraFolder(tmp_path)
    assert [file.name for file in folder.files] == sorted(names)
    assert folder.ids.tolist() == [-1, 0, 1, 2]
    assert folder.cameras.tolist() == [3, 6, 2, 1]
    assert len(folder) == 4
    assert repr(folder) == f"<CameraFolder({str(tmp_path)!r}): 4 images of 4 identities>"
    assert folder[3] == encode(make_face(0, 0), ".jpg")
    assert folder[2:] == [folder[2], folder[3]]


@pytest.mark.parametrize("name", [f"{10**18}_c1.jpg", f"1_c{10**18}.jpg", f"1_c{'9' * 200}.jpg", "\u0661_c\u0661.jpg"])
def test_numbers_that_are_no_int64_are_named(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"must be named <identity>_c<camera>.*Received: "):
        CameraFolder(tmp_path)


def test_invalid_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a folder of images"):
        CameraFolder(tmp_path / "query")
    with pytest.raises(ValueError, match=r"path must be a folder of images. Received: .*, without images"):
        CameraFolder(tmp_path)
    for name in ("bounding_box_train", "query"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        ValueError, match=r"of images. Expected: one of its folders, bounding_box_train, query. Received"
    ):
        CameraFolder(tmp_path)
    (tmp_path / "somebody.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be named <identity>_c<camera>.* Received: somebody.jpg"):
        CameraFolder(tmp_path)
