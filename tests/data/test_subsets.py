import numpy as np
import pytest

from keras_arcface.data import ClassSubset
from keras_arcface.data import Record
from keras_arcface.data import Relabeled
from keras_arcface.data import Source
from keras_arcface.data import drop_small_classes
from keras_arcface.data import relabel_classes
from keras_arcface.data import split_identities


class Faces(list, Source):
    """Source whose images contain their labels."""

    def __init__(self, labels, num_classes=10, class_names=None):
        self.class_names = class_names
        super().__init__(Record(b"of %d" % label, label, f"image {i}") for i, label in enumerate(labels))
        self.num_classes = num_classes

    def __str__(self):
        return "Faces"

    def fingerprint(self):
        return "faces"


def test_small_classes_are_left_out_and_the_others_renumbered():
    selection = drop_small_classes(Faces([7, 2, 7, 5, 2, 7], class_names=[f"person {label}" for label in range(10)]), 2)
    assert (len(selection), selection.num_classes) == (5, 2)
    assert selection.source_labels.tolist() == [2, 7]
    assert selection.class_names == ["person 2", "person 7"]
    assert [(record.image, record.label) for record in selection] == [
        (b"of 7", 1),
        (b"of 2", 0),
        (b"of 7", 1),
        (b"of 2", 0),
        (b"of 7", 1),
    ]
    assert selection.labels.tolist() == [1, 0, 1, 0, 1]
    assert str(selection) == "2 classes of Faces"


def test_with_one_image_only_empty_classes_are_left_out():
    selection = drop_small_classes(Faces([7, 2, 5]), 1)
    assert selection.source_labels.tolist() == [2, 5, 7]
    assert selection.labels.tolist() == [2, 0, 1]


def test_an_invalid_label_is_kept_so_that_it_is_reported():
    selection = drop_small_classes(Faces([0, 12, 1, -3, 1]), 2)
    assert [record.label for record in selection] == [12, 0, -3, 0]
    assert selection.labels.tolist() == [-1, 0, -1, 0]


@pytest.mark.parametrize("classes", [[], [1, 3], [-1], [1, 1], [0.5], ["ann"], [[0]], 1])
def test_classes_that_are_not_those_of_the_source(classes):
    with pytest.raises(
        ValueError, match=r"classes must be a list of different labels in \[0, 3\), the classes of Faces"
    ):
        ClassSubset(Faces([0, 1, 2], num_classes=3), classes)


def test_no_class_is_large_enough():
    with pytest.raises(
        ValueError, match=r"Faces must have a class of at least 4 images. Received: at most 3 images per class"
    ):
        drop_small_classes(Faces([1, 1, 1, 2]), 4)


class Unlabeled(Source):
    """Source without labels, with a record that cannot be read."""

    num_classes = 3

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.reads += 1
        if index == 2:
            raise ValueError("record 2 is damaged")
        return Record(b"", index % 3, f"{index}")


def test_a_source_without_labels_is_read_once():
    source = Unlabeled()
    selection = drop_small_classes(source, 1)
    assert source.reads == 4
    assert selection.labels.tolist() == [0, 1, -1, 0]
    with pytest.raises(ValueError, match="record 2 is damaged"):
        selection[2]


def test_a_subset_of_a_subset_has_the_original_labels():
    once = drop_small_classes(Faces([7, 2, 7, 5, 2, 7, 5, 9]), 2)
    twice = drop_small_classes(once, 3)
    assert once.source_labels.tolist() == [2, 5, 7]
    assert twice.source_labels.tolist() == [7]
    assert [record.image for record in twice] == [b"of 7"] * 3


def test_very_large_labels():
    selection = drop_small_classes(Faces([10**15, 3, 2**24 + 1], num_classes=10**15 + 1), 1)
    assert selection.labels.tolist() == [2, 0, 1]
    assert selection.source_labels.tolist() == [3, 2**24 + 1, 10**15]


def test_no_identity_is_on_both_sides_of_a_split():
    faces = Faces(np.repeat(np.arange(10), 3))
    training, validation = split_identities(faces, 0.3, seed=1)
    assert (training.num_classes, validation.num_classes) == (7, 3)
    assert sorted([*training.source_labels, *validation.source_labels]) == list(range(10))
    images = [{record.image for record in side} for side in (training, validation)]
    assert not images[0] & images[1]
    assert (len(training), len(validation)) == (21, 9)
    assert sorted(set(validation.labels.tolist())) == [0, 1, 2]
    again = split_identities(faces, 0.3, seed=1)[1].source_labels
    other = split_identities(faces, 0.3, seed=2)[1].source_labels
    assert again.tolist() == validation.source_labels.tolist() != other.tolist()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0, 2.0, -1.0, float("nan")])
