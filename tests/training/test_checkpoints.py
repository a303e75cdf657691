import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import optimizers
from small import IMAGES
from small import LABELS
from small import make_model
from small import state
from small import train

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import Checkpoints
from keras_arcface.training import CosineSchedule
from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import SyncedLossScaleOptimizer
from keras_arcface.training import TrainingLog
from keras_arcface.training import checkpoint_files
from keras_arcface.training import run_lock


def can_be_restored(model, directory):
    try:
        return Checkpoints(directory).restore(model) > 0
    except ValueError:
        return False


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with the checkpoints of steps 6, 8 and 10 of a training of 12 steps."""
    directory = tmp_path_factory.mktemp("trained")
    keras.utils.set_random_seed(0)
    train(make_model(), [Checkpoints(directory, every_steps=2, keep=3)], epochs=2)
    return directory


@pytest.fixture
def checkpoints_directory(trained, tmp_path):
    """A copy of `trained` that a test may change."""
    return shutil.copytree(trained, tmp_path / "checkpoints")


def test_the_last_checkpoints_are_kept(trained):
    assert sorted(path.name for path in trained.iterdir()) == [f"step-{step:010d}.npz" for step in (6, 8, 10)]


def test_all_variables_are_restored(trained):
    """Of the model and the optimizer: nothing else determines the next step."""
    model, checkpoints = make_model(), Checkpoints(trained, every_steps=1)
    initial = state(model)
    assert checkpoints.restore(model) == checkpoints.step == 10
    restored = state(model)
    with np.load(trained / "step-0000000010.npz") as file:
        assert len(file.files) == len(restored) + 1
        assert all(np.array_equal(file[str(index)], value) for index, value in enumerate(restored))
    # Weights, dropout's seed, the head's step counter and margin strength, momenta, averages, iterations.
    changed = [not np.array_equal(a, b) for a, b in zip(initial, restored, strict=True)]
    assert sum(changed) >= len(changed) - 1  # all but the learning rate


def two_learning_rates():
    return optimizers.OptimizerMap(CoupledSGD(0.01), {".*head/centers": optimizers.Adam(0.01)})


@pytest.mark.parametrize(
    ("make_optimizer", "policy"),
    [
        (lambda: CoupledSGD(CosineSchedule(0.01, total=12, warmup=3), use_ema=True), "float32"),
        (
            lambda: GradientAccumulationOptimizer(optimizers.MultiOptimizer(two_learning_rates()), 4, clip_norm=0.1),
            "float32",
        ),
        (lambda: SyncedLossScaleOptimizer(optimizers.AdamW(0.01), dynamic_growth_steps=3), "mixed_float16"),
    ],
    ids=["averaged", "accumulated", "loss scale"],
)
def test_a_resumed_run_equals_an_uninterrupted_run(make_optimizer, policy, tmp_path):
    """Including dropout, margin warm-up, momenta, averages, accumulated gradients and loss scale."""
    previous_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        uninterrupted = make_model(make_optimizer())
        train(uninterrupted, [Checkpoints(tmp_path, every_steps=5)], epochs=2)
        resumed, checkpoints = make_model(make_optimizer()), Checkpoints(tmp_path, every_steps=99)
        assert checkpoints.restore(resumed) == 10
        resumed.fit(IMAGES[16:], LABELS[16:], batch_size=4, shuffle=False, verbose=0, callbacks=[checkpoints])
    finally:
        keras.config.set_dtype_policy(previous_policy)
    assert checkpoints.step == 12
    for expected, value in zip(state(uninterrupted), state(resumed), strict=True):
        np.testing.assert_array_equal(expected, value)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="sampled classes require TensorFlow or JAX")
def test_sampled_centers_and_their_slots_are_restored(tmp_path):
    """The slots exist in a model that has not trained yet, so that there is a place to restore them to."""

    def sampled():
        embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model = RecognitionModel(embedder, ArcFace(20, sample_rate=0.3, name="head"))
        model.compile(optimizers.Adam(0.01))
        model.build((None, 8))
        return model

    uninterrupted = sampled()
    callback = Checkpoints(tmp_path, every_steps=99)
    train(uninterrupted, [callback])
    callback.write()
    resumed, checkpoints = sampled(), Checkpoints(tmp_path, every_steps=99)
    assert checkpoints.restore(resumed) == 6
    assert len(resumed.head.partial_fc.slots) == 2
    for expected, value in zip(state(uninterrupted), state(resumed), strict=True):
        np.testing.assert_array_equal(expected, value)


def test_without_checkpoints_the_step_is_0(tmp_path):
    model = make_model()
    before = state(model)
    assert Checkpoints(tmp_path / "absent").restore(model) == 0
    assert all(map(np.array_equal, before, state(model)))


def test_steps_are_counted_over_several_fits(tmp_path):
    model = make_model(CoupledSGD(0.01), eager=True)  # with moving averages, Keras cannot fit twice on JAX
    checkpoints = Checkpoints(tmp_path, every_steps=5)
    train(model, [checkpoints])
    train(model, [checkpoints])
    assert checkpoints.step == 12
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000000005.npz", "step-0000000010.npz"]


def largest_array(path):
    with np.load(path) as file:
        return max((file[name] for name in file.files), key=lambda array: array.nbytes)


@pytest.mark.parametrize("fault", ["empty", "truncated", "not a zip file", "flipped bit", "unreadable"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_restored(fault, checkpoints_directory, caplog):
    last = checkpoints_directory / "step-0000000010.npz"
    content = bytearray(last.read_bytes())
    if fault == "unreadable":
        last.unlink()
        last.mkdir()
    else:
        content[content.index(largest_array(last).tobytes())] ^= 1  # bits outside of arrays may be padding
        damaged = {"empty": b"", "truncated": bytes(content)[:-100], "not a zip file": b"x" * 999}
        last.write_bytes(damaged.get(fault, bytes(content)))
    assert Checkpoints(checkpoints_directory).restore(make_model()) == 8
    assert f"Checkpoint {last} is skipped" in caplog.text


def test_a_flipped_bit_never_changes_a_restored_model(checkpoints_directory):
    path, model = checkpoints_directory / "step-0000000010.npz", make_model()
    for other in (6, 8):
        (checkpoints_directory / f"step-{other:010d}.npz").unlink()
    content = path.read_bytes()
    Checkpoints(checkpoints_directory).restore(model)
    expected = state(model)
    generator = np.random.default_rng(1)
    detected = 0
    logging.disable()
    for position in generator.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        detected += not can_be_restored(model, checkpoints_directory)
        assert all(map(np.array_equal, expected, state(model)))
    logging.disable(logging.NOTSET)
    print(f"{detected} of 300 flipped bits were detected, the others changed nothing")
    assert detected > 100


def test_a_model_with_nan_is_not_written(checkpoints_directory):
    model = make_model()
    checkpoints = Checkpoints(checkpoints_directory)
    checkpoints.set_model(model)
    state(model)
    model.head.centers.assign(np.full((3, 4), np.nan))
    with pytest.raises(FloatingPointError, match=r"head/centers must be finite. .* after 0 steps. No checkpoint is"):
        checkpoints.write()
    assert len(list(checkpoints_directory.iterdir())) == 3


def test_an_unfinished_file_is_no_checkpoint(checkpoints_directory):
    """It is removed at the next start, also if the next run writes checkpoints at other steps."""
    (checkpoints_directory / ".step-0000000012.npz.tmp").write_bytes(b"half")
    model, checkpoints = make_model(eager=True), Checkpoints(checkpoints_directory)
    assert checkpoints.restore(model) == 10
    train(model, [checkpoints])
    assert steps_in(checkpoints_directory) == [6, 8, 10]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dim": 5}, r"another model. Expected: .*kernel \(16, 5\) float32. Received: .*kernel \(16, 4\) float32"),
        ({"classes": 4}, r"another model. Expected: .*centers \(4, 4\) float32. Received: .*centers \(3, 4\) float32"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(other, message, trained):
    model = make_model(**other)
    before = state(model)
    with pytest.raises(ValueError, match=rf"step-0000000010.npz belongs to {message}. Use another directory"):
        Checkpoints(trained).restore(model)
    assert all(map(np.array_equal, before, state(model)))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(make_model(eager=True), [Checkpoints(tmp_path, every_steps=2, run_config={"margin": 0.5, "seed": 0})])
    model = make_model()
    assert Checkpoints(tmp_path, run_config={"margin": 0.5, "seed": 0}).restore(model) == 4
    for run_config, message in (
        ({"margin": 0.4, "seed": 0}, "belongs to another run. Expected: margin=0.4. Received: margin=0.5"),
        ({}, "belongs to another run. Expected: no margin. Received: margin=0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, run_config=run_config).restore(model)


def test_a_model_that_is_not_compiled_is_refused(trained):
    model = make_model()
    with pytest.raises(ValueError, match=r"must be built and compiled .* Received: built=\w+, compiled=False"):
        Checkpoints(trained).restore(RecognitionModel(model.embedder, model.head))


def test_bfloat16_variables_are_restored(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    model.compile("sgd")
    make_checkpoints(tmp_path, 100, model=model)
    expected = keras.ops.convert_to_numpy(model.variables[0])
    model.variables[0].assign(np.zeros((3, 2)))
    assert Checkpoints(tmp_path).restore(model) == 100
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.variables[0]), expected)
    model.variables[0].assign(np.full((3, 2), np.nan))
    with pytest.raises(FloatingPointError, match="must be finite"):
        make_checkpoints(tmp_path, 200, model=model)


def rewrite(path, compression=zipfile.ZIP_STORED, **changed):
    """Writes the members of a checkpoint again, some with other content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changed.get(name.removesuffix(".npy"), content))


