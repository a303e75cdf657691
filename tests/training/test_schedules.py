import math

import keras
import numpy as np
import pytest

from keras_arcface import training
from keras_arcface.training import CosineSchedule
from keras_arcface.training import PolynomialSchedule
from keras_arcface.training import StepSchedule

# Each with its formula, in plain Python.
SCHEDULES = {
    "step": (StepSchedule(0.1, at=[20, 28]), lambda t: 0.1 * (1 if t < 20 else 0.1 if t < 28 else 0.01)),
    "step, halved": (
        StepSchedule(0.3, at=[2.5], factor=0.5, warmup=0.5, steps_per_epoch=10),
        lambda t: 0.3 * t / 5 if t < 5 else 0.3 if t < 25 else 0.15,
    ),
    "polynomial": (PolynomialSchedule(0.1, total=40), lambda t: 0.1 * (1 - min(t, 40) / 40)),
    "polynomial, squared": (
        PolynomialSchedule(0.1, total=4, power=2, warmup=1, steps_per_epoch=10),
        lambda t: 0.1 * t / 10 if t < 10 else 0.1 * (1 - (min(t, 40) - 10) / 30) ** 2,
    ),
    "cosine": (
        CosineSchedule(1e-3, total=40, end=0.1, warmup=4),
        lambda t: 1e-3 * (t / 4 if t < 4 else 0.1 + 0.9 * (1 + math.cos(math.pi * (min(t, 40) - 4) / 36)) / 2),
    ),
}


@pytest.mark.parametrize(("schedule", "formula"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_equal_the_formula_at_every_step(schedule, formula):
    steps = range(50)
    rates = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(rates, [formula(step) for step in steps], rtol=2e-6, atol=1e-10)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in SCHEDULES.values()], ids=SCHEDULES.keys())
def test_survive_serialization(schedule):
    optimizer = training.CoupledSGD(schedule)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert [float(loaded._learning_rate(step)) for step in range(50)] == [float(schedule(step)) for step in range(50)]
    assert loaded.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepSchedule(0.0, at=[1]), "peak, the highest learning rate, must be above 0. Received: peak=0.0"),
        (lambda: StepSchedule(0.1, at=[3, 2]), r"at must be ascending .* Received: at=\[3, 2\]"),
        (lambda: StepSchedule(0.1, at=[3], factor=0), "factor must be above 0. Received: factor=0"),
        (lambda: PolynomialSchedule(0.1, total=5, warmup=5), "longer than the warm-up. Received: total=5, warmup=5"),
        (lambda: PolynomialSchedule(0.1, total=5, power=0), "power must be above 0"),
        (lambda: CosineSchedule(0.1, total=5, end=2), r"end must be a share of the peak, in \[0, 1\]. Received: end=2"),
        (lambda: CosineSchedule(0.1, total=5, warmup=-1), "warmup must not be negative. Received: warmup=-1"),
        (lambda: CosineSchedule(0.1, total=5, steps_per_epoch=0), "steps_per_epoch must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
