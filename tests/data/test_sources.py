import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import ImageFolder
from keras_arcface.data import ImageList
from keras_arcface.data import TFRecords
from keras_arcface.data import load_dataset
from keras_arcface.data import write_dataset


def test_labels_number_the_folders_in_order(face_folder):
    faces = ImageFolder(face_folder)
    assert (len(faces), faces.num_classes) == (12, 3)
    assert faces.class_names == ["person_0", "person_1", "person_2"]
    records = list(faces)
    assert [record.label for record in records] == [0] * 4 + [1] * 3 + [2] * 5
    assert records[4].name == "person_1/0.png"
    assert records[4].image == (face_folder / "person_1" / "0.png").read_bytes()


def test_hidden_files_and_text_beside_the_folders_are_passed_over(face_folder):
    (face_folder / ".DS_Store").write_text("")
    (face_folder / "person_0" / ".DS_Store").write_text("")
    (face_folder / "README.txt").write_text("")
    assert len(ImageFolder(face_folder)) == 12


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one sub-folder per class. Received: .*absent"):
        ImageFolder(tmp_path / "absent")


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match=r"holds no sub-folders\. Expected: one sub-folder of images per class"):
        ImageFolder(tmp_path)


def test_an_empty_person_is_named(face_folder):
    (face_folder / "person_1b").mkdir()
    with pytest.raises(ValueError, match="person_1b holds no images"):
        ImageFolder(face_folder)


def test_a_file_that_is_no_image_is_named(face_folder):
    (face_folder / "person_1" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes.txt is no image by its name. Expected: one of .jpg, .jpeg, .png"):
        ImageFolder(face_folder)


def test_an_image_outside_the_folders_is_named(face_folder):
    (face_folder / "stray.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"stray.jpg belongs to no class"):
        ImageFolder(face_folder)


def test_images_that_only_opencv_reads_belong_to_a_folder(face_folder):
    (face_folder / "person_1" / "7.PGM").write_bytes(encode(make_face(1, 7)[:, :, :1], ".pgm"))
    assert ImageFolder(face_folder)[7].name == "person_1/7.PGM"
    assert ImageFolder(face_folder).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 5


def test_the_fingerprint_changes_when_an_image_does(face_folder):
    before = ImageFolder(face_folder).fingerprint()
    assert ImageFolder(face_folder).fingerprint() == before
    (face_folder / "person_1" / "1.jpg").write_bytes(b"other")
    assert ImageFolder(face_folder).fingerprint() != before


def write_list(folder, text, encoding="utf-8"):
    path = folder / "faces.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_list_with_numbers_for_labels(face_folder):
    faces = ImageList(write_list(face_folder, "path,label\nperson_0/0.png,3\n\nperson_2/1.jpg, 0\n"))
    assert (len(faces), faces.num_classes) == (2, 4)
    assert not hasattr(faces, "class_names")
    assert list(faces) == [
        ((face_folder / "person_0" / "0.png").read_bytes(), 3, "person_0/0.png"),
        ((face_folder / "person_2" / "1.jpg").read_bytes(), 0, "person_2/1.jpg"),
    ]


def test_a_list_with_names_for_labels(face_folder, tmp_path):
    path = write_list(tmp_path, '\ufeffperson_1/0.png,Zoë\r\n"person_2/1.jpg","Adams, Ann"\r\nperson_1/1.jpg,Zoë\r\n')
    faces = ImageList(path, root=face_folder)
    assert faces.class_names == ["Adams, Ann", "Zoë"]
    assert faces.labels.tolist() == [1, 0, 1]
    assert faces.num_classes == 2
    assert faces[1].image == (face_folder / "person_2" / "1.jpg").read_bytes()


def test_labels_of_a_list_beyond_float32(face_folder):
    faces = ImageList(write_list(face_folder, f"person_0/0.png,{2**24 + 1}\nperson_0/1.jpg,{2**24}\n"))
    assert faces.labels.tolist() == [2**24 + 1, 2**24]
    assert faces[0].label == 2**24 + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,1\nb.jpg\n", r"faces.csv, line 2: expected path,label, received 'b.jpg'"),
        ("a.jpg,1\nb.jpg,1,2\n", r"line 2: expected path,label, received 'b.jpg,1,2'"),
        ("a.jpg,1\n,2\n", r"line 2: expected path,label, received ',2'"),
        ("a.jpg,1\nb.jpg, \n", r"line 2: expected path,label"),
        ("", "lists no images. Expected: lines of path,label"),
        ("path,label\n", "lists no images"),
    ],
)
def test_a_list_that_is_none(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageList(write_list(tmp_path, text))


def test_a_list_that_is_not_utf8(tmp_path):
    with pytest.raises(ValueError, match=r"faces.csv, line 0: 'utf-8' codec can't decode"):
        ImageList(write_list(tmp_path, "Zoë.jpg,1\n", "latin1"))


def test_no_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="ImageList expects a CSV file of path,label"):
        ImageList(tmp_path / "absent.csv")


def test_a_listed_image_that_is_missing(tmp_path):
    faces = ImageList(write_list(tmp_path, "absent.jpg,1\n"))
    assert isinstance(faces.fingerprint(), str)
    with pytest.raises(FileNotFoundError, match=r"absent.jpg"):
        faces[0]


def test_what_was_written_is_a_source_too(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "records", examples_per_shard=5)
    faces = TFRecords(tmp_path / "records")
    assert (len(faces), faces.num_classes, faces.image_size) == (12, 3, (32, 32))
    assert list(faces.class_names) == ["person_0", "person_1", "person_2"]
    records = list(faces)
    assert sorted(records) == sorted(ImageFolder(face_folder))
    assert [record.label for record in records] == faces.labels.tolist()
    labels = np.concatenate([labels for _, labels in load_dataset(tmp_path / "records", batch_size=5)])
    np.testing.assert_array_equal(labels, faces.labels)
    assert faces[-1] == records[-1]
    with pytest.raises(IndexError):
        faces[12]
    again = write_dataset(faces, tmp_path / "again", processes=2)
    assert sorted(TFRecords(tmp_path / "again")) == sorted(records)
    assert again.class_names == ("person_0", "person_1", "person_2")
    assert TFRecords(tmp_path / "again").fingerprint() != faces.fingerprint()
