"""Stored embeddings of a teacher, and batches with them."""

import functools
import json
import shutil

import numpy as np
import pytest
from conftest import write_face_folder

from keras_arcface.data import ImageFolder
from keras_arcface.data import augment
from keras_arcface.data import load_dataset
from keras_arcface.data import load_info
from keras_arcface.data import load_teacher_embeddings
from keras_arcface.data import write_dataset
from keras_arcface.data import write_teacher_embeddings

UNCHANGING = functools.partial(augment.affine, rotation=0.0, zoom=0.0, shift=0.0)  # but for the flips


def embed(images):
    """Returns the mean color of the left and right half, which differ between an image and its mirror image."""
    halves = np.asarray(images, "float64").reshape(len(images), 32, 2, 16, 3)
    return halves.mean(axis=(1, 3)).reshape(len(images), 6) - 128


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = write_face_folder(tmp_path_factory.mktemp("images") / "faces")
    directory = tmp_path_factory.mktemp("dataset") / "records"
    write_dataset(ImageFolder(folder), directory, examples_per_shard=5)
    return directory


@pytest.fixture(scope="module")
def teacher(directory):
    return write_teacher_embeddings(directory, embed, "mean colors", batch_size=5)


@pytest.fixture
def own_directory(directory, teacher, tmp_path):
    """A copy of the dataset and the embeddings that a test may damage."""
    return shutil.copytree(directory, tmp_path / "records")


def steps(directory, teacher, count, batch_size=6, **options):
    dataset = load_dataset(directory, batch_size, training=True, seed=1, teacher=teacher, **options)
    return [(images.numpy(), labels.numpy(), targets.numpy()) for images, (labels, targets) in dataset.take(count)]


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": None},
        {},
        {"augmentation": UNCHANGING},
        {"augmentation": augment.chain(augment.flip, augment.flip)},
        {"cache": "encoded"},
        {"cache": "decoded"},
        {"images_per_class": 2},
        {"host": 1, "num_hosts": 2},
    ],
)
def test_the_embedding_is_that_of_the_image_that_a_step_shows(options, directory, teacher):
    originals = np.concatenate([images for images, _ in load_dataset(directory, 4)])
    num_mirrored = 0
    for images, labels, targets in steps(directory, teacher, 5, **options):
        assert (targets.shape, targets.dtype, labels.shape) == ((6, 6), np.float32, (6,))
        np.testing.assert_allclose(targets, unit(embed(images)), atol=1e-3)
        num_mirrored += sum(not (image == originals).all(axis=(1, 2, 3)).any() for image in images)
    assert (0 < num_mirrored < 30) == (options.get("augmentation", "flip") is not None)


def test_images_and_labels_are_those_without_a_teacher(directory, teacher):
    plain = load_dataset(directory, 6, training=True, seed=1).take(3)
    for (images, labels), (images_with, labels_with, _) in zip(plain, steps(directory, teacher, 3), strict=True):
        np.testing.assert_array_equal(images, images_with)
        np.testing.assert_array_equal(labels, labels_with)


@pytest.mark.parametrize("cache", [None, "encoded"])
def test_a_step_depends_on_seed_and_step_alone(cache, directory, teacher):
    continued = steps(directory, teacher, 2, cache=cache, start_step=3)
    for first, second in zip(steps(directory, teacher, 5, cache=cache)[3:], continued, strict=True):
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_one_epoch_has_the_embeddings_in_order(directory, teacher):
    rows = [targets for _, (_, targets), _ in load_dataset(directory, 5, names=True, teacher=teacher)]
    np.testing.assert_array_equal(np.concatenate(rows), teacher.values[:, 0].astype("float32"))
    images = np.concatenate([images for images, _ in load_dataset(directory, 5)])
    np.testing.assert_allclose(teacher.values[:, 1], unit(embed(images[:, :, ::-1])), atol=1e-3)


def test_class_centers_are_the_mean_of_images_and_mirror_images(directory, teacher):
    sums = np.zeros((3, 6))
    for images, labels in load_dataset(directory, 1):
        sums[labels[0]] += unit(embed(images))[0] + unit(embed(images[:, :, ::-1]))[0]
    np.testing.assert_allclose(teacher.class_centers(), sums / [[8], [6], [10]], atol=1e-3)


def test_embeddings_are_computed_once(directory, teacher):
    def fail(images):
        raise AssertionError

    again = write_teacher_embeddings(directory, fail, "mean colors")
    np.testing.assert_array_equal(again.values, teacher.values)
    np.testing.assert_array_equal(load_teacher_embeddings(directory, "mean colors").values, teacher.values)


def test_another_folder(directory, tmp_path):
    stored = write_teacher_embeddings(directory, embed, "colors", folder=tmp_path / "new")
    loaded = load_teacher_embeddings(directory, "colors", tmp_path / "new")
    np.testing.assert_array_equal(loaded.values, stored.values)
    with pytest.raises(FileNotFoundError, match=r"teacher='colors', for which teacher-\w+.json does not exist"):
        load_teacher_embeddings(directory, "colors")


