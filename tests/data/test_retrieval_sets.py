"""Readers of CUB-200-2011, Cars196, SOP and In-Shop, on small directories in their layouts."""

import logging
import re
import shutil

import numpy as np
import pytest
import retrieval_trees
import scipy.io
from conftest import encode
from conftest import make_face

from keras_arcface.data import Cars196
from keras_arcface.data import Cub200
from keras_arcface.data import InShop
from keras_arcface.data import StanfordOnlineProducts
from keras_arcface.data import open_source
from keras_arcface.data import write_dataset

IMAGES = [[encode(make_face(person, image), ".jpg") for image in range(3)] for person in range(6)]


def classes(*numbers):
    """Returns `{class: images}` with different images of each class, two of the first class and three of others."""
    return {number: IMAGES[row][: 2 + (row > 0)] for row, number in enumerate(numbers)}


def test_cub(tmp_path):
    tree = classes(101, 2, 1, 200, 100)
    retrieval_trees.write_cub(tmp_path, tree)
    train, test = (Cub200(tmp_path, subset) for subset in ("train", "test"))
    assert train.class_names == ["001.Black_footed_Albatross", "002.Bird_2", "100.Bird_100"]
    assert train.labels.tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2]
    assert [record.image for record in train] == [*tree[2], *tree[1], *tree[100]]
    assert test.class_names == ["101.White_Pelican", "200.Bird_200"]
    assert test.labels.tolist() == [0, 0, 1, 1, 1]
    assert test[4] == (tree[200][2], 1, "200.Bird_200/Bird_200_0003.jpg")
    assert repr(test) == f"<Cub200({str(tmp_path)!r}, subset='test'): 5 images of 2 classes>"


def test_cars(tmp_path):
    tree = classes(99, 98, 1, 196)
    retrieval_trees.write_cars(tmp_path, tree)
    train, test = (Cars196(tmp_path, subset) for subset in ("train", "test"))
    assert (train.num_classes, test.num_classes) == (98, 98)
    assert (train.class_names[0], test.class_names[0]) == ("AM General Hummer SUV 2000", "Dodge Ram 2009")
    assert train.labels.tolist() == [97, 97, 97, 0, 0, 0]
    assert test.labels.tolist() == [0, 0, 97, 97, 97]
    assert [record.image for record in train] == [*tree[98], *tree[1]]
    assert train[0].name == "car_ims/000003.jpg"


def test_cars_of_one_image(tmp_path):
    retrieval_trees.write_cars(tmp_path, {1: IMAGES[0][:1]})
    assert len(Cars196(tmp_path, "train")) == 1


def test_sop(tmp_path):
    retrieval_trees.write_sop(tmp_path, classes(7, 3), classes(11319, 11400, 11320))
    train, test = (StanfordOnlineProducts(tmp_path, subset) for subset in ("train", "test"))
    assert (train.class_names, train.labels.tolist()) == (["3", "7"], [1, 1, 0, 0, 0])
    assert (test.class_names, test.labels.tolist()) == (["11319", "11320", "11400"], [0, 0, 2, 2, 2, 1, 1, 1])
    assert test[2] == (IMAGES[1][0], 2, "chair_final/1140000.jpg")


@pytest.mark.parametrize("nested", [False, True])
def test_in_shop(nested, tmp_path):
    # Item 9 has no image in the gallery, and item 5 no query.
    retrieval_trees.write_in_shop(tmp_path, classes(4, 1), classes(2, 9), classes(5, 2), nested)
    train, query, gallery = (InShop(tmp_path, subset) for subset in ("train", "query", "gallery"))
    assert (train.class_names, train.labels.tolist()) == (["id_00000001", "id_00000004"], [1, 1, 0, 0, 0])
    assert query.class_names == gallery.class_names == ["id_00000002", "id_00000005", "id_00000009"]
    assert (query.labels.tolist(), gallery.labels.tolist()) == ([0, 0, 2, 2, 2], [1, 1, 0, 0, 0])
    assert query[0] == (IMAGES[0][0], 0, "img/WOMEN/Dresses/id_00000002/01_1_front.jpg")


def test_a_subset_is_written_for_training(tmp_path):
    retrieval_trees.write_all(tmp_path, IMAGES[:2])
    for name in ("CUB_200_2011", "cars196", "Stanford_Online_Products", "In-shop"):
        source = open_source(tmp_path / name, subset="train")
        info = write_dataset(source, tmp_path / "out" / name)
        assert (info.num_examples, info.num_classes) == (3, 1)
        assert info.class_names == (source.class_names[0],)
        assert write_dataset(open_source(tmp_path / name, subset="train"), tmp_path / "out" / name) == info