def as_npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def as_header(**changed):
    fields = {"format": 1, "step": 10, "run_config": {}, "variables": [], **changed}
    return as_npy(np.frombuffer(json.dumps(fields).encode(), np.uint8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED, "0": bytes(1_000_000)}, "bytes of content in a file of"),
        (
            {"0": as_npy(np.zeros((1, 1))).replace(b"(1, 1), }" + b" " * 9, b"(99999999999, 1), }")},
            "must have the type float32",
        ),
        ({"0": as_npy(np.zeros((8, 16), np.float32))[:-1]}, "in 51"),
        ({"0": as_npy(np.zeros((8, 16), np.float32)) + b"x"}, "in 51"),
        ({"0": as_npy(np.zeros((8, 16), np.float64))}, "must have the type float32"),
        ({"0": as_npy(np.array([None]))}, "must have the type float32"),
        ({"header": as_header(step=9)}, "expected the step of the file name. Received: step=9"),
        ({"header": as_header(format="x" * 10_000)}, "expected format=1. Received: format='xxx"),
        ({"header": as_npy(np.frombuffer(b"[" * 100_000, np.uint8))}, "too deeply nested"),
        ({"header": as_npy(np.frombuffer(b'{"step": 9, "step": 10}', np.uint8))}, "Received: 'step' more than once"),
        ({"header": as_header(variables=None)}, "TypeError"),
    ],
)
def test_hostile_content_is_refused(changed, message, checkpoints_directory, caplog):
    path, model = checkpoints_directory / "step-0000000010.npz", make_model(eager=True)
    rewrite(path, **changed)
    before = state(model)
    assert Checkpoints(checkpoints_directory).restore(model) == 8
    assert f"{path} must be an intact checkpoint. Received: a file that raises" in caplog.text
    assert message in caplog.text
    assert len(caplog.text) < 1000
    assert len(before) == len(state(model))


