"""The command `keras-arcface convert`."""

import json
import logging
import shutil

import numpy as np
import pytest
import recordio_files
import retrieval_trees
from conftest import encode
from conftest import make_face

from keras_arcface import data


def test_a_folder_is_converted_once(run, face_folder, tmp_path):
    output = tmp_path / "records"
    done = run("convert", face_folder, output, "--alignment", "none", "--min-images", 4)
    assert (done.code, done.out) == (0, f"{output} 9 images of 2 classes, 32 x 32, in 1 shard\n")
    assert data.load_info(output).alignment == "none"
    again = run("convert", face_folder, output, "--min-images", 4)
    assert (again.code, again.out) == (0, f"{output} already exists: 9 images of 2 classes, 32 x 32, in 1 shard\n")
    other = run("convert", face_folder, output)
    assert (other.code, other.out) == (1, "")
    assert "min_images was 4, now 1" in other.err


def test_people_are_held_out(run, tmp_path):
    people = [[encode(make_face(person, image), ".jpg") for image in range(3)] for person in range(5)]
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(people), "5,32,32\n")
    command = ("convert", tmp_path, tmp_path / "out", "--validation", 0.4, "--examples-per-shard", 2)
    made = run(*command)
    assert made.code == 0, made.err
    assert "out/train 9 images of 3 classes, 32 x 32, in 5 shards" in made.out
    assert "out/validation 6 images of 2 classes, 32 x 32, in 3 shards" in made.out
    shutil.rmtree(tmp_path / "out" / "validation")
    again = run(*command, "--json")
    train, validation = json.loads(again.out)["datasets"]
    assert train == {
        "directory": str(tmp_path / "out" / "train"),
        "existed": True,
        "num_examples": 9,
        "num_classes": 3,
        "image_size": [32, 32],
        "shards": 5,
        "num_bytes": sum(path.stat().st_size for path in (tmp_path / "out" / "train").glob("*.tfrecord")),
        "alignment": None,
        "skipped": 0,
    }
    assert (validation["existed"], validation["num_examples"]) == (False, 6)
    assert "out/train already exists: 9 images" in again.err
    labels = [data.load_info(tmp_path / "out" / part).source_labels for part in ("train", "validation")]
    assert sorted([*labels[0], *labels[1]]) == [0, 1, 2, 3, 4]
    other = run(*command[:2], tmp_path / "other", *command[3:], "--seed", 1)
    assert other.code == 0
    assert data.load_info(tmp_path / "other" / "train").source_labels != labels[0]


def test_damaged_images_are_skipped_or_an_error(run, face_folder, tmp_path, caplog):
    (face_folder / "person_1" / "1.jpg").write_bytes(b"broken")
    rows = [f"{path.relative_to(face_folder)},{path.parent.name}" for path in sorted(face_folder.glob("*/*"))]
    (face_folder / "faces.csv").write_text("\n".join(rows))
    failed = run("convert", face_folder / "faces.csv", tmp_path / "out")
    assert (failed.code, failed.out) == (1, "")
    assert "error: person_1/1.jpg is not a readable image" in failed.err
    assert "Traceback" not in failed.err
    caplog.handler.setLevel(logging.NOTSET)
    made = run("convert", face_folder / "faces.csv", tmp_path / "out", "--skip-damaged")
    assert made.code == 0, made.err
    assert "11 images of 3 classes" in made.out
    assert "1 records were skipped; dataset.json lists them" in made.out
    assert "skipped: person_1/1.jpg is not a readable image" in caplog.text


def test_images_can_be_copied_without_a_check(run, face_folder, tmp_path):
    path = face_folder / "person_2" / "4.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 255  # in the compressed pixels
    path.write_bytes(content)
    assert run("convert", face_folder, tmp_path / "checked").code == 1
    assert run("convert", face_folder, tmp_path / "copied", "--no-check").code == 0
    assert any(record.image == bytes(content) for record in data.TFRecords(tmp_path / "copied"))