def test_another_number_of_images_is_logged(tmp_path, caplog):
    retrieval_trees.write_cub(tmp_path, classes(1, 101))
    with caplog.at_level(logging.WARNING):
        Cub200(tmp_path, "test")
    assert "subset='test') must have 5924 images of 100 classes, as published. Received: 3 images of 1" in caplog.text
    caplog.clear()
    published = [(Cub200, 11788, 200), (Cars196, 16185, 196), (StanfordOnlineProducts, 120053, 22634)]
    for kind, images, num_classes in published:
        assert np.sum(list(kind.published.values()), axis=0).tolist() == [images, num_classes]
    assert np.sum(list(InShop.published.values()), axis=0)[0] == 52712


CUB_ERRORS = {
    "fields": ("images.txt", 2, "2 a b", r"expected 2 fields, image_id path. Received: '2 a b'"),
    "nul": ("images.txt", 2, "2 a\0", r"expected 2 fields, image_id path. Received: '2 a\\x00'"),
    "number": ("images.txt", 1, "x a.jpg", r"expected the image_id as a number of at least 1. Received: 'x'"),
    "repeated": ("images.txt", 3, "1 a.jpg", r"expected another number than in .*images.txt, line 1. Received: 1"),
    "class": ("image_class_labels.txt", 3, "3 0", r"expected the class as a number of at least 1. Received: '0'"),
    "unknown class": ("image_class_labels.txt", 3, "3 55", r"expected a class of classes.txt. Received: 55"),
    "unknown image": ("image_class_labels.txt", 3, "33 1", r"expected an image of images.txt. Received: 33"),
}


@pytest.mark.parametrize(("name", "line", "text", "message"), CUB_ERRORS.values(), ids=CUB_ERRORS)
def test_invalid_lines_of_cub_are_named(name, line, text, message, tmp_path):
    retrieval_trees.write_cub(tmp_path, classes(1, 101))
    replace_line(tmp_path / name, line, text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))}, line {line}: {message}"):
        Cub200(tmp_path, "train")


def test_an_image_of_cub_without_a_class_is_named(tmp_path):
    retrieval_trees.write_cub(tmp_path, classes(1, 101))
    replace_line(tmp_path / "image_class_labels.txt", 4, "")
    with pytest.raises(ValueError, match=r"images.txt, line 4: expected an image with a class in image_class_labels.t"):
        Cub200(tmp_path, "train")


SOP_ERRORS = {
    "heading": (1, "1 1 1 a.jpg", "expected the heading 'image_id class_id super_class_id path'. Received: '1 1 1 a"),
    "fields": (3, "2 1 a.jpg", "expected 4 fields, image_id class_id super_class_id path. Received: '2 1 a.jpg'"),
    "class": (2, "1 -1 1 a.jpg", "expected the class_id as a number of at least 1. Received: '-1'"),
    "long class": (2, f"1 {'9' * 5000} 1 a.jpg", "expected the class_id as a number of at least 1. Received: '999"),
}


@pytest.mark.parametrize(("line", "text", "message"), SOP_ERRORS.values(), ids=SOP_ERRORS)
def test_invalid_lines_of_sop_are_named(line, text, message, tmp_path):
    retrieval_trees.write_sop(tmp_path, classes(1), classes(11319))
    replace_line(tmp_path / "Ebay_train.txt", line, text)
    assert len(StanfordOnlineProducts(tmp_path, "test")) == 2
    with pytest.raises(ValueError, match=rf"Ebay_train.txt, line {line}: {message}"):
        StanfordOnlineProducts(tmp_path, "train")


IN_SHOP_ERRORS = {
    "count": (1, "image_name item_id", "expected the number of images as a number of at least 1. Received: 'image_na"),
    "heading": (2, "a b train", "expected the heading 'image_name item_id evaluation_status'. Received: 'a b train'"),
    "fields": (
        4,
        "img/a.jpg id_1",
        "expected 3 fields, image_name item_id evaluation_status. Received: 'img/a.jpg",
    ),
    "subset": (4, "img/a.jpg id_1 test", "expected train, query or gallery. Received: 'test'"),
}


@pytest.mark.parametrize(("line", "text", "message"), IN_SHOP_ERRORS.values(), ids=IN_SHOP_ERRORS)
def test_invalid_lines_of_in_shop_are_named(line, text, message, tmp_path):
    retrieval_trees.write_in_shop(tmp_path, classes(1), classes(2), classes(2), nested=True)
    replace_line(tmp_path / "Eval" / "list_eval_partition.txt", line, text)
    with pytest.raises(ValueError, match=rf"list_eval_partition.txt, line {line}: {message}"):
        InShop(tmp_path, "train")


def test_an_incomplete_list_of_in_shop_is_named(tmp_path):
    retrieval_trees.write_in_shop(tmp_path, classes(1), classes(2), classes(2))
    replace_line(tmp_path / "list_eval_partition.txt", 8, "")
    with pytest.raises(ValueError, match=r"partition.txt must list 6 images, as in line 1. Received: 5 images"):
        InShop(tmp_path, "train")


