"""The command `keras-arcface clean-labels`."""

import csv
import json

import cv2
import numpy as np
import pytest

from keras_arcface import data
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder


@pytest.fixture
def trained(face_folder, tmp_path):
    """Writes a dataset, an embedder and centers that were not trained: the angles are arbitrary."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records", alignment="none")
    (tmp_path / "run").mkdir()
    make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=16).save(tmp_path / "run" / "embedder.keras")
    np.save(tmp_path / "run" / "centers.npy", np.random.default_rng(1).normal(size=(3, 2, 16)))
    return tmp_path


def test_images_are_dropped_and_relabeled(run, trained):
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    command = ("clean-labels", trained / "records", trained / "run", trained / "clean")
    done = run(*command, "--max-angle", 90, "--relabel-below", 90, "--batch-size", 5, "--json")
    assert done.code == 0, done.err
    with open(trained / "run" / "label_noise.csv") as file:
        rows = list(csv.DictReader(file))
    before = {record.name: record for record in data.TFRecords(trained / "records")}
    assert [row["name"] for row in rows] == list(before)
    expected, moved = {}, 0
    for row in rows:
        assert before[row["name"]].label == int(row["label"])
        label = row["label"] if float(row["degrees"]) <= 90 else row["nearest"]
        label = label if min(float(row["degrees"]), float(row["degrees_to_nearest"])) < 90 else "-1"
        assert label == row["cleaned"]
        if label != "-1":
            expected[row["name"]] = before[row["name"]].image, int(label)
            moved += label != row["label"]
    info = data.load_info(trained / "clean")
    original = info.source_labels or range(info.num_classes)
    after = {r.name: (r.image, original[r.label]) for r in data.TFRecords(trained / "clean")}
    assert after == expected
    assert moved > 0
    assert info.alignment == "none"
    found = json.loads(done.out)
    assert found["before"] == {"num_examples": 12, "num_classes": 3}
    assert found["after"] == {"num_examples": len(after), "num_classes": info.num_classes}
    assert (found["dropped"], found["relabeled"]) == (12 - len(after), moved)
    assert f"{12 - len(after)} of 12 images dropped, {moved} relabeled" in done.err
    assert cv2.imread(str(trained / "run" / "label_noise.png")).std() > 10


def test_errors(run, trained):
    command = ("clean-labels", trained / "records", trained / "run", trained / "clean")
    done = run(*command, "--max-angle", 0)
    assert (done.code, done.out) == (1, "")
    assert "error: labels must contain a label of at least 0" in done.err
    (trained / "run" / "centers.npy").unlink()
    done = run(*command)
    assert done == (1, "", f"error: No such file or directory: {trained / 'run' / 'centers.npy'}\n")