def test_links_are_followed_on_request(run, face_folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (face_folder / "person_0").rename(tmp_path / "elsewhere" / "person_0")
    (face_folder / "person_0").symlink_to(tmp_path / "elsewhere" / "person_0")
    failed = run("convert", face_folder, tmp_path / "out")
    assert failed.code == 1
    assert "pass follow_links=True" in failed.err
    assert run("convert", face_folder, tmp_path / "out", "--follow-links").code == 0
    np.testing.assert_array_equal(np.bincount(data.TFRecords(tmp_path / "out").labels), [4, 3, 5])


def test_a_missing_source_is_named(run, tmp_path):
    done = run("convert", tmp_path / "absent", tmp_path / "out")
    assert done == (1, "", f"error: No such file or directory: {tmp_path / 'absent'}\n")


def test_the_training_subset_of_a_benchmark_is_converted(run, tmp_path):
    images = [[encode(make_face(person, i, (40 + 8 * i, 60)), ".jpg") for i in range(4)] for person in range(2)]
    retrieval_trees.write_all(tmp_path, images)
    retrieval_trees.write_market(tmp_path / "market", {1: images[0], 3: images[1]}, {2: images[1]}, {2: images[1]})
    failed = run("convert", tmp_path / "CUB_200_2011", tmp_path / "out")
    assert failed.code == 1
    assert "error: subset must be one of train, test, to choose images of the benchmark in " in failed.err
    failed = run("convert", tmp_path / "CUB_200_2011", tmp_path / "out", "--subset", "train")
    assert failed.code == 1
    assert "must have the size of the other images" in failed.err
    for name in ("CUB_200_2011", "cars196", "Stanford_Online_Products", "In-shop", "market"):
        output = tmp_path / "out" / f"{name}_resized"
        command = ("convert", tmp_path / name, output, "--subset", "train", "--resize", 36, "--size", 36, 32)
        done = run(*command)
        assert done.code == 0, done.err
        found = "8 images of 2 classes" if name == "market" else "4 images of 1 class"
        assert f"{found}, 36 x 32" in done.out
        assert "already exists" in run(*command).out
        source = data.Resized(data.open_source(tmp_path / name, subset="train"), (36, 32), 36)
        assert {record.image for record in data.TFRecords(output)} == {record.image for record in source}
    stretched = run(*command[:2], tmp_path / "stretched", "--subset", "train", "--size", 36, 32)
    assert stretched.code == 0, stretched.err
    source = data.Resized(data.CameraFolder(tmp_path / "market" / "bounding_box_train"), (36, 32))
    assert {record.image for record in data.TFRecords(tmp_path / "stretched")} == {record.image for record in source}


def test_sizes_that_cannot_be_combined_are_named(run, face_folder, tmp_path):
    for options, message in (
        (("--resize", 32), "--resize requires a --size of at most 32 x 32. Received: no --size"),
        (("--resize", 32, "--size", 24, 33), "--resize requires a --size of at most 32 x 32. Received: --size 24 33"),
    ):
        done = run("convert", face_folder, tmp_path / "out", *options)
        assert done.code == 2
        assert message in done.err
    done = run("convert", face_folder, tmp_path / "out", "--subset", "train")
    assert done.code == 1
    assert "subset must be None for " in done.err


def test_classes_are_joined_and_left_out(run, face_folder, tmp_path):
    (tmp_path / "found.csv").write_text("\ufeffscore,new_label,label\n0.9,0,2\n0.8,-1,1\n")
    done = run("convert", face_folder, tmp_path / "out", "--relabel", tmp_path / "found.csv")
    assert (done.code, done.out) == (0, f"{tmp_path / 'out'} 9 images of 1 class, 32 x 32, in 1 shard\n")
    assert data.load_info(tmp_path / "out").class_names == ("person_0",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("label,name\n1,person_1\n", "line 1: expected the columns label and new_label. Received: 'label,name'"),
        ("", "line 1: expected the columns label and new_label. Received: ''"),
        ("label,new_label\n1,-1\n3,-1\n", "line 3: expected a label in [0, 3) and a new label in [-1, 3)"),
        ("label,new_label\n1,-2\n", "Received: label=1, new_label=-2"),
        ("label,new_label\n1\n", "Received: label=1, new_label=None"),
        ("label,new_label\nx,0\n", "Received: label=x, new_label=0"),
        ("label,new_label,name\n1,-1,person_2\n", "line 2: expected 'person_1', the name of class 1 of ImageFolder"),
        (b"label,new_label,name\n1,-1,\xff\n", "expected UTF-8 text"),
    ],
)
def test_a_wrong_line_of_a_relabeling_is_named(run, face_folder, tmp_path, content, named):
    (tmp_path / "found.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run("convert", face_folder, tmp_path / "out", "--relabel", tmp_path / "found.csv")
    assert (done.code, done.out) == (1, "")
    assert f"error: {tmp_path / 'found.csv'}, line" in done.err
    assert named in done.err
