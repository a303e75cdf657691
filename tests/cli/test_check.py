"""The command `keras-arcface check`."""

import json

import numpy as np
import pytest
import recordio_files
import retrieval_trees
import small_models
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface import serving


@pytest.fixture
def dataset(face_folder, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records", examples_per_shard=5)
    return tmp_path / "records"


def write_pairs(path, same=None, **replaced):
    images = [encode(make_face(number, 0)) for number in range(40)]
    for number, image in replaced.items():
        images[int(number.removeprefix("image"))] = image
    data.PairSet(images, np.arange(20) % 2 == 0 if same is None else same).save(path)
    return path


def test_a_dataset(run, dataset):
    done = run("check", dataset)
    expected = f"{dataset} is intact: dataset, 12 images of 3 classes, 32 x 32, in 3 shards\n"
    assert (done.code, done.out) == (0, expected)
    found = json.loads(run("check", dataset, "--json").out)
    assert (found["kind"], found["intact"], found["num_examples"], found["errors"]) == ("dataset", True, 12, [])

    shard = dataset / "00002-of-00003.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = run("check", dataset)
    assert (damaged.code, damaged.out) == (1, "")
    assert f"error: {dataset} is not intact (dataset)" in damaged.err
    assert "00002-of-00003.tfrecord is damaged. Expected: sha256" in damaged.err
    assert "Traceback" not in damaged.err
    as_json = run("check", dataset, "--json")
    assert as_json.code == 1
    found = json.loads(as_json.out)
    assert (found["intact"], "00002-of-00003.tfrecord is damaged" in found["errors"][0]) == (False, True)


def test_a_verification_set(run, tmp_path):
    path = write_pairs(tmp_path / "pairs.npz")
    done = run("check", path)
    summary = "verification set, 20 pairs, 10 of them genuine, 32 x 32"
    assert (done.code, done.out) == (0, f"{path} is intact: {summary}\n")
    found = json.loads(run("check", path, "--json").out)
    assert (found["num_pairs"], found["num_genuine"], found["uniform_folds"]) == (20, 10, 0)
    assert found["image_sizes"] == [{"height": 32, "width": 32, "images": 40}]


def test_a_verification_set_without_folds(run, tmp_path):
    path = write_pairs(tmp_path / "pairs.npz", np.arange(20) < 10)
    done = run("check", path)
    assert done.code == 0
    assert "Evaluate it with --shuffle-seed, because 10 of 10 folds have pairs of one kind" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image5": encode(make_face(5, 0))[:-30]}, "image 5 (of pair 2) is not a readable image"),
        ({"image5": encode(make_face(5, 0, (28, 28)))}, "must have one size. Received: images: 39 of 32 x 32, 1 of 28"),
        ({"same": np.ones(20, bool)}, "Both genuine and impostor pairs must exist. Received: 20 genuine of 20 pairs"),
    ],
    ids=["damaged", "size", "genuine"],
)
def test_a_damaged_verification_set(arguments, message, run, tmp_path):
    done = run("check", write_pairs(tmp_path / "pairs.npz", **arguments))
    assert (done.code, done.out) == (1, "")
    assert f"{tmp_path / 'pairs.npz'} is not intact (verification set, 20 pairs" in done.err
    assert message in done.err


def test_a_file_that_is_not_a_verification_set(run, tmp_path):
    (tmp_path / "pairs.bin").write_bytes(b"text")
    done = run("check", tmp_path / "pairs.bin")
    assert done.code == 1
    assert "pairs.bin is not intact (verification set)" in done.err


def test_a_saved_model(run, tmp_path):
    small_models.write(small_models.Projection(1), tmp_path / "model")
    found = json.loads(run("check", tmp_path / "model", "--json").out)
    assert (found["kind"], found["loaders"], found["metadata"]) == ("SavedModel", ["python", "cpp"], {})
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"damaged")
    damaged = run("check", tmp_path / "model")
    assert (damaged.code, damaged.out) == (1, "")
    assert "model is not intact (SavedModel)" in damaged.err


def test_a_saved_model_with_metadata(run, tmp_path, monkeypatch):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "metadata.json").write_text('{"warmup_batch_sizes": [1, 2], "thresholds": {}}')
    (tmp_path / "saved_model.pb").touch()
    monkeypatch.setattr(serving, "check_saved_model", lambda path: ["python"])
    done = run("check", tmp_path)
    summary = "SavedModel, loaded by Python, with the expected embeddings for batches of 1, 2"
    assert (done.code, done.out) == (0, f"{tmp_path} is intact: {summary}\n")
    assert json.loads(run("check", tmp_path, "--json").out)["metadata"]["thresholds"] == {}


def test_sources_of_images(run, face_folder, tmp_path):
    done = run("check", face_folder)
    summary = f"source of images, ImageFolder({str(face_folder)!r}): 12 images of 3 classes, 32 x 32"
    assert (done.code, done.out) == (0, f"{face_folder} is intact: {summary}\n")
    (face_folder / "person_0" / "0.png").write_bytes(encode(make_face(0, 0, (48, 40))))
    other = run("check", face_folder)
    assert other.code == 0
    assert "images: 11 of 32 x 32, 1 of 48 x 40. `convert` requires images of one size, or --size" in other.out
    (face_folder / "person_1" / "1.jpg").write_bytes(b"broken")
    (face_folder / "person_1" / "2.png").unlink()
    (face_folder / "person_1" / "2.png").symlink_to(tmp_path / "outside.png")
    damaged = run("check", face_folder)
    assert (damaged.code, damaged.out) == (1, "")
    assert "person_1/1.jpg is not a readable image" in damaged.err
    assert "person_1/2.png must be inside of the folder" in damaged.err


def test_a_subset_of_a_benchmark(run, tmp_path):
    retrieval_trees.write_cub(tmp_path, {1: [encode(make_face(0, 0))] * 2, 101: [b"broken"]})
    done = run("check", tmp_path, "--subset", "train")
    assert (done.code, done.out.endswith("subset='train'): 2 images of 1 class, 32 x 32\n")) == (0, True), done.err
    damaged = run("check", tmp_path, "--subset", "test")
    assert damaged.code == 1
    assert "0001.jpg is not a readable image" in damaged.err

    people = [[encode(make_face(person, image), ".jpg") for image in range(3)] for person in range(2)]
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(people), "2,32,32\n")
    found = json.loads(run("check", tmp_path / "train.rec", "--json").out)
    assert (found["source"], found["num_images"], found["num_classes"]) == ("RecordIO", 6, 2)


def test_other_paths_are_named(run, tmp_path):
    (tmp_path / "faces.txt").write_text("text")
    done = run("check", tmp_path / "faces.txt")
    assert done.code == 1
    assert done.err.startswith("error: PATH must be a directory of TFRecords")
    (tmp_path / "models" / "2").mkdir(parents=True)
    (tmp_path / "models" / "2" / "saved_model.pb").touch()
    done = run("check", tmp_path / "models")
    assert done.code == 1
    assert f"PATH must be one version of a model: {tmp_path / 'models' / '2'}. Received: " in done.err
    assert run("check", tmp_path / "absent").err == f"error: No such file or directory: {tmp_path / 'absent'}\n"