def test_embeddings_of_another_dataset_are_refused(directory, own_directory, teacher, tmp_path):
    other = tmp_path / "other"
    write_dataset(ImageFolder(write_face_folder(tmp_path / "faces")), other, examples_per_shard=5, seed=1)
    with pytest.raises(ValueError, match=r"of the dataset .*other\. Received: those of another dataset, .*rec"):
        load_dataset(other, 4, teacher=teacher)
    assert load_info(other).num_examples == load_info(directory).num_examples  # only the order differs
    for path in own_directory.glob("teacher-*"):
        shutil.copy(path, other)
    for read in (load_teacher_embeddings, functools.partial(write_teacher_embeddings, embed=embed)):
        with pytest.raises(ValueError, match=r"teacher-\w+.json must describe .* remove the file. Expected: dataset="):
            read(other, teacher="mean colors")


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path.name} must .* Received: ") as error:
        load_teacher_embeddings(path.parent, "mean colors")
    with pytest.raises(ValueError, match=rf"{path.name} must .* Received: "):
        write_teacher_embeddings(path.parent, embed, "mean colors")
    return str(error.value)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, -1])
def test_a_truncated_array_is_named(size, own_directory):
    message = damage(next(own_directory.glob("teacher-*.npy")), lambda content: content[:size])
    assert "the number of bytes must be 416. Received: the number of bytes=" in message  # 128 + 12 * 2 * 6 * 2


def test_a_longer_array_is_named(own_directory):
    damage(next(own_directory.glob("teacher-*.npy")), lambda content: content + b"0")


@pytest.mark.parametrize("position", [0, 60, 128, 300, 415])
def test_a_flipped_bit_of_an_array_is_named(position, own_directory):
    def flip(content):
        return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    assert "sha256 must be" in damage(next(own_directory.glob("teacher-*.npy")), flip)


def test_embeddings_of_another_teacher_under_the_same_name_are_refused(own_directory, tmp_path):
    other = write_teacher_embeddings(own_directory, lambda images: -embed(images), "other", tmp_path / "other")
    path = next(own_directory.glob("teacher-*.npy"))
    content = next((tmp_path / "other").glob("*.npy")).read_bytes()
    assert len(content) == path.stat().st_size
    assert other.dim == 6
    assert "sha256 must be" in damage(path, lambda _: content)
    facts = next((tmp_path / "other").glob("*.json")).read_bytes()
    damage(next(own_directory.glob("teacher-*.json")), lambda _: facts)


def test_an_array_that_is_missing_is_named(own_directory):
    path = next(own_directory.glob("teacher-*.npy"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        load_teacher_embeddings(own_directory, "mean colors")


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 10**9},
        {"dim": 7},
        {"dim": None},
        {"dim": True},
        {"dim": 6.0},
        {"teacher": "another"},
        {"teacher": None},
        {"dataset": "0" * 64},
        {"num_examples": 13},
        {"num_examples": 10**30},
        {"sha256": "0" * 64},
        {"sha256": None},
    ],
)
def test_wrong_facts_are_named(change, own_directory):
    path = next(own_directory.glob("teacher-*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"teacher-\w+.(json|npy) must .* Received: "):
        load_teacher_embeddings(own_directory, "mean colors")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 10**5, b" " * 2**20 + b"{}"])
def test_damaged_facts_are_named(content, own_directory):
    damage(next(own_directory.glob("teacher-*.json")), lambda _: content)


def test_an_array_is_an_npy_file(directory, teacher):
    np.testing.assert_array_equal(np.load(next(directory.glob("teacher-*.npy"))), teacher.values)


@pytest.mark.parametrize("name", ["", "a" * 10_001, None])
def test_the_length_of_a_name_is_limited(name, directory):
    with pytest.raises(ValueError, match="teacher must be a text of 1 to 10000 characters"):
        write_teacher_embeddings(directory, embed, name)


def test_the_longest_name_can_be_read_again(directory, tmp_path):
    name = "\U0001f600" * 10_000
    write_teacher_embeddings(directory, embed, name, tmp_path)
    assert load_teacher_embeddings(directory, name, tmp_path).teacher == name


def test_a_wrong_embedding_leaves_no_file(own_directory):
    for path in own_directory.glob("teacher-*"):
        path.unlink()
    for wrong, message in (
        (lambda images: embed(images)[:-1], r"must return one embedding per image, \(\d, dim\)"),
        (lambda images: embed(images) * np.nan, r"finite and not zero. Received: another one for the image person_\d/"),
        (lambda images: 0 * embed(images), "finite and not zero"),
        (lambda images: embed(images)[:, : len(images)], r"must return one embedding per image, \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_teacher_embeddings(own_directory, wrong, "wrong", batch_size=5)
        assert not list(own_directory.glob("*teacher-*"))


def test_skipping_damaged_records_is_refused(directory, teacher):
    with pytest.raises(ValueError, match='damaged must be "raise" with a teacher'):
        load_dataset(directory, 4, damaged="skip", teacher=teacher)
