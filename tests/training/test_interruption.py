"""Ctrl-C, as a real signal to this process."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
from small import IMAGES
from small import LABELS
from small import make_model
from small import state
from small import train

from keras_arcface.training import Checkpoints
from keras_arcface.training import CoupledSGD
from keras_arcface.training import StopAtStep
from keras_arcface.training import StopOnInterrupt


class Presses(keras.callbacks.Callback):
    """Sends SIGINT to this process in the middle of a step, counted from 0."""

    def __init__(self, at, times=1):
        super().__init__()
        self.at, self.times = at, times

    def on_train_batch_begin(self, batch, logs=None):
        for _ in range(self.times if batch == self.at else 0):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler_is_given_back():
    former = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is former


def test_it_ends_behind_the_step_and_goes_on_as_if_nothing_had_been(tmp_path):
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


def test_it_stands_behind_its_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    stop = StopOnInterrupt(checkpoints)
    with stop, pytest.raises(ValueError, match=r"Received: Checkpoints at step 0, StopOnInterrupt at 1"):
        train(make_model(), [stop, checkpoints])