@pytest.mark.parametrize(
    "header",
    [
        as_header(run_config={"x" * 10_000: 1}),
        as_header(run_config={"a": ["x" * 10_000] * 1000}),
        as_header(variables=[{"path": "x" * 10_000, "shape": [1] * 10_000, "dtype": "x" * 10_000}]),
    ],
)
def test_the_message_about_another_run_is_short(header, checkpoints_directory):
    rewrite(checkpoints_directory / "step-0000000010.npz", header=header)
    with pytest.raises(ValueError, match=r"step-0000000010.npz belongs to another") as caught:
        Checkpoints(checkpoints_directory).restore(make_model(eager=True))
    assert len(str(caught.value)) < 1500


def test_names_that_the_package_does_not_write_are_not_read(checkpoints_directory):
    last = checkpoints_directory / "step-0000000010.npz"
    for name in ("step-11.npz", "step-00000000012.npz", "step-000000001٣.npz", "step-.npz", "step-0000000014.npz.bak"):
        shutil.copy(last, checkpoints_directory / name)
    assert Checkpoints(checkpoints_directory).restore(make_model(eager=True)) == 10


def make_checkpoints(directory, *steps, model=None, **options):
    """Writes checkpoints of the given steps, and returns the model."""
    model = model or make_model(eager=True)
    checkpoints = Checkpoints(directory, keep=100, **options)
    checkpoints.set_model(model)
    for step in steps:
        checkpoints.step = step
        checkpoints.write()
    return model