def test_a_share_that_leaves_a_part_without_classes_is_rejected(share):
    with pytest.raises(
        ValueError, match=r"share must be a fraction that leaves a class in both parts of Faces. Received: share="
    ):
        split_identities(Faces(range(10)), share)


def test_relabeled_images_and_removed_images():
    source = Faces([7, 2, 7, 5], class_names=[f"person {label}" for label in range(10)])
    relabeled = Relabeled(source, [7, -1, 5, 5])
    assert [(record.image, record.label, record.name) for record in relabeled] == [
        (b"of 7", 7, "image 0"),
        (b"of 7", 5, "image 2"),
        (b"of 5", 5, "image 3"),
    ]
    assert (len(relabeled), relabeled.num_classes, relabeled.labels.tolist()) == (3, 10, [7, 5, 5])
    assert str(relabeled) == "3 images of Faces"
    assert drop_small_classes(relabeled, 2).class_names == ["person 5"]
    assert relabeled.fingerprint() != Relabeled(source, [7, 2, 5, 5]).fingerprint()
    assert Relabeled(Unlabeled(), [0, 0, 1, 2]).fingerprint() is None


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([1, 2], r"must have the shape \(3,\).*Received: labels.shape=\(2,\)"),
        ([1, 2, 10], r"below 10.*Received: labels.max\(\)=10"),
        ([-1] * 3, "labels must contain a label of at least 0, to keep images of Faces. Received: 3 negative labels"),
    ],
)
def test_invalid_labels_for_a_source_are_rejected(labels, named):
    with pytest.raises(ValueError, match=named):
        Relabeled(Faces([1, 2, 3]), labels)


def test_classes_are_joined_and_removed():
    source = Faces([7, 2, 9, 5, 4, 2, 1], class_names=[f"person {label}" for label in range(10)])
    relabeled = relabel_classes(source, [(7, 5), (2, 7), (9, -1), (3, 9), (8, 0)])
    assert [(record.image, record.label) for record in relabeled] == [
        *((b"of 7", 2), (b"of 2", 2), (b"of 5", 2), (b"of 4", 4), (b"of 2", 2), (b"of 1", 1)),
    ]
    assert drop_small_classes(relabeled, 1).class_names == ["person 1", "person 2", "person 4"]
    assert relabel_classes(source, np.zeros((0, 2), int)).labels.tolist() == source.labels.tolist()


def test_very_large_labels_are_joined():
    source = Faces([10**15, 3, 2**24 + 1], num_classes=10**15 + 1)
    assert relabel_classes(source, [(10**15, 10**9), (10**9, 3)]).labels.tolist() == [3, 3, 2**24 + 1]


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (
            [(3, 0)],
            r"pairs must be integers \(n, 2\), labels in \[0, 3\) and .* in \[-1, 3\). Received: pairs=\[\[3, 0\]\]",
        ),
        ([(-1, 0)], r"Received: pairs=\[\[-1, 0\]\]"),
        ([(0, 3)], r"Received: pairs=\[\[0, 3\]\]"),
        ([(0, -2)], r"Received: pairs=\[\[0, -2\]\]"),
        ([(0.0, 1.0)], r"Received: pairs=\[\[0.0, 1.0\]\]"),
        ([0, 1], r"Received: pairs=\[0, 1\]"),
        ([(0, -1), (1, -1), (2, -1)], "to keep images of Faces. Received: 3 negative labels"),
    ],
)
def test_invalid_pairs_of_labels_are_rejected(pairs, named):
    with pytest.raises(ValueError, match=named):
        relabel_classes(Faces([0, 1, 2], num_classes=3), pairs)


def test_images_without_a_valid_label_are_not_lost():
    with pytest.raises(ValueError, match=r"a label in \[0, 10\). Received: 2 .* The first: the label of image 1 is 12"):
        relabel_classes(Faces([0, 12, 1, -3]), [(0, 1)])
    with pytest.raises(ValueError, match=r"Received: 1 .* The first: record 2 is damaged"):
        relabel_classes(Unlabeled(), [(0, 1)])
