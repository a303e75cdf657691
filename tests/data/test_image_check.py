import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import ImageFolder
from keras_arcface.data import PairSet
from keras_arcface.data import Record
from keras_arcface.data import Source
from keras_arcface.data import check_images
from keras_arcface.data import image_check


class Records(Source):
    """Source of given records."""

    def __init__(self, records, num_classes):
        self.records, self.num_classes = records, num_classes

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


def test_intact_images_are_counted_by_size(face_folder):
    (face_folder / "person_0" / "4.bmp").write_bytes(encode(make_face(0, 4, (40, 30)), ".bmp"))
    found = check_images(ImageFolder(face_folder))
    assert found == image_check.ImageCheck(13, {(32, 32): 12, (40, 30): 1}, ())
    assert list(found.image_sizes) == [(32, 32), (40, 30)]


def test_every_damaged_image_of_a_source_is_named(face_folder, tmp_path):
    images = sorted(face_folder.glob("*/*"))
    images[3].write_bytes(b"text")
    images[5].write_bytes(images[5].read_bytes()[:-40])
    faces = ImageFolder(face_folder)
    images[7].unlink()
    found = check_images(faces)
    assert (found.num_images, found.image_sizes) == (12, {(32, 32): 9})
    assert len(found.errors) == 3
    for error, image in zip(found.errors, (images[3], images[5], images[7]), strict=True):
        assert str(image.relative_to(face_folder)) in error


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_are_checked(label):
    image = encode(make_face(0, 0))
    found = check_images(Records([Record(image, 0, "good"), Record(image, label, "bad")], num_classes=2))
    assert found.image_sizes == {(32, 32): 1}
    assert found.errors == (f"bad must have a label in [0, 2). Received: label={label}",)


def test_an_image_of_a_pair_is_named():
    images = [encode(make_face(number, 0)) for number in range(6)]
    images[3] = images[3][:-30]
    found = check_images(PairSet(images, [True, False, True]))
    assert (found.num_images, found.image_sizes) == (6, {(32, 32): 5})
    assert found.errors[0].startswith("image 3 (of pair 1) is not a readable image")


def test_the_number_of_messages_is_limited(monkeypatch):
    monkeypatch.setattr(image_check, "_MAX_ERRORS", 2)
    found = check_images(Records([Record(b"text", 0, f"record {number}") for number in range(300)], num_classes=1))
    assert [error.split(" is ")[0] for error in found.errors] == ["record 0", "record 1", "298 more images with errors"]


def test_no_images():
    with pytest.raises(ValueError, match=r"images must contain at least one image. Received: .*, which is empty"):
        check_images(PairSet([], np.zeros(0, bool)))
