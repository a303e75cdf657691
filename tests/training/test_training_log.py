import csv
import errno
import importlib.util
import os

import cv2
import keras
import pytest
from small import BATCH
from small import IMAGES
from small import LABELS
from small import make_model
from small import train

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import ProgressBar
from keras_arcface.training import StopAtStep
from keras_arcface.training import TrainingLog
from keras_arcface.training import plot_training
from keras_arcface.training import training_log
from keras_arcface.training.training_log import learning_rate


def rows(path):
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class FakeVerification(keras.callbacks.Callback):
    """Adds metrics to the logs as VerificationCallback does."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_lfw_accuracy"] = 0.5 + epoch / 10


def test_rows_are_means_over_their_steps(tmp_path):
    """With learning rate 0 and no dropout, the metrics of a batch do not depend on the step."""
    model = RecognitionModel(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), ArcFace(3))
    model.compile(keras.optimizers.SGD(0.0))
    train(model, [TrainingLog(tmp_path, BATCH, every_steps=2)], epochs=2)
    found = rows(tmp_path / "steps.csv")
    assert [row["step"] for row in found] == [2, 4, 6, 8, 10, 12]
    for row in found:
        first = (int(row["step"]) - 2) % 6 * BATCH
        part = slice(first, first + 2 * BATCH)
        expected = model.evaluate(IMAGES[part], LABELS[part], batch_size=BATCH, verbose=0, return_dict=True)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
        assert row["images_per_second"] > 0
        assert row["learning_rate"] == 0


def test_verification_has_a_row_per_epoch(tmp_path):
    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, every_steps=3)], epochs=2)
    assert rows(tmp_path / "verification.csv") == [
        {"step": 6, "val_lfw_accuracy": 0.5},
        {"step": 12, "val_lfw_accuracy": 0.6},
    ]


def test_the_remaining_steps_of_an_epoch_have_a_row(tmp_path):
    train(make_model(eager=True), [TrainingLog(tmp_path, BATCH, every_steps=4)], epochs=2)
    assert [row["step"] for row in rows(tmp_path / "steps.csv")] == [4, 6, 8, 12]


def test_new_metrics_add_columns(tmp_path):
    class Other(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update({"val_cfp_accuracy": 0.7, "val_lfw_accuracy": 0.6})

    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH)])
    train(make_model(eager=True), [Other(), TrainingLog(tmp_path, BATCH, start_step=6)])
    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, start_step=12)])
    assert (tmp_path / "verification.csv").read_text().splitlines() == [
        "step,val_lfw_accuracy,val_cfp_accuracy",
        "6,0.5,",
        "12,0.6,0.7",
        "18,0.5,",
    ]
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    plot_training(tmp_path)


def test_a_resumed_run_writes_each_row_once(tmp_path):
    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, every_steps=2)], epochs=2)
    with open(tmp_path / "steps.csv", "a") as file:
        file.write("14,0.3")  # killed while writing
    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, every_steps=2, start_step=8)])
    assert [row["step"] for row in rows(tmp_path / "steps.csv")] == [2, 4, 6, 8, 10, 12, 14]
    assert [row["step"] for row in rows(tmp_path / "verification.csv")] == [6, 14]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"step,loss\nx,0.5\n",
            r"Line 2 of .*steps.csv must have 2 cells, of which the first is a step. Received: 'x,0",
        ),
        (b"step,loss\n1\n", r"Line 2 of .*steps.csv must have 2 cells"),
        (b"step,loss\n" + b"9" * 5000 + b",1\n", r"Line 2 of .*steps.csv"),
        (b"epoch,loss\n1,0.5\n", "`step` as the first. Received: 2 columns, 'epoch,loss'"),
        (b"step,a,a\n1,0.5,1\n", r"steps.csv must be a CSV file of a TrainingLog, with different columns"),
        (b"step,\xff\n", r"steps.csv must be a CSV file of a TrainingLog. Received: 'utf-8' codec"),
        (b'step,"loss\n', r"steps.csv must be a CSV file of a TrainingLog. Received: unexpected end"),
        (
            b'step,loss\n1,"' + b"x" * 200_000 + b'"\n',
            r"steps.csv must be a CSV file of a TrainingLog. Received: field",
        ),
    ],
)
def test_another_file_in_the_place_of_a_log_is_refused(content, message, tmp_path):
    (tmp_path / "steps.csv").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ValueError, match=message) as caught:
            TrainingLog(tmp_path, BATCH, start_step=6).on_train_begin()
        assert len(str(caught.value)) < 600
    assert os.listdir(tmp_path) == ["steps.csv"]
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    with pytest.raises(ValueError, match=message):
        plot_training(tmp_path)


def test_cells_that_are_not_numbers_are_not_plotted(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    (tmp_path / "steps.csv").write_text("step,loss\n1,low\n")
    with pytest.raises(ValueError, match=r"The cells of .*steps.csv must be numbers. Received: could not .* 'low'"):
        plot_training(tmp_path)


def test_a_full_disk_leaves_the_earlier_rows(tmp_path, monkeypatch):
    log = TrainingLog(tmp_path, BATCH)
    log.on_train_begin()
    log._write("steps.csv", {"step": 1, "loss": 0.5})
    before = (tmp_path / "steps.csv").read_bytes()

    def write_a_part(file, data):
        file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("keras_arcface._files.write_all", write_a_part)
        with pytest.raises(OSError, match=r"No space left on device, while writing 7 bytes with .*steps.csv"):
            log._write("steps.csv", {"step": 2, "loss": 0.4})
    assert (tmp_path / "steps.csv").read_bytes() == before
    log._write("steps.csv", {"step": 2, "loss": 0.4})
    log.on_train_end()
    assert [row["step"] for row in rows(tmp_path / "steps.csv")] == [1, 2]


def test_tensorboard_gets_the_same_values(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is absent")
    import tensorflow as tf

    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, every_steps=3, tensorboard=True)])
    (file,) = tmp_path.glob("events*")
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    expected = {
        (row["step"], f"{table}/{name}"): value
        for table in ("steps", "verification")
        for row in rows(tmp_path / f"{table}.csv")
        for name, value in row.items()
        if name != "step"
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[tensorboard\]'"):
        TrainingLog(tmp_path, BATCH, tensorboard=True)


def test_rows_of_0_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every_steps must be an integer of at least 1"):
        TrainingLog(tmp_path, BATCH, every_steps=0)


def test_the_plot_is_an_image(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    train(make_model(eager=True), [FakeVerification(), TrainingLog(tmp_path, BATCH, every_steps=1)], epochs=2)
    picture = cv2.imread(str(plot_training(tmp_path)))
    assert picture.shape[0] > 500
    assert picture.std() > 10
    with pytest.raises(FileNotFoundError, match="steps"):
        plot_training(tmp_path / "elsewhere")


def test_the_progress_bar_runs_from_the_start_step_to_the_last_step(capsys):
    train(make_model(eager=True), [ProgressBar(10, BATCH, start_step=2), StopAtStep(10, 2)], epochs=3)
    shown = capsys.readouterr().err
    assert "40.0/40.0" in shown
    assert "images/s" in shown
    assert "target_angle=" in shown


def test_the_learning_rate_of_wrapped_optimizers():
    inner = keras.optimizers.SGD(0.25)
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(1.0), {"a": inner}))
    scaled = keras.optimizers.LossScaleOptimizer(GradientAccumulationOptimizer(several))
    assert learning_rate(scaled) == 1.0
    assert learning_rate(inner) == 0.25


def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "steps.csv")
    for read in (training_log.read_log, training_log._header):
        with pytest.raises(ValueError, match=r"steps.csv must be a regular file. Received: a FIFO"):
            read(tmp_path / "steps.csv")
