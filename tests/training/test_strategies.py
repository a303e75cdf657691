import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import _processor
from keras_arcface.training import all_gpus_strategy
from keras_arcface.training import device_scope
from keras_arcface.training import precision as precision_module
from keras_arcface.training import use_precision


def test_the_strategy_without_gpus_is_the_default():
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("this machine has GPUs")
    assert all_gpus_strategy() is tf.distribute.get_strategy()


def test_the_strategy_of_two_gpus_mirrors(monkeypatch):
    # Logical CPU devices stand for GPUs: MirroredStrategy gets only their names.
    devices = [tf.config.LogicalDevice("/device:CPU:0", "GPU"), tf.config.LogicalDevice("/device:CPU:1", "GPU")]
    received = []
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: received.append(names) or "mirrored")
    assert all_gpus_strategy() == "mirrored"
    assert received == [["/device:CPU:0", "/device:CPU:1"]]


def test_the_strategy_requires_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        RuntimeError, match=r"all_gpus_strategy requires the tensorflow backend.* Received: backend='jax'"
    ):
        all_gpus_strategy()


@pytest.mark.parametrize("strategy", ["auto", "mirrored", "one-device"])
def test_variables_are_created_under_the_chosen_strategy(strategy):
    with device_scope(strategy):
        variable = keras.Variable([1.0])
        kind = type(tf.distribute.get_strategy()).__name__
    assert float(variable.numpy()[0]) == 1.0
    if not tf.config.list_logical_devices("GPU"):
        assert kind == {"auto": "_DefaultDistributionStrategy", "mirrored": "MirroredStrategy"}.get(
            strategy, "OneDeviceStrategy"
        )


def test_device_scopes_on_jax():
    pytest.importorskip("jax", reason="JAX is absent")
    code = (
        "import keras; from keras_arcface.training import device_scope, use_precision\n"
        "import jax, numpy as np\n"
        "jax.config.update('jax_platforms', 'cpu'); jax.config.update('jax_num_cpu_devices', 2)\n"
        "parts = []\n"
        "class Look(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        jax.debug.inspect_array_sharding(x, callback=lambda found: parts.append(found.shard_shape((4, 3))))\n"
        "        return x\n"
        "with device_scope('jax'):\n"
        "    model = keras.Sequential([keras.Input((3,)), Look(), keras.layers.Dense(1)])\n"
        "    model.compile('sgd', 'mse')\n"
        "    model.fit(np.ones((4, 3)), np.ones((4, 1)), batch_size=4, verbose=0)\n"
        "print(parts[-1])\n"
        "with device_scope('one-device'): print(keras.distribution.distribution())\n"
        "print(use_precision('auto'))\n"
        "try: device_scope('mirrored')\n"
        "except ValueError as error: print(error)\n"
        "try: use_precision('onednn_bfloat16')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "(2, 3)",
        "None",
        "float32",
        "strategy='mirrored' requires the tensorflow backend: set KERAS_BACKEND=tensorflow before importing Keras. "
        "Received: backend='jax'",
        "precision='onednn_bfloat16' requires the tensorflow backend: set KERAS_BACKEND=tensorflow before importing "
        "Keras. Received: backend='jax'",
    ], done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: device_scope("tpu"),
            "must be one of auto, mirrored, one-device, jax. Received: strategy='tpu'",
        ),
        (lambda: device_scope("jax"), "strategy='jax' requires the jax backend: set KERAS_BACKEND=jax"),
        (lambda: use_precision("float8"), "precision must be one of auto, float32, .* Received: precision='float8'"),
    ],
)
def test_unknown_choices_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that makes this machine look like one with GPUs or with bfloat16 instructions."""
    precision_module._warn_of_float32.cache_clear()

    def pretend(gpus=(), has_bfloat16=False):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
        monkeypatch.setattr(_processor, "has_bfloat16", lambda: has_bfloat16)

    yield pretend
    use_precision("float32")


@pytest.mark.parametrize(
    ("precision", "policy", "rewritten", "gpus"),
    [
        ("float32", "float32", False, ()),
        ("mixed_float16", "mixed_float16", False, ("GPU:0",)),
        ("mixed_bfloat16", "mixed_bfloat16", False, ()),
        ("onednn_bfloat16", "float32", True, ()),
    ],
)
def test_a_precision_is_set(precision, policy, rewritten, gpus, machine):
    machine(gpus, has_bfloat16=True)
    try:
        assert use_precision(precision) == precision
        assert keras.config.dtype_policy().name == policy
        assert tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"] is rewritten
    finally:
        use_precision("float32")


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16", "onednn_bfloat16"])
def test_a_precision_that_would_be_slower_becomes_float32_and_says_so_once(precision, machine, caplog):
    machine()
    for _ in range(2):
        assert use_precision(precision) == "float32"
        assert keras.config.dtype_policy().name == "float32"
        assert not tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"]
    assert caplog.messages == [
        f"precision={precision!r} is slower than float32 on this machine, which has no instructions for it. Models are "
        "created in float32."
    ]


def test_heads_compute_in_float32_when_convolutions_compute_in_bfloat16(machine):
    has_bfloat16 = _processor.has_bfloat16()
    machine(has_bfloat16=True)
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(64, 256)).astype(np.float32)
    images, kernel = generator.normal(size=(4, 16, 16, 64)), generator.normal(size=(3, 3, 64, 64))
    head = ArcFace(1000)
    plain = head(embeddings)
    convolved = tf.nn.conv2d(images.astype(np.float32), kernel.astype(np.float32), 1, "SAME")
    try:
        use_precision("onednn_bfloat16")
        rewritten = tf.function(lambda: head(embeddings))()
        in_bfloat16 = tf.function(tf.nn.conv2d)(images.astype(np.float32), kernel.astype(np.float32), 1, "SAME")
    finally:
        use_precision("float32")
    np.testing.assert_allclose(rewritten, plain, atol=1e-4)
    if has_bfloat16:  # else TensorFlow ignores the option
        assert np.abs(in_bfloat16 - convolved).max() > 1e-2


def test_chosen_operations_are_added_to_those_of_the_user(monkeypatch, machine):
    machine(has_bfloat16=True)
    prefix = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_"
    monkeypatch.setenv(f"{prefix}ALLOWLIST_REMOVE", "Conv3D,MatMul")
    monkeypatch.setenv(f"{prefix}CLEARLIST_ADD", "Snapshot")
    try:
        for _ in range(2):
            use_precision("onednn_bfloat16")
            assert os.environ[f"{prefix}ALLOWLIST_REMOVE"] == f"Conv3D,{precision_module._FLOAT32_OPERATIONS}"
            assert os.environ[f"{prefix}CLEARLIST_ADD"] == "Snapshot,Cast"
    finally:
        use_precision("float32")


@pytest.mark.parametrize(
    ("gpus", "has_bfloat16", "chosen"),
    [(["GPU:0"], True, "mixed_float16"), ([], True, "onednn_bfloat16"), ([], False, "float32")],
)
def test_the_automatic_precision_depends_on_the_machine(gpus, has_bfloat16, chosen, machine):
    machine(gpus, has_bfloat16)
    assert use_precision("auto") == chosen
