"""The check of replicas before training."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import make_model

from keras_arcface.training import check_replicas

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, str(Path(__file__).with_name("replica_faults.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", ["no fault", "rounding", "center loss", "random margins", "sampled"])
def test_equal_replicas_pass(report, case):
    assert 0 <= report[case]["result"] < 1e-4


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("damaged images", "Expected: a change of .*moving_mean within .* Received: a difference of .* on replica ."),
        ("NaN", "Received: loss=nan"),
        ("counted twice", "Expected: a gradient of .*kernel within .* Received: a difference of .* on replica ."),
        ("lost", "Expected: a gradient of .*kernel within .* Received: a difference of .* on replica ."),
    ],
)
def test_a_fault_between_devices_is_named(report, case, message):
    assert re.match(f"2 replicas must compute the results of one device. .*{message}", report[case]["result"])
    assert "Train on one device, or find the faulty transfer" in report[case]["result"]


def test_the_model_is_not_changed(report):
    assert all(outcome["unchanged"] for outcome in report.values())


def test_one_replica_is_not_checked():
    model = make_model()
    before = [weight.numpy() for weight in model.weights]
    assert check_replicas(model, None) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, model.weights, strict=True))