def steps_in(directory):
    return [int(path.stem.removeprefix("step-")) for path in sorted(directory.iterdir())]


def damage(directory, step):
    path = directory / f"step-{step:010d}.npz"
    path.write_bytes(path.read_bytes()[:-100])


def write_at(directory, step, keep):
    """Restores the last checkpoint, and writes another one. Returns the callback."""
    checkpoints, model = Checkpoints(directory, keep=keep), make_model(eager=True)
    checkpoints.restore(model)
    checkpoints.set_model(model)
    checkpoints.step = step
    checkpoints.write()
    return checkpoints


def test_damaged_newer_checkpoints_do_not_count(tmp_path):
    make_checkpoints(tmp_path, 100, 200, 300)
    damage(tmp_path, 300)
    checkpoints = write_at(tmp_path, 230, keep=1)
    assert steps_in(tmp_path) == [230, 300]
    assert Checkpoints(tmp_path).restore(make_model(eager=True)) == 230
    checkpoints.step = 300
    checkpoints.write()
    assert steps_in(tmp_path) == [300]
    assert Checkpoints(tmp_path).restore(make_model(eager=True)) == 300


def test_damaged_older_checkpoints_do_not_count(tmp_path, caplog):
    make_checkpoints(tmp_path, 100, 200, 300, 400)
    damage(tmp_path, 200)
    damage(tmp_path, 300)
    checkpoints = write_at(tmp_path, 500, keep=3)
    assert steps_in(tmp_path) == [100, 200, 300, 400, 500]
    assert caplog.text.count("is neither counted nor removed") == 2
    checkpoints.step = 600
    checkpoints.write()
    assert steps_in(tmp_path) == [200, 300, 400, 500, 600]
    assert caplog.text.count("is neither counted nor removed") == 2


def test_older_checkpoints_of_another_run_are_not_removed(tmp_path):
    make_checkpoints(tmp_path, 100, run_config={"seed": 1})
    make_checkpoints(tmp_path, 200, 300)
    write_at(tmp_path, 400, keep=1)
    assert steps_in(tmp_path) == [100, 400]


def test_intact_checkpoints_are_read_once(tmp_path, monkeypatch):
    make_checkpoints(tmp_path, 100, 200, 300, 400)
    read, check = [], checkpoint_files.check_checkpoint

    def record(path, *args):
        read.append(path.name)
        check(path, *args)

    monkeypatch.setattr(checkpoint_files, "check_checkpoint", record)
    checkpoints = write_at(tmp_path, 500, keep=4)
    assert read == ["step-0000000300.npz", "step-0000000200.npz"]  # 400 was restored, and nothing depends on 100
    for step in (600, 700, 800):
        checkpoints.step = step
        checkpoints.write()
    assert len(read) == 2
    damage(tmp_path, 700)
    checkpoints.step = 900
    checkpoints.write()
    assert read[2:] == ["step-0000000700.npz"]  # changed since it was written
    assert steps_in(tmp_path) == [500, 600, 700, 800, 900]


def test_a_checkpoint_that_cannot_be_removed_does_not_stop_the_training(tmp_path, monkeypatch, caplog):
    make_checkpoints(tmp_path, 100, 200)

    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path.suffix == ".npz":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, missing_ok)

    unlink = Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "unlink", lambda path, **kwargs: (unlink if path.name[0] == "." else refuse)(path, **kwargs)
        )
        checkpoints = write_at(tmp_path, 300, keep=1)
    assert steps_in(tmp_path) == [100, 200, 300]
    assert "step-0000000100.npz could not be removed: Permission denied" in caplog.text
    checkpoints.step = 400
    checkpoints.write()
    assert steps_in(tmp_path) == [400]


