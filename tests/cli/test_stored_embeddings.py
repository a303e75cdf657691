"""Stored embeddings as arguments of `cluster`, `enroll` and `evaluate`."""

import csv
import json

import keras
import numpy as np
import pytest

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import cluster

pytest.importorskip("pyarrow")


def save_embedder(path, seed):
    keras.utils.set_random_seed(seed)
    images = keras.Input((32, 32, 3))
    features = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(images))
    keras.Model(images, keras.layers.Dense(6, use_bias=False)(features)).save(path)


@pytest.fixture
def here(run, tmp_path, face_folder, monkeypatch):
    """The current directory, with stored embeddings of three people without and with mirror images."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("embedder.keras", "other.keras")):
        save_embedder(name, seed)
    for output, options in (("stored", ["--no-flip"]), ("mirrored", [])):
        assert run("embed", face_folder, output, "--embedder", "embedder.keras", *options).code == 0
    return tmp_path


def test_embeddings_keep_the_names_of_classes(here, face_folder):
    assert list(evaluation.StoredEmbeddings("stored").class_names) == data.ImageFolder(face_folder).class_names


def test_cluster(run, here):
    stored = evaluation.StoredEmbeddings("stored")
    expected = cluster(stored.embeddings(), threshold=0.9).tolist()
    done = run("cluster", "stored", "--threshold", 0.9, "--json", "--embedder", "embedder.keras")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    with open("clusters.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == stored.names()
    assert [int(row["label"]) for row in rows] == stored.labels().tolist()
    assert [int(row["cluster"]) for row in rows] == expected
    assert found["people"][0] == [name for name, group in zip(stored.names(), expected, strict=True) if group == 0]
    assert sum(map(len, found["people"])) + len(found["unsure"]) == found["images"] == 12
    assert f"12 images: {max(expected) + 1} people, and {expected.count(-1)} images that belong to no group" in done.err


def test_pairs_of_stored_embeddings(run, here):
    names = evaluation.StoredEmbeddings("stored").names()
    (here / "pairs.csv").write_text(f"{names[0]},{names[1]},different\n{names[0]},{names[-1]},same\n")
    done = run("cluster", "stored", "--pairs", "pairs.csv", "--json", "--output", "groups.csv")
    assert done.code == 0, done.err
    groups = json.loads(done.out)["people"]
    assert any({names[0], names[-1]} <= set(group) for group in groups)
    assert not any({names[0], names[1]} <= set(group) for group in groups)


def test_enroll_and_again(run, here):
    done = run("enroll", "people.db", "stored", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"added": 12, "known": 0, "people": 3}
    stored = evaluation.StoredEmbeddings("stored")
    rows = slice(*np.searchsorted(stored.labels(), [1, 2]))
    with Gallery.open("people.db", stored.embedder_sha256) as gallery:
        assert gallery.people() == list(stored.class_names)
        assert [image.name for image in gallery.images("person_1")] == stored.names()[rows]
        np.testing.assert_array_equal(gallery.embeddings("person_1"), stored.embeddings()[rows])
        gallery.remove("person_1", stored.names()[rows.start])
    done = run("enroll", "people.db", "stored")
    assert done.out == "stored: enrolled 1 image, 11 were enrolled already\npeople.db has 3 people\n"
    done = run("enroll", "people.db", "stored", "--name", "everybody", "--json", "--embedder", "embedder.keras")
    assert json.loads(done.out) == {"added": 12, "known": 0, "people": 4}


def test_enroll_without_names_of_classes(run, here):
    facts = json.loads((here / "stored" / "embeddings.json").read_text())
    (here / "stored" / "embeddings.json").write_text(json.dumps({**facts, "class_names": None}))
    assert run("enroll", "people.db", "stored").code == 0
    with Gallery.open("people.db") as gallery:
        assert gallery.people() == ["0", "1", "2"]
    (here / "stored" / "embeddings.json").write_text(json.dumps({**facts, "class_names": ["ann"]}))
    done = run("enroll", "other.db", "stored")
    assert done.code == 1
    assert "error: The labels of stored must be those of its 1 class names. Received: 1" in done.err


def test_evaluate(run, here):
    done = run("evaluate", "--retrieval", "stored", "both=mirrored", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["retrieval"]
    for name, directory in (("stored", "stored"), ("both", "mirrored")):
        stored = evaluation.StoredEmbeddings(directory)
        expected = evaluation.to_json(evaluation.retrieve(stored.embeddings(), stored.labels(), [1, 2, 4, 8, 10]))
        assert found[name]["stored"] == {**expected, "nmi": None}
    assert "Stored embeddings, without those of mirror images." in done.err
    done = run("evaluate", "ours=embedder.keras", "--retrieval", "stored", "--size", 16, 16, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["retrieval"]["stored"]["ours"] == found["stored"]["stored"]
    assert "resized" not in done.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cluster stored --embedder other.keras", "other.keras must be the embedder of stored, with the checksum"),
        ("enroll people.db stored --embedder other.keras", "other.keras must be the embedder of stored"),
        ("enroll people.db mirrored", "write them with `keras-arcface embed --no-flip`. Received: mirrored"),
        ("evaluate other.keras --retrieval stored", "error: other.keras must be the embedder of stored"),
        (
            "evaluate pixels --retrieval stored",
            "error: pixels cannot be evaluated on stored embeddings. Received: stored",
        ),
        ("evaluate --no-flip --retrieval mirrored", "--no-flip requires embeddings without mirror images"),
        ("evaluate --retrieval person_faces stored", "expected a MODEL. Only"),
        ("enroll people.db stored person_faces", "must not be combined with photos. Received: person_faces"),
        ("enroll people.db stored --replace", "--replace must not be combined with stored embeddings"),
        ("cluster unfinished", "If it was interrupted, run it again"),
        ("enroll people.db unfinished", "If it was interrupted, run it again"),
    ],
)
def test_mistakes(run, here, face_folder, command, message):
    (here / "person_faces").symlink_to(face_folder)
    (here / "stored" / "embeddings.json").rename(here / "description.json")
    (here / "unfinished").mkdir()
    for file in (here / "stored").iterdir():
        (here / "unfinished" / file.name).write_bytes(file.read_bytes())
    (here / "description.json").rename(here / "stored" / "embeddings.json")
    done = run(*command.split())
    assert done.code in (1, 2)
    assert message in done.err
    assert done.out == ""
    assert not (here / "clusters.csv").exists()


def test_a_gallery_of_another_embedder_is_refused(run, here, face_folder):
    assert run("embed", face_folder, "others", "--embedder", "other.keras", "--no-flip").code == 0
    assert run("enroll", "people.db", "stored").code == 0
    done = run("enroll", "people.db", "others")
    assert done.code == 1
    assert "error: embedder_sha256 must be that of the embedder of people.db" in done.err
    assert "The embedder of PHOTOS must be the one with which the gallery was created. Received: others" in done.err
