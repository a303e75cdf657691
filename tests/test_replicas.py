"""Several replicas train like one device, and evaluate the network that is saved."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(script, *arguments):
    """Returns the JSON that a script prints. Logical devices require a new TensorFlow process."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("synchronized", [[], ["synchronized"]])
def test_replicas_are_equal_to_each_other_and_to_the_saved_embedder(devices, synchronized):
    report = run("replica_agreement.py", devices, *synchronized)
    print(report)
    assert report["spread of replicas"] == 0
    assert report["least cosine of one image to itself"] == pytest.approx(1, abs=1e-6)
    assert report["saved embeddings differ by"] == 0
    assert report["callback"] == report["saved"]
    assert report["evaluate, halves swapped"] < 1e-5
    if synchronized:
        assert report["short batches against one device"] < 1e-3  # one other image in the statistics gives 0.05
    assert report["short batch is finite"]
    assert report["short batch, rows"] == 9
    assert report["short batch, predict against one device"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_300_steps_on_several_replicas_equal_those_on_one_device(devices):
    report = run("replica_steps.py", devices)
    print(report)
    assert report["steps"] == 300
    assert report["finite"]
    for name, difference in report["logs, several devices against one"].items():
        assert difference < 5 * max(report["logs, one device, start perturbed"][name], 1e-6), name
    for kind, difference in report["several devices against one"].items():
        assert difference < 5 * report["one device, start perturbed"][kind]
        assert difference < 1e-4 * report["change by training"][kind]