def test_a_training_that_did_not_restore_is_refused(tmp_path):
    make_checkpoints(tmp_path, 100)
    with pytest.raises(ValueError, match=r"must not contain .* has done 0 steps. Received: step-0000000100.npz. Call"):
        train(make_model(eager=True), [Checkpoints(tmp_path)])
    assert steps_in(tmp_path) == [100]


def test_a_training_whose_damaged_checkpoint_was_replaced_by_another_is_refused(tmp_path):
    make_checkpoints(tmp_path, 100, 200)
    damage(tmp_path, 200)
    model, checkpoints = make_model(eager=True), Checkpoints(tmp_path)
    assert checkpoints.restore(model) == 100
    write_at(tmp_path, 200, keep=3)
    with pytest.raises(ValueError, match=r"has done 100 steps. Received: step-0000000200.npz"):
        train(model, [checkpoints])


TRAIN = """
import sys
sys.path.insert(0, sys.argv[2])
import keras
from small import make_model, train
from keras_arcface.training import Checkpoints, TrainingLog

class Wait(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        print(flush=True)
        sys.stdin.read()

train(make_model(eager=True), [Checkpoints(sys.argv[1]), TrainingLog(sys.argv[1], 4), Wait()])
"""


@pytest.mark.slow
def test_a_second_training_is_told_who_trains_in_the_directory(tmp_path):
    make_checkpoints(tmp_path / "finished", 100)
    command = [sys.executable, "-c", TRAIN, tmp_path / "run", Path(__file__).parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for callback in (Checkpoints(tmp_path / "run"), TrainingLog(tmp_path / "run", 4)):
            with pytest.raises(
                BlockingIOError, match=rf"run must not be .* process {process.pid} on .* since 20.* \(-c\)"
            ):
                train(make_model(eager=True), [callback])
        shutil.copy(tmp_path / "finished" / "step-0000000100.npz", tmp_path / "run")
        assert Checkpoints(tmp_path / "run").restore(make_model(eager=True)) == 100  # reading requires no lock
        process.kill()
    (tmp_path / "run" / "step-0000000100.npz").unlink()
    train(make_model(eager=True), [Checkpoints(tmp_path / "run"), TrainingLog(tmp_path / "run", 4)])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["steps.csv"]


def test_a_failed_training_does_not_block_the_next_one_of_the_process(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("broken")

    failed = [Checkpoints(tmp_path, 1), TrainingLog(tmp_path, 4), Fail()]
    with pytest.raises(RuntimeError, match="broken"):
        train(make_model(eager=True), failed)
    train(make_model(eager=True), [Checkpoints(tmp_path, 1), TrainingLog(tmp_path, 4)])
    assert not list(tmp_path.glob("*.lock"))


def test_a_training_in_another_thread_keeps_its_directory(tmp_path):
    held, finished = threading.Event(), threading.Event()

    def hold():
        lock = run_lock.lock_run(tmp_path / ".lock")
        held.set()
        finished.wait()
        lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} "):
            run_lock.lock_run(tmp_path / ".lock")
    finally:
        finished.set()
        thread.join()
    run_lock.lock_run(tmp_path / ".lock").release()


def test_a_fifo_is_a_damaged_checkpoint(tmp_path, caplog):
    make_checkpoints(tmp_path, 100)
    os.mkfifo(tmp_path / "step-0000000200.npz")
    assert Checkpoints(tmp_path).restore(make_model(eager=True)) == 100
    assert "step-0000000200.npz must be a regular file. Received: a FIFO" in caplog.text


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    make_checkpoints(tmp_path, 100)

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    needed = r"No space left on device, while writing [\d,]{3,} bytes with [\d,]+ bytes free: .*step-0000000200.npz"
    with pytest.raises(OSError, match=needed):
        write_at(tmp_path, 200, keep=1)
    assert steps_in(tmp_path) == [100]


@pytest.mark.parametrize("name", ["every_steps", "keep"])
def test_invalid_arguments_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1. Received: {name}=0"):
        Checkpoints(tmp_path, **{name: 0})
