import math
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import IMAGES
from small import make_model
from small import train

from keras_arcface.training import AlignEpochs
from keras_arcface.training import CoupledSGD
from keras_arcface.training import StepCallback
from keras_arcface.training import StopAtStep
from keras_arcface.training import StopOnNaN


class Recorder(StepCallback):
    def __init__(self, start_step=0):
        super().__init__(start_step)
        self.calls = []

    def on_step_end(self, previous_step, logs=None):
        self.calls.append((previous_step, self.step))


def test_steps_are_counted_from_the_start_step_over_epochs_and_fits():
    recorder = Recorder(start_step=100)
    model = make_model(CoupledSGD(0.01), eager=True)  # with averages, Keras cannot fit twice on JAX
    train(model, [recorder], epochs=2)
    train(model, [recorder])
    assert recorder.calls == [(step, step + 1) for step in range(100, 118)]


def test_steps_per_execution_are_counted():
    recorder = Recorder()
    model = make_model()
    model.compile("sgd", steps_per_execution=3)
    train(model, [recorder], epochs=2)
    assert recorder.calls == [(0, 3), (3, 6), (6, 9), (9, 12)]


@pytest.mark.parametrize(("start_step", "done"), [(0, 8), (5, 3)])
def test_training_stops_in_the_middle_of_an_epoch(start_step, done):
    recorder = Recorder()
    train(make_model(eager=True), [StopAtStep(8, start_step), recorder], epochs=9)
    assert len(recorder.calls) == done


def test_a_nan_loss_stops_training_and_names_the_step():
    images = IMAGES.copy()
    images[13] = np.nan  # in the fourth batch
    callback = StopOnNaN(seed=7, replay="Replay {step}.", start_step=20)
    with pytest.raises(FloatingPointError, match=r"Received: loss=nan since step 23, .* with seed 7\. .* Replay 23\."):
        train(make_model(eager=True), [callback], images=images)


def test_a_nan_loss_names_the_steps_of_one_execution():
    images = IMAGES.copy()
    images[13] = np.nan
    model = make_model()
    model.compile("sgd", steps_per_execution=2)
    with pytest.raises(FloatingPointError, match="since one of the steps 2 to 3, counted from 0, with seed 0"):
        train(model, [StopOnNaN()], images=images)


def test_a_negative_start_step_is_refused():
    with pytest.raises(ValueError, match=r"start_step must be an integer of at least 0. Received: start_step=-1"):
        StopAtStep(5, -1)


def epoch_ends(steps_per_epoch, last_step, start_step):
    """Returns the epochs of a run with the steps at their ends, from callbacks called as `fit` calls them."""
    model = types.SimpleNamespace(stop_training=False)
    callbacks = [AlignEpochs(steps_per_epoch, start_step), StopAtStep(last_step, start_step)]
    for callback in callbacks:
        callback.set_model(model)
    ends = []
    for epoch in range(start_step // steps_per_epoch, math.ceil(last_step / steps_per_epoch)):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        for batch in range(steps_per_epoch):
            for callback in callbacks:
                callback.on_train_batch_end(batch)
            if model.stop_training:
                break
        for callback in callbacks:
            callback.on_epoch_end(epoch)
        ends.append((epoch, callbacks[0].step))
        if model.stop_training:
            break
    return ends


@given(st.integers(1, 12), st.integers(1, 60), st.data())
def test_a_resumed_run_has_the_epochs_of_an_uninterrupted_run(steps_per_epoch, last_step, data):
    start_step = data.draw(st.integers(0, last_step - 1))
    uninterrupted = epoch_ends(steps_per_epoch, last_step, 0)
    assert uninterrupted[-1][1] == last_step
    resumed = epoch_ends(steps_per_epoch, last_step, start_step)
    assert resumed == [(epoch, step) for epoch, step in uninterrupted if step > start_step]
