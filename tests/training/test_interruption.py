"""Ctrl-C, as a real signal to this process."""

import csv
import math
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import BATCH
from small import IMAGES
from small import LABELS
from small import make_model
from small import state
from small import train

from keras_arcface.training import AlignEpochs
from keras_arcface.training import Checkpoints
from keras_arcface.training import CoupledSGD
from keras_arcface.training import StepCallback
from keras_arcface.training import StopAtStep
from keras_arcface.training import StopOnInterrupt
from keras_arcface.training import TrainingLog

# They interrupt the process that they run in, which is not to be one of several workers.
pytestmark = pytest.mark.slow


class Presses(StepCallback):
    """Sends SIGINT to this process in a step of the training, counted from 0, before others have counted it."""

    def __init__(self, at, times=1):
        super().__init__()
        self.at, self.times = at, times

    def on_step_end(self, before, logs=None):
        for _ in range(self.times if before == self.at else 0):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler_is_given_back():
    former = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is former


def test_it_ends_after_the_step_and_goes_on_as_if_nothing_had_been(tmp_path):
    undisturbed, first, second = (make_model(CoupledSGD(0.01)) for _ in range(3))  # with averages, JAX fits once
    checkpoints = Checkpoints(tmp_path, every_steps=100)
    for one, other in zip(undisturbed.variables, first.variables, strict=True):
        other.assign(np.array(one))
    train(undisturbed, [])
    stop = StopOnInterrupt(checkpoints)
    with pytest.raises(KeyboardInterrupt) as stopped, stop:
        train(first, [Presses(at=2), checkpoints, stop])
    path = tmp_path / "step-0000000003.npz"
    assert str(stopped.value) == f"Stopped by Ctrl-C after 3 steps, see {path}"
    assert Checkpoints(tmp_path).restore(second) == 3
    second.fit(IMAGES[12:], LABELS[12:], batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(state(second), state(undisturbed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    stop = StopOnInterrupt()
    with pytest.raises(KeyboardInterrupt) as stopped, stop:
        train(make_model(), [Presses(at=2, times=2), stop])
    assert str(stopped.value) == ""


def test_the_last_step_ends_the_training_anyway():
    stop = StopOnInterrupt()
    with stop:
        history = train(make_model(), [Presses(at=2), StopAtStep(3), stop])
    assert len(history.epoch) == 1


def test_an_error_leaves_ctrl_c_as_it_was():
    with pytest.raises(ValueError, match="broken"), StopOnInterrupt():
        raise ValueError("broken")


def test_in_another_thread_it_does_nothing():
    def work():
        with StopOnInterrupt() as stop:
            ended.append(train(make_model(), [stop]))

    ended = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(ended) == 1


def test_it_counts_with_its_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    stop = StopOnInterrupt(checkpoints, start_step=3)
    with stop, pytest.raises(ValueError, match=r"Received: Checkpoints at step 0, StopOnInterrupt at 3"):
        train(make_model(), [checkpoints, stop])
    stop = StopOnInterrupt(checkpoints)
    with stop, pytest.raises(ValueError, match=r"Received: Checkpoints at step 0, StopOnInterrupt at 1"):
        train(make_model(), [stop])


EVERY = 4


class EpochEnds(StepCallback):
    """Notes each epoch and the step where it ends, which is where verification happens."""

    def __init__(self, start_step):
        super().__init__(start_step)
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append((epoch, self.step))


def run(directory, *others, last=14):
    """Trains with averaged weights from the last checkpoint, as `examples/train_ms1m.py` does."""
    keras.utils.set_random_seed(0)
    model = make_model(CoupledSGD(0.01, use_ema=True))
    checkpoints = Checkpoints(directory, EVERY, keep=10)
    start = checkpoints.restore(model)
    rows = np.arange(start * BATCH, last * BATCH) % len(IMAGES)
    stop, ends = StopOnInterrupt(checkpoints, start), EpochEnds(start)
    callbacks = [
        AlignEpochs(EVERY, start),
        *others,
        checkpoints,
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        ends,
        TrainingLog(directory, BATCH, every_steps=3, start_step=start),
        StopAtStep(last, start),
        stop,
    ]
    message = ""
    try:
        with stop:
            model.fit(
                tf.data.Dataset.from_tensor_slices((IMAGES[rows], LABELS[rows])).batch(BATCH),
                steps_per_epoch=EVERY,
                initial_epoch=start // EVERY,
                epochs=math.ceil(last / EVERY),
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
    except KeyboardInterrupt as stopped:
        message = str(stopped)
    return model, ends.found, message


def steps_logged(directory):
    with open(directory / "steps.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def checkpoints_in(directory):
    return sorted(int(path.stem.removeprefix("step-")) for path in directory.glob("*.npz"))


ENDS = [(0, 4), (1, 8), (2, 12), (3, 14)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    model, ends, _ = run(directory)
    assert (ends, checkpoints_in(directory)) == (ENDS, [4, 8, 12])
    assert steps_logged(directory) == [3, 4, 6, 8, 9, 12, 14]
    return state(model)


@pytest.mark.parametrize(
    ("stopped", "epochs_before"),
    [
        pytest.param(7, 1, id="middle of an epoch"),
        pytest.param(8, 2, id="last step of an epoch"),
        pytest.param(13, 3, id="last epoch"),
    ],
)
def test_with_averages_it_goes_on_bit_for_bit_and_epochs_end_where_they_did(
    undisturbed, tmp_path, stopped, epochs_before
):
    _, ends, message = run(tmp_path, Presses(at=stopped - 1))
    assert ends == ENDS[:epochs_before]
    assert message == f"Stopped by Ctrl-C after {stopped} steps, see {tmp_path / f'step-{stopped:010d}.npz'}"
    model, ends, _ = run(tmp_path)
    assert ends == ENDS[epochs_before:]
    assert checkpoints_in(tmp_path) == sorted({4, 8, 12, stopped})
    assert steps_logged(tmp_path) == [3, 4, 6, 8, 9, 12, 14]
    for one, other in zip(state(model), undisturbed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_that_ends_early_may_be_the_last(tmp_path):
    run(tmp_path, Presses(at=5), last=8)
    _, ends, _ = run(tmp_path, last=8)
    assert ends == [(1, 8)]


def test_epochs_have_steps():
    with pytest.raises(ValueError, match=r"must be at least 1. Received: steps_per_epoch=0"):
        AlignEpochs(0)
