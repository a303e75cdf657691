"""BatchNormalization and PReLU with faster training on a CPU, compared with Keras' own."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import _cpu_training
from keras_arcface import backbones
from keras_arcface.models import make_embedder

needs_tensorflow_on_cpu = pytest.mark.skipif(
    not _cpu_training._is_available(), reason="only TensorFlow on a CPU has the faster layers"
)
# Of the gradients, which sum over the batch.
TOLERANCES = {"float32": 2e-5, "bfloat16": 6e-2, "float16": 1e-2}
ARGUMENTS = {"BatchNormalization": {"epsilon": 1e-5, "momentum": 0.9}, "PReLU": {"shared_axes": [1, 2]}}


def training_step(layer, images, upstream, jit_compile=False):
    """Returns outputs and gradients of a training step, and the layer's weights after it."""
    import tensorflow as tf

    @tf.function(jit_compile=jit_compile)
    def run(images, upstream):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") * upstream)
        return outputs, *tape.gradient(loss, [images, *(w.value for w in layer.trainable_weights)])

    results = run(tf.cast(images, layer.compute_dtype), tf.constant(upstream))
    return [np.asarray(r, np.float32) for r in (*results, *layer.weights)]


def random(shape, seed):
    return np.random.default_rng(seed).normal(0.3, 2, shape).astype("float32")


def faster_and_plain(name, shape, **kwargs):
    """Returns two layers with equal weights, the first of them sped up."""
    pair = [getattr(layers, name)(**kwargs) for _ in range(2)]
    for layer in pair:
        layer.build((None, *shape[1:]))
        layer.set_weights([np.abs(random(w.shape, i)) for i, w in enumerate(layer.weights)])
    return _cpu_training.speed_up(pair[0]), pair[1]


def assert_agree(faster, plain, tolerance):
    assert len(faster) == len(plain)
    for one, other in zip(faster, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1, np.abs(other).max()))


@needs_tensorflow_on_cpu
@pytest.mark.parametrize(
    ("shape", "dtype", "jit_compile"),
    [
        ((3, 4, 5, 6), "float32", False),
        ((3, 4, 5, 6), "float32", True),
        ((3, 4, 5, 6), "mixed_bfloat16", False),
        ((3, 4, 5, 6), "mixed_bfloat16", True),
        ((3, 4, 5, 6), "mixed_float16", False),
        ((2, 1, 1, 3), "float32", False),
        ((1, 1, 1, 2), "float32", False),
    ],
)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_training_step_agrees_with_keras(name, shape, dtype, jit_compile):
    images, upstream = random(shape, 10), random(shape, 11)
    pair = faster_and_plain(name, shape, dtype=dtype, **ARGUMENTS[name])
    faster, plain = (training_step(layer, images, upstream, jit_compile) for layer in pair)
    assert_agree(faster, plain, TOLERANCES[dtype.removeprefix("mixed_")])


@needs_tensorflow_on_cpu
@pytest.mark.parametrize("name", ARGUMENTS)
def test_training_uses_the_faster_operation(name, monkeypatch):
    operation = {"BatchNormalization": "_fused_batch_norm", "PReLU": "_compiled_prelu"}[name]
    monkeypatch.setattr(_cpu_training, operation, None)
    layer, _ = faster_and_plain(name, (2, 4, 4, 3), **ARGUMENTS[name])
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        layer(random((2, 4, 4, 3), 0), training=True)


@needs_tensorflow_on_cpu
@pytest.mark.parametrize("shared_axes", [[1], [1, 2, 3], None])
def test_prelu_with_other_shared_axes_agrees_with_keras(shared_axes):
    pair = faster_and_plain("PReLU", (3, 4, 5, 6), shared_axes=shared_axes)
    faster, plain = (training_step(layer, random((3, 4, 5, 6), 1), random((3, 4, 5, 6), 2)) for layer in pair)
    assert_agree(faster, plain, TOLERANCES["float32"])


@needs_tensorflow_on_cpu
def test_prelu_between_convolutions_in_bfloat16_is_rounded_once():
    import tensorflow as tf

    shape = (3, 4, 5, 6)
    faster, plain = faster_and_plain("PReLU", shape, shared_axes=[1, 2])
    images, upstream = (tf.cast(tf.cast(random(shape, seed), "bfloat16"), "float32") for seed in (0, 1))
    expected, by_images, by_alpha, alpha = training_step(plain, images, upstream)
    try:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
        received = training_step(faster, images, upstream)
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})
    rounded = [np.asarray(tf.cast(tf.cast(array, "bfloat16"), "float32")) for array in (expected, by_images)]
    assert_agree(received[:2], rounded, 0)
    assert_agree(received[2:], [by_alpha, alpha], 1e-6)
    assert not np.array_equal(received[0], expected)


