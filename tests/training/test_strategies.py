import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from keras_arcface.training import all_gpus_strategy
from keras_arcface.training import placed
from keras_arcface.training import use_precision


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


@pytest.mark.parametrize("strategy", ["auto", "mirrored", "one-device"])
def test_a_model_is_made_where_it_was_said(strategy):
    with placed(strategy):
        variable = keras.Variable([1.0])
        kind = type(tf.distribute.get_strategy()).__name__
    assert float(variable.numpy()[0]) == 1.0
    if not tf.config.list_logical_devices("GPU"):
        assert kind == {"auto": "_DefaultDistributionStrategy", "mirrored": "MirroredStrategy"}.get(
            strategy, "OneDeviceStrategy"
        )


def test_placing_on_jax():
    pytest.importorskip("jax", reason="JAX is absent")
    code = (
        "import keras; from keras_arcface.training import placed, use_precision\n"
        "with placed('jax'): print(type(keras.distribution.distribution()).__name__)\n"
        "with placed('one-device'): print(keras.distribution.distribution())\n"
        "print(use_precision('auto'))\n"
        "for wrong in ({'strategy': 'mirrored'},):\n"
        "    try: placed(**wrong)\n"
        "    except ValueError as error: print(error)\n"
        "try: use_precision('onednn_bfloat16')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "DataParallel",
        "None",
        "float32",
        "strategy='mirrored' needs the backend tensorflow: set KERAS_BACKEND=tensorflow before Keras is imported. "
        "Received: the backend jax",
        "precision='onednn_bfloat16' is TensorFlow's. Received: the backend jax",
    ], done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: placed("tpu"), "strategy expects one of auto, mirrored, one-device, jax. Received: 'tpu'"),
        (lambda: placed("jax"), "strategy='jax' needs the backend jax: set KERAS_BACKEND=jax"),
        (lambda: use_precision("float8"), "precision expects one of auto, float32, .* Received: 'float8'"),
    ],
)
def test_what_there_is_not_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("precision", "policy", "rewritten"),
    [("float32", "float32", False), ("mixed_float16", "mixed_float16", False), ("onednn_bfloat16", "float32", True)],
)
def test_a_precision_is_set(precision, policy, rewritten):
    try:
        assert use_precision(precision) == precision
        assert keras.config.dtype_policy().name == policy
        assert tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"] is rewritten
    finally:
        use_precision("float32")


def test_the_slow_gradient_of_depthwise_convolutions_is_left_in_float32(monkeypatch):
    name, operation = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE", "DepthwiseConv2dNativeBackpropInput"
    monkeypatch.setenv(name, "MatMul")
    try:
        for _ in range(2):
            use_precision("onednn_bfloat16")
            assert os.environ[name] == f"MatMul,{operation}"
    finally:
        use_precision("float32")


@pytest.mark.parametrize(
    ("gpus", "flags", "chosen"),
    [([1], "", "mixed_float16"), ([], "avx2 avx512_bf16", "onednn_bfloat16"), ([], "avx2", "float32")],
)
def test_a_precision_is_chosen_for_the_machine(gpus, flags, chosen, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(Path, "read_text", lambda path: flags)
    try:
        assert use_precision("auto") == chosen
    finally:
        use_precision("float32")
