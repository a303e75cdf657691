import copy
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import SyncedLossScaleOptimizer


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)], ids=["2 devices", "4 devices"]
)
def report(request):
    script = Path(__file__).with_name("global_gradients.py")
    done = subprocess.run(
        [sys.executable, str(script), str(request.param)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(*(f"{name}: {figure}" for name, figure in report.items()), sep="\n")
    return report


@pytest.mark.parametrize(
    "name", ["clipped", "body clipped", "accumulated, clipped", "accumulated, averaged", "accumulated, separate head"]
)
def test_several_devices_train_like_one_device(name, report):
    assert report[name] < 1e-6


def test_several_devices_train_like_one_device_in_mixed_float16(report):
    assert report["mixed_float16"] < 1e-3


def test_the_clipping_of_keras_differs(report):
    """If this fails, Keras clips over all replicas, and this optimizer may no longer be needed."""
    assert report["Keras' own, clipped"] > 1e-3


def test_accumulation_equals_a_large_batch(report):
    assert report["4 x 16 against 64"] < 1e-6


@pytest.mark.parametrize("replica", [0, 1])
def test_an_overflow_on_any_replica_skips_the_step_and_halves_the_scale(replica, report):
    assert report[f"overflow on replica {replica}"] == [1.0, 1.0]


def test_the_margin_warmup_counts_steps_not_replicas(report):
    """The strength in the sixth step is that of five steps of ten."""
    steps, strength = report["warm-up"]
    assert set(steps) == {6.0}
    assert strength == pytest.approx([0.5] * len(steps))


def test_only_the_norm_over_clipped_variables_is_clipped():
    body, head = keras.Variable(np.zeros(2), name="body"), keras.Variable(np.zeros(2), name="head")
    optimizer = GradientAccumulationOptimizer(keras.optimizers.SGD(1.0), clip_norm=1.0, clip="body")
    optimizer.apply([np.float32([3, 4]), np.float32([3, 4])], [body, head])
    np.testing.assert_allclose(body, [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(head, [-3, -4])
    optimizer.apply([np.float32([0.3, 0.4]), np.float32([0, 0])], [body, head])
    np.testing.assert_allclose(body, [-0.9, -1.2], rtol=1e-6)  # below the limit


def test_the_inner_optimizer_counts_updates():
    weight = keras.Variable(np.zeros(1))
    inner = CoupledSGD(0.1, weight_decay=0.0)
    optimizer = GradientAccumulationOptimizer(inner, accumulation_steps=3)
    for step in range(7):
        optimizer.apply([np.float32([step])], [weight])
    assert int(optimizer.iterations.numpy()) == 2
    np.testing.assert_allclose(weight, [-0.1 * 1 - 0.1 * (0.9 * 1 + 4)], rtol=1e-6)  # means of (0, 1, 2) and (3, 4, 5)


def test_survives_serialization():
    optimizer = SyncedLossScaleOptimizer(
        GradientAccumulationOptimizer(CoupledSGD(0.5), 4, clip_norm=5.0, clip="embedder/")
    )
    config = keras.optimizers.serialize(optimizer)
    assert keras.optimizers.serialize(keras.optimizers.deserialize(copy.deepcopy(config))) == config


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inner_optimizer": "sgd"}, TypeError, "must be a Keras optimizer .* Received: inner_optimizer='sgd'"),
        ({"inner_optimizer": SyncedLossScaleOptimizer(CoupledSGD())}, TypeError, "other than LossScaleOptimizer"),
        (
            {"accumulation_steps": 0},
            ValueError,
            "must be an integer of at least 1. Received: accumulation_steps=0",
        ),
        ({"clip_norm": 0}, ValueError, "clip_norm must be above 0, or None. Received: clip_norm=0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        GradientAccumulationOptimizer(**{"inner_optimizer": CoupledSGD(), **arguments})


def test_a_pattern_without_match_is_refused():
    optimizer = GradientAccumulationOptimizer(CoupledSGD(), clip_norm=5.0, clip="backbone/")
    with pytest.raises(ValueError, match=r"path of a variable, such as 'kernel'. Received: clip='backbone/'"):
        optimizer.build([keras.Variable(np.zeros(2), name="kernel")])