@needs_tensorflow_on_cpu
def test_prelu_in_training_keeps_zero_and_nan():
    layer = _cpu_training.speed_up(layers.PReLU(shared_axes=[1, 2]))
    outputs = np.asarray(layer(np.array([0.0, np.nan, -np.inf], "float32").reshape(1, 1, 1, 3), training=True))
    assert outputs[..., 0] == 0
    assert np.isnan(outputs[..., 1])


@needs_tensorflow_on_cpu
@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({"scale": False}, (4, 3, 3, 2)),
        ({"center": False}, (4, 3, 3, 2)),
        ({"axis": 1}, (4, 2, 3, 3)),
        ({"renorm": True}, (4, 3, 3, 2)),
        ({"dtype": "float64"}, (4, 3, 3, 2)),
        ({}, (4, 2)),
    ],
)
def test_batch_norm_that_cannot_be_fused_is_computed_by_keras(kwargs, shape, monkeypatch):
    monkeypatch.setattr(_cpu_training, "_fused_batch_norm", None)
    faster, plain = (
        layer(random(shape, 0), training=True) for layer in faster_and_plain("BatchNormalization", shape, **kwargs)
    )
    np.testing.assert_array_equal(faster, plain)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_inference_is_computed_by_keras(name, monkeypatch):
    monkeypatch.setattr(_cpu_training, "_fused_batch_norm", None)
    monkeypatch.setattr(_cpu_training, "_compiled_prelu", None)
    images = random((2, 4, 4, 3), 0)
    faster, plain = faster_and_plain(name, images.shape, **ARGUMENTS[name])
    np.testing.assert_array_equal(faster(images, training=False), plain(images, training=False))
    faster.trainable = False
    if name == "BatchNormalization":  # a frozen one is in inference mode
        np.testing.assert_array_equal(faster(images, training=True), plain(images, training=False))


def test_subclasses_are_left_alone():
    class OwnPReLU(layers.PReLU):
        pass

    assert "call" not in vars(_cpu_training.speed_up(OwnPReLU()))


LOAD_AND_TRAIN = """
import sys
import keras
import numpy as np

folder = sys.argv[1]
embedder = keras.saving.load_model(f"{folder}/embedder.keras")
arrays = np.load(f"{folder}/arrays.npz")
assert np.array_equal(embedder.predict(arrays["images"], verbose=0), arrays["embeddings"])
embedder.compile("sgd", "mse")
before = embedder.get_weights()
embedder.fit(arrays["images"], np.zeros_like(arrays["embeddings"]), verbose=0)
assert any(not np.array_equal(old, new) for old, new in zip(before, embedder.get_weights()))
assert not [name for name in sys.modules if name.startswith("keras_arcface")]
"""


def test_saved_embedder_is_plain_keras(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8)
    model = RecognitionModel(embedder, ArcFace(3))
    model.compile("sgd")
    model.fit(images, np.array([0, 1, 2, 0]), verbose=0)
    np.savez(tmp_path / "arrays.npz", images=images, embeddings=embedder.predict(images, verbose=0))
    embedder.save(tmp_path / "embedder.keras")

    code = [sys.executable, "-c", LOAD_AND_TRAIN, str(tmp_path)]
    done = subprocess.run(
        code, env={**os.environ, "KERAS_BACKEND": keras.backend.backend()}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


@needs_tensorflow_on_cpu
def test_loaded_embedders_train_faster_and_clones_are_plain():
    def replaced_calls(model):
        return [layer.name for layer in _cpu_training._flatten(model) if "call" in vars(layer)]

    embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3)), dim=8)
    names = replaced_calls(embedder)
    assert {"stem_bn", "stem_prelu", "neck_bn"} <= set(names)
    clone = keras.models.clone_model(embedder)
    assert not replaced_calls(clone)
    assert replaced_calls(RecognitionModel(clone, ArcFace(3)).embedder) == names


@pytest.mark.parametrize("name", ARGUMENTS)
def test_layers_of_older_files_load_as_keras_own(name):
    # Files from before version 0.1 name subclasses in keras_arcface.
    config = keras.saving.serialize_keras_object(getattr(layers, name)(**ARGUMENTS[name]))
    config |= {"module": "keras_arcface.backbones.fused", "registered_name": f"keras_arcface>{name}"}
    assert type(keras.saving.deserialize_keras_object(config)) is getattr(layers, name)
