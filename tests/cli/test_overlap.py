"""The command `keras-arcface overlap`."""

import csv
import json

import keras
import pytest
from conftest import encode
from conftest import make_face
from html_page import Page

from keras_arcface import data


@pytest.fixture
def embedder(tmp_path):
    """Writes an embedder whose embeddings are the pixels, with a mean near 0."""
    pixels = keras.Input((32, 32, 3))
    path = tmp_path / "pixels.keras"
    keras.Model(pixels, keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, -1)(pixels))).save(path)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Writes a genuine pair of person 1, an impostor pair of person 1 and another person, and returns the file."""
    images = [encode(make_face(person, image)) for person, image in ((1, 7), (1, 8), (1, 8), (6, 0))]
    data.PairSet(images, [True, False]).save(tmp_path / "pairs.npz")
    return tmp_path / "pairs.npz"


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_people_of_a_pair_set_are_removed(run, face_folder, pairs, embedder, tmp_path):
    done = run(
        *("overlap", face_folder, pairs, "--embedder", embedder, "--threshold", 0.7, "--output", tmp_path / "found")
    )
    assert done.code == 0, done.err
    assert f"3 people of {face_folder} and 2 of {pairs}: 6 pairs of people" in done.out
    assert "1 pair scores at least 0.700. There are too few people to estimate" in done.out
    (row,) = read(tmp_path / "found" / "overlap.csv")
    assert [row[name] for name in ("label", "new_label", "name")] == ["1", "-1", "person_1"]
    assert [row[name] for name in ("other_label", "other_name")] == ["0", "image 0 (of pair 0)"]
    assert row["image"].startswith("person_1/")
    assert row["other_image"] in ("image 0 (of pair 0)", "image 1 (of pair 0)")
    assert float(row["score"]) > float(row["image_score"]) > 0.7
    table = next(line for line in done.out.splitlines() if line.startswith("person_1"))
    assert table.split()[-2:] == [f"{float(row[name]):.3f}" for name in ("score", "image_score")]
    page = Page((tmp_path / "found" / "overlap.html").read_text("utf-8"))
    assert "1. person_1 and image 0 (of pair 0)" in page.text

    cleaned = run("convert", face_folder, tmp_path / "out", "--relabel", tmp_path / "found" / "overlap.csv")
    assert cleaned.code == 0, cleaned.err
    assert data.load_info(tmp_path / "out").class_names == ("person_0", "person_2")
    assert data.load_info(tmp_path / "out").num_examples == 9


def test_classes_of_the_same_person_are_joined(run, face_folder, embedder, tmp_path):
    (face_folder / "again").mkdir()
    for image in (8, 9):
        (face_folder / "again" / f"{image}.png").write_bytes(encode(make_face(2, image)))
    command = ("overlap", face_folder, "--embedder", embedder, "--threshold", 0.7, "--output", tmp_path / "found")
    done = run(*command, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    (pair,) = found["pairs"]
    assert (pair["label"], pair["other_label"]) == (0, 3)
    assert pair["score"] >= 0.7
    assert (found["compared"], found["threshold"], found["false_alarms"]) == (6, 0.7, None)
    assert found["files"] == [str(tmp_path / "found" / name) for name in ("overlap.csv", "overlap.html")]
    (row,) = read(found["files"][0])
    assert [row[name] for name in ("label", "new_label", "name", "other_name")] == ["0", "3", "again", "person_2"]
    assert run("convert", face_folder, tmp_path / "out", "--relabel", found["files"][0]).code == 0
    info = data.load_info(tmp_path / "out")
    assert (info.num_classes, info.num_examples) == (3, 14)
    assert info.class_names == ("again", "person_0", "person_1")


def test_nothing_is_found(run, face_folder, embedder, tmp_path):
    done = run("overlap", face_folder, "--embedder", embedder, "--threshold", 0.9, "--output", tmp_path / "found")
    assert done.code == 0, done.err
    assert "0 pairs score at least 0.900" in done.out
    assert read(tmp_path / "found" / "overlap.csv") == []
    made = run("convert", face_folder, tmp_path / "out", "--relabel", tmp_path / "found" / "overlap.csv")
    assert "12 images of 3 classes" in made.out


def test_long_tables_are_cut(run, tmp_path, embedder):
    for person in range(7):
        (tmp_path / "many" / f"{person}").mkdir(parents=True)
        (tmp_path / "many" / f"{person}" / "0.png").write_bytes(encode(make_face(person, 0, (48, 40))))
    command = ("overlap", tmp_path / "many", "--embedder", embedder, "--threshold", -1, "--output", tmp_path / "found")
    assert run(*command).code == 1
    done = run(*command, "--size", 32, 32)
    assert done.code == 0, done.err
    assert "21 pairs score at least -1.000" in done.out
    assert "and 1 more" in done.out
    assert len(read(tmp_path / "found" / "overlap.csv")) == 21


def test_errors(run, face_folder, pairs, embedder, tmp_path):
    command = ("overlap", face_folder, pairs, "--embedder", embedder, "--output", tmp_path / "found")
    done = run(*command)
    assert (done.code, done.out) == (1, "")
    assert "Received: threshold=None, and 6 pairs of people" in done.err
    done = run(*command, "--threshold", 0.5, "--false-alarms", 2)
    assert done.code == 2
    assert "not allowed with argument" in done.err
    done = run("overlap", face_folder, tmp_path / "absent.bin", "--embedder", embedder)
    assert done == (1, "", f"error: No such file or directory: {tmp_path / 'absent.bin'}\n")
    (face_folder / "faces.lst").write_text("0\t0\tperson_0/0.png\n1\t3\tperson_0/absent.png\n")
    done = run("overlap", face_folder / "faces.lst", "--embedder", embedder, "--output", tmp_path / "found")
    assert (done.code, done.out) == (1, "")
    assert "absent.png" in done.err