def test_other_annotations_of_cars_are_named(tmp_path):
    retrieval_trees.write_cars(tmp_path, classes(1, 99), num_classes=100)
    path = tmp_path / "cars_annos.mat"
    content = scipy.io.loadmat(path)
    content["annotations"]["class"][0, 3] = np.array([[101]], np.uint8)
    scipy.io.savemat(path, {name: content[name] for name in ("annotations", "class_names")})
    message = rf"{re.escape(str(path))}, annotation 4: expected a path, and a class in \[1, 100\]. Received: 'car_ims/0"
    with pytest.raises(ValueError, match=message):
        Cars196(tmp_path, "train")
    content["annotations"]["class"][0, 3] = np.array([["b"]])
    scipy.io.savemat(path, {name: content[name] for name in ("annotations", "class_names")})
    with pytest.raises(ValueError, match=r"annotation 4: expected a path, .* Received: .* and 'b'"):
        Cars196(tmp_path, "train")
    scipy.io.savemat(path, {"annotations": np.ones(3), "class_names": content["class_names"]})
    with pytest.raises(ValueError, match=r"cars_annos.mat must contain annotations, structs with relative_im_path and"):
        Cars196(tmp_path, "train")
    scipy.io.savemat(path, {"annotations": content["annotations"], "class_names": np.ones(3)})
    with pytest.raises(ValueError, match=r"and class, and class_names, cells of texts. Received: {'annotations': {"):
        Cars196(tmp_path, "train")


def test_text_that_is_not_utf8_is_named(tmp_path):
    retrieval_trees.write_sop(tmp_path, classes(1), classes(11319))
    path = tmp_path / "Ebay_train.txt"
    path.write_bytes(path.read_bytes() + b"9 9 9 \xff.jpg\n")
    with pytest.raises(ValueError, match=r"Ebay_train.txt must be encoded as UTF-8. Received: invalid start byte"):
        StanfordOnlineProducts(tmp_path, "train")


@pytest.mark.parametrize("kind", [Cub200, Cars196, StanfordOnlineProducts, InShop])
def test_other_directories_and_subsets_are_named(kind, tmp_path):
    names = {Cub200: "CUB_200_2011", Cars196: "cars196", InShop: "In-shop"}
    name = names.get(kind, "Stanford_Online_Products")
    files = ", ".join(kind.list_files)
    with pytest.raises(FileNotFoundError, match=rf"directory must contain {files} of {kind.title}.*, without {files}$"):
        kind(tmp_path, "train")
    retrieval_trees.write_all(tmp_path, IMAGES[:2])
    with pytest.raises(FileNotFoundError, match=rf"{kind.title}. Expected: its folder {name}. Received: directory="):
        kind(tmp_path, "train")
    with pytest.raises(ValueError, match=r"subset must be one of train, .*. Received: subset='val'"):
        kind(tmp_path / name, "val")
    (tmp_path / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"CUB_200_2011', without classes.txt$"):
        Cub200(tmp_path / "CUB_200_2011", "train")


def test_a_subset_without_images_is_named(tmp_path):
    retrieval_trees.write_cub(tmp_path, classes(101))
    with pytest.raises(ValueError, match=r"must list images of the subset 'train' of CUB-200-2011. Received: none"):
        Cub200(tmp_path, "train")


def test_images_outside_of_the_directory_are_refused(tmp_path):
    retrieval_trees.write_cub(tmp_path / "cub", classes(1, 101))
    shutil.copy(tmp_path / "cub" / "images.txt", tmp_path / "private.jpg")
    (tmp_path / "cub" / "images" / "link.jpg").symlink_to(tmp_path / "private.jpg")
    replace_line(tmp_path / "cub" / "images.txt", 1, "1 ../../private.jpg")
    replace_line(tmp_path / "cub" / "images.txt", 2, "2 link.jpg")
    train = Cub200(tmp_path / "cub", "train")
    with pytest.raises(ValueError, match="must be inside of the folder"):
        train[0]
    with pytest.raises(ValueError, match="pass follow_links=True"):
        train[1]
    assert Cub200(tmp_path / "cub", "train", follow_links=True)[1].label == 0


def replace_line(path, line, text):
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("subset", ["train", "test"])
def test_matches_pytorch_metric_learning(subset, tmp_path):
    peer = pytest.importorskip("pytorch_metric_learning.datasets", reason="the peer is absent")
    retrieval_trees.write_cub(tmp_path / "CUB_200_2011", classes(101, 2, 1, 200, 100))
    retrieval_trees.write_sop(tmp_path / "Stanford_Online_Products", classes(7, 3), classes(11319, 11400, 11320))
    for ours, theirs, folder in (
        (Cub200(tmp_path / "CUB_200_2011", subset), peer.CUB, "CUB_200_2011/images"),
        (
            StanfordOnlineProducts(tmp_path / "Stanford_Online_Products", subset),
            peer.StanfordOnlineProducts,
            "Stanford_Online_Products",
        ),
    ):
        expected = theirs(str(tmp_path), split=subset)
        assert [str(tmp_path / folder / record.name) for record in ours] == expected.paths
        original = [int(ours.class_names[label].partition(".")[0]) for label in ours.labels]
        assert original == expected.labels
