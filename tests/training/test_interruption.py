"""Ctrl-C, sent as a signal to this process."""

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

# The tests interrupt their process, which must not be a worker of pytest-xdist.
pytestmark = pytest.mark.slow


class SendInterrupt(StepCallback):
    """Sends SIGINT to this process in a step, counted from 0, before the next callbacks count the step."""

    def __init__(self, at, times=1):
        super().__init__()
        self.at, self.times = at, times

    def on_step_end(self, previous_step, logs=None):
        for _ in range(self.times if previous_step == self.at else 0):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler_is_restored():
    # Shells start programs in the background with a handler that ignores SIGINT.
    at_start = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, at_start)


def test_training_stops_after_the_step_and_resumes_exactly(tmp_path):
    uninterrupted, first, second = (make_model(CoupledSGD(0.01)) for _ in range(3))  # with averages, JAX fits once
    checkpoints = Checkpoints(tmp_path, every_steps=100)
    for one, other in zip(uninterrupted.variables, first.variables, strict=True):
        other.assign(np.array(one))
    train(uninterrupted, [])
    stop = StopOnInterrupt(checkpoints)
    with pytest.raises(KeyboardInterrupt) as stopped, stop:
        train(first, [SendInterrupt(at=2), checkpoints, stop])
    path = tmp_path / "step-0000000003.npz"
    assert str(stopped.value) == f"Stopped by Ctrl-C after 3 steps, see {path}"
    assert Checkpoints(tmp_path).restore(second) == 3
    second.fit(IMAGES[12:], LABELS[12:], batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(state(second), state(uninterrupted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_second_interrupt_stops_at_once(tmp_path):
    stop = StopOnInterrupt()
    with pytest.raises(KeyboardInterrupt) as stopped, stop:
        train(make_model(), [SendInterrupt(at=2, times=2), stop])
    assert str(stopped.value) == ""


def test_an_interrupt_in_the_last_step_raises_no_error():
    stop = StopOnInterrupt()
    with stop:
        history = train(make_model(), [SendInterrupt(at=2), StopAtStep(3), stop])
    assert len(history.epoch) == 1


def test_an_error_restores_the_handler():
    with pytest.raises(ValueError, match="broken"), StopOnInterrupt():
        raise ValueError("broken")


def test_other_threads_are_not_affected():
    def work():
        with StopOnInterrupt() as stop:
            ended.append(train(make_model(), [stop]))

    ended = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(ended) == 1


def test_the_start_step_must_equal_that_of_the_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    stop = StopOnInterrupt(checkpoints, start_step=3)
    with stop, pytest.raises(ValueError, match=r"Received: Checkpoints at step 0, StopOnInterrupt at step 3"):
        train(make_model(), [checkpoints, stop])
    stop = StopOnInterrupt(checkpoints)
    with stop, pytest.raises(ValueError, match=r"Received: Checkpoints at step 0, StopOnInterrupt at step 1"):
        train(make_model(), [stop])


EVERY, LAST = 4, 14


class EpochEnds(StepCallback):
    """Records each epoch and the step at its end, where verification happens."""

    def __init__(self, start_step):
        super().__init__(start_step)
        self.ends = []

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append((epoch, self.step))


def run(directory, *others):
    """Trains with averaged weights from the last checkpoint, as `examples/train_ms1m.py` does."""
    keras.utils.set_random_seed(0)
    model = make_model(CoupledSGD(0.01, use_ema=True))
    checkpoints = Checkpoints(directory, EVERY, keep=10)
    start = checkpoints.restore(model)
    rows = np.arange(start * BATCH, LAST * BATCH) % len(IMAGES)
    stop, ends = StopOnInterrupt(checkpoints, start), EpochEnds(start)
    callbacks = [
        AlignEpochs(EVERY, start),
        *others,
        checkpoints,
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        ends,
        TrainingLog(directory, BATCH, every_steps=3, start_step=start),
        StopAtStep(LAST, start),
        stop,
    ]
    message = ""
    try:
        with stop:
            model.fit(
                tf.data.Dataset.from_tensor_slices((IMAGES[rows], LABELS[rows])).batch(BATCH),
                steps_per_epoch=EVERY,
                initial_epoch=start // EVERY,
                epochs=math.ceil(LAST / EVERY),
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
    except KeyboardInterrupt as stopped:
        message = str(stopped)
    return model, ends.ends, message


def steps_logged(directory):
    with open(directory / "steps.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def checkpoints_in(directory):
    return sorted(int(path.stem.removeprefix("step-")) for path in directory.glob("*.npz"))


ENDS = [(0, 4), (1, 8), (2, 12), (3, 14)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
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
def test_a_resumed_run_with_averages_equals_an_uninterrupted_run_with_the_same_epochs(
    uninterrupted, tmp_path, stopped, epochs_before
):
    _, ends, message = run(tmp_path, SendInterrupt(at=stopped - 1))
    assert ends == ENDS[:epochs_before]
    assert message == f"Stopped by Ctrl-C after {stopped} steps, see {tmp_path / f'step-{stopped:010d}.npz'}"
    model, ends, _ = run(tmp_path)
    assert ends == ENDS[epochs_before:]
    assert checkpoints_in(tmp_path) == sorted({4, 8, 12, stopped})
    assert steps_logged(tmp_path) == [3, 4, 6, 8, 9, 12, 14]
    for one, other in zip(state(model), uninterrupted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_epochs_of_0_steps_are_refused():
    with pytest.raises(ValueError, match=r"must be an integer of at least 1. Received: steps_per_epoch=0"):
        AlignEpochs(0)
