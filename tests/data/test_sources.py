import pytest

from keras_arcface.data import ImageFolder


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
