import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from keras_arcface.training import all_gpus_strategy


def test_without_gpus_it_is_the_default_strategy():
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("this machine has GPUs")
    assert all_gpus_strategy() is tf.distribute.get_strategy()


def test_with_two_gpus_it_mirrors(monkeypatch):
    # Logical CPU devices stand for GPUs: MirroredStrategy only wants names.
    devices = [tf.config.LogicalDevice("/device:CPU:0", "GPU"), tf.config.LogicalDevice("/device:CPU:1", "GPU")]
    asked = []
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: asked.append(names) or "mirrored")
    assert all_gpus_strategy() == "mirrored"
    assert asked == [["/device:CPU:0", "/device:CPU:1"]]


@pytest.mark.slow
def test_two_replicas_train_as_one():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("replicas.py"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for kind, difference in report["two devices against one"].items():
        assert difference <= 3 * report["one device, start moved by rounding"][kind]
        assert difference <= 0.02 * report["what training moved"][kind]
    one, two = report["history of one"], report["history of two"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["target_angle"] == pytest.approx(one["target_angle"], rel=1e-4)
