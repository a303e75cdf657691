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


CHECK_GPUS = Path(__file__).parents[1] / "examples" / "check_gpus.py"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_300_steps_on_several_replicas_equal_those_on_one_device(devices):
    command = [sys.executable, CHECK_GPUS, "--cpus", str(devices), "--steps", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("metric ", "variable "))]
    assert {"loss", "accuracy"} <= {row[1] for row in rows}
    assert max(float(row[-1]) for row in rows) < 5


FAULTS = {
    "a metric of the second device is NaN": (
        """
original = keras.metrics.Mean.update_state
def update_state(self, values, sample_weight=None):
    is_second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
    return original(self, tf.where(is_second, np.nan, tf.cast(values, 'float32')), sample_weight)
keras.metrics.Mean.update_state = update_state
""",
        "error: the metric 'loss' is nan after step 1 on several devices",
    ),
    "the gradients of the second device are lost": (
        """
original = keras.optimizers.SGD.apply
def apply(self, gradients, variables=None):
    is_second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
    return original(self, [tf.where(is_second, 0.0, gradient) for gradient in gradients], variables)
keras.optimizers.SGD.apply = apply
""",
        "error: the variable 'embedding/moving_variance' of several devices differs by",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_several_devices_is_named(fault):
    code, message = FAULTS[fault]
    start = (
        "import sys, check_gpus, keras, numpy as np, tensorflow as tf; sys.argv[1:] = ['--cpus', '2', '--steps', '4']"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{start}{code}check_gpus.main()"],
        cwd=CHECK_GPUS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr, done.stdout + done.stderr
