import copy
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_arcface.training import CoupledSGD
from keras_arcface.training import WholeBatchLossScale
from keras_arcface.training import WholeBatchOptimizer


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)], ids=["2 devices", "4 devices"]
)
def report(request):
    script = Path(__file__).with_name("shared_gradients.py")
    done = subprocess.run(
        [sys.executable, str(script), str(request.param)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(*(f"{name}: {figure}" for name, figure in report.items()), sep="\n")
    return report


@pytest.mark.parametrize(
    "name", ["clipped", "body clipped", "accumulated, clipped", "accumulated, averaged", "accumulated, another head"]
)
def test_several_devices_train_as_one(name, report):
    assert report[name] < 1e-6


def test_so_they_do_under_float16(report):
    assert report["mixed_float16"] < 1e-3


def test_keras_own_clipping_does_not(report):
    """What this is for: should Keras ever do it right, this says so."""
    assert report["Keras' own, clipped"] > 1e-3


def test_accumulating_equals_the_large_batch(report):
    assert report["4 x 16 against 64"] < 1e-6


@pytest.mark.parametrize("replica", [0, 1])
def test_an_overflow_on_any_replica_skips_the_step_and_halves_the_scale(replica, report):
    assert report[f"overflow on replica {replica}"] == [1.0, 1.0]


def test_the_margin_comes_in_by_steps_not_by_replicas(report):
    """The strength of a step is what the steps before it make it: five of ten."""
    steps, strength = report["warm-up"]
    assert set(steps) == {6.0}
    assert strength == pytest.approx([0.5] * len(steps))


def test_the_norm_over_clipped_variables_is_limited_and_no_other():
    body, head = keras.Variable(np.zeros(2), name="body"), keras.Variable(np.zeros(2), name="head")
    optimizer = WholeBatchOptimizer(keras.optimizers.SGD(1.0), clip_norm=1.0, clip="body")
    optimizer.apply([np.float32([3, 4]), np.float32([3, 4])], [body, head])
    np.testing.assert_allclose(body, [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(head, [-3, -4])
    optimizer.apply([np.float32([0.3, 0.4]), np.float32([0, 0])], [body, head])
    np.testing.assert_allclose(body, [-0.9, -1.2], rtol=1e-6)  # what is short stays as it is


def test_updates_are_counted_not_steps():
    weight = keras.Variable(np.zeros(1))
    inner = CoupledSGD(0.1, weight_decay=0.0)
    optimizer = WholeBatchOptimizer(inner, accumulation_steps=3)
    for step in range(7):
        optimizer.apply([np.float32([step])], [weight])
    assert int(optimizer.iterations.numpy()) == 2
    np.testing.assert_allclose(weight, [-0.1 * 1 - 0.1 * (0.9 * 1 + 4)], rtol=1e-6)  # the means of 0 1 2 and of 3 4 5


def test_survives_serialization():
    optimizer = WholeBatchLossScale(WholeBatchOptimizer(CoupledSGD(0.5), 4, clip_norm=5.0, clip="embedder/"))
    config = keras.optimizers.serialize(optimizer)
    assert keras.optimizers.serialize(keras.optimizers.deserialize(copy.deepcopy(config))) == config


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": "sgd"}, TypeError, "expects a Keras optimizer .* Received: optimizer='sgd'"),
        ({"optimizer": WholeBatchLossScale(CoupledSGD())}, TypeError, "that is not a LossScaleOptimizer"),
        ({"accumulation_steps": 0}, ValueError, "accumulation_steps must be at least 1. Received: 0"),
        ({"clip_norm": 0}, ValueError, "clip_norm must be above 0, or None. Received: clip_norm=0"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        WholeBatchOptimizer(**{"optimizer": CoupledSGD(), **arguments})


def test_a_pattern_that_clips_nothing_is_refused():
    optimizer = WholeBatchOptimizer(CoupledSGD(), clip_norm=5.0, clip="backbone/")
    with pytest.raises(ValueError, match="clip='backbone/' is found in no variable's path, such as 'kernel'"):
        optimizer.build([keras.Variable(np.zeros(2), name="kernel")])
