import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_arcface import training
from keras_arcface.training import CosineSchedule
from keras_arcface.training import PolynomialSchedule
from keras_arcface.training import StepSchedule

# Schedules with their formulas in plain Python.
SCHEDULES = {
    "step": (StepSchedule(0.1, boundaries=[20, 28]), lambda t: 0.1 * (1 if t < 20 else 0.1 if t < 28 else 0.01)),
    "step, halved": (
        StepSchedule(0.3, boundaries=[2.5], factor=0.5, warmup=0.5, steps_per_epoch=10),
        lambda t: 0.3 * t / 5 if t < 5 else 0.3 if t < 25 else 0.15,
    ),
    "polynomial": (PolynomialSchedule(0.1, total=40), lambda t: 0.1 * (1 - min(t, 40) / 40)),
    "polynomial, squared": (
        PolynomialSchedule(0.1, total=4, power=2, warmup=1, steps_per_epoch=10),
        lambda t: 0.1 * t / 10 if t < 10 else 0.1 * (1 - (min(t, 40) - 10) / 30) ** 2,
    ),
    "cosine": (
        CosineSchedule(1e-3, total=40, end_factor=0.1, warmup=4),
        lambda t: 1e-3 * (t / 4 if t < 4 else 0.1 + 0.9 * (1 + math.cos(math.pi * (min(t, 40) - 4) / 36)) / 2),
    ),
}


@pytest.mark.parametrize(("schedule", "formula"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_schedules_equal_their_formulas(schedule, formula):
    steps = np.arange(50)
    rates = keras.ops.convert_to_numpy(schedule(steps))
    np.testing.assert_allclose(rates, [formula(step) for step in steps], rtol=2e-6, atol=1e-10)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in SCHEDULES.values()], ids=SCHEDULES.keys())
def test_schedules_survive_serialization(schedule):
    loaded = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == schedule.get_config()
    optimizer = training.CoupledSGD(schedule)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert loaded.get_config() == optimizer.get_config()


def schedule_of(kind, warmup, length, shape, steps_per_epoch):
    """Makes a schedule whose rate after the warm-up does not increase."""
    times = {"warmup": warmup, "steps_per_epoch": steps_per_epoch}
    if kind == "step":
        return StepSchedule(1.0, boundaries=[warmup + length / 2, warmup + length], factor=shape, **times)
    if kind == "polynomial":
        return PolynomialSchedule(1.0, total=warmup + length, power=4 * shape, **times)
    return CosineSchedule(1.0, total=warmup + length, end_factor=shape, **times)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["step", "polynomial", "cosine"]),
    st.integers(0, 20),
    st.integers(1, 40),
    st.floats(0.1, 1.0),
    st.integers(1, 50),
)
def test_the_rate_rises_to_the_peak_then_falls_to_its_end(kind, warmup, length, shape, steps_per_epoch):
    schedule = schedule_of(kind, warmup, length, shape, steps_per_epoch)
    start, end = warmup * steps_per_epoch, (warmup + length) * steps_per_epoch
    rates = keras.ops.convert_to_numpy(schedule(np.arange(end + 10)))
    assert np.all(np.diff(rates[: start + 1]) >= 0)
    assert rates[start] == pytest.approx(1.0)
    assert rates.max() == pytest.approx(1.0)
    assert rates[0] == (0 if warmup else rates[start])
    assert np.all(np.diff(rates[start:]) <= 1e-6)
    last = {"step": shape**2, "polynomial": 0.0, "cosine": shape}[kind]
    np.testing.assert_allclose(rates[end:], last, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepSchedule(0.0, boundaries=[1]), "peak must be a learning rate above 0. Received: peak=0.0"),
        (
            lambda: StepSchedule(0.1, boundaries=[3, 2]),
            r"boundaries must be ascending and not negative. Received: boundaries=\[3, 2\]",
        ),
        (lambda: StepSchedule(0.1, boundaries=[3], factor=0), "factor must be above 0. Received: factor=0"),
        (lambda: PolynomialSchedule(0.1, total=5, warmup=5), "longer than warmup. Received: total=5, warmup=5"),
        (lambda: PolynomialSchedule(0.1, total=5, power=0), "power must be above 0"),
        (lambda: CosineSchedule(0.1, total=5, end_factor=2), r"end_factor must be in \[0, 1\]. Received: end_factor=2"),
        (lambda: CosineSchedule(0.1, total=5, warmup=-1), "warmup must be at least 0. Received: warmup=-1"),
        (lambda: CosineSchedule(0.1, total=5, steps_per_epoch=0), "steps_per_epoch must be at least 1"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
