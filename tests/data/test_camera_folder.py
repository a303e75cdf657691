import pytest
import retrieval_trees
from conftest import encode
from conftest import make_face

from keras_arcface.data import CameraFolder
from keras_arcface.data import open_source
from keras_arcface.data import write_dataset


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
    assert (folder.class_names, folder.labels.tolist()) == (["0001", "0002"], [-1, -1, 0, 1])
    assert repr(folder) == f"<CameraFolder({str(tmp_path)!r}): 4 images of 2 identities>"
    assert folder[3] == (encode(make_face(0, 0), ".jpg"), 1, names[0])


def test_the_training_images_are_written(tmp_path):
    people = {7: [encode(make_face(7, i)) for i in range(2)], 1501: [encode(make_face(1, i)) for i in range(3)]}
    other = {-1: people[7][:1], 0: people[7][1:], 3: people[1501][:1]}
    retrieval_trees.write_market(tmp_path, people, people, other)
    train = open_source(tmp_path, subset="train")
    assert (type(train), train.class_names) == (CameraFolder, ["0007", "1501"])
    info = write_dataset(train, tmp_path / "out")
    assert (info.num_examples, info.num_classes, info.class_names) == (5, 2, ("0007", "1501"))
    assert write_dataset(open_source(tmp_path, subset="train"), tmp_path / "out") == info
    # Images without an identity are no class.
    gallery = open_source(tmp_path, subset="gallery")
    with pytest.raises(ValueError, match=r"-1_c1s1_000001_00.jpg must have a label in \[0, 1\). Received: label=-1"):
        write_dataset(gallery, tmp_path / "gallery")
    assert write_dataset(gallery, tmp_path / "other", damaged="skip").num_examples == 1
    (tmp_path / "bounding_box_train" / "0007_c1s1_000001_00.jpg").touch()
    with pytest.raises(FileExistsError, match=r"files of CameraFolder\(.*bounding_box_train'\) were added, removed or"):
        write_dataset(open_source(tmp_path, subset="train"), tmp_path / "out")


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
