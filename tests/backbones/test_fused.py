"""The layers that are faster in training on a CPU, against Keras' own."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_arcface.backbones import fused
from keras_arcface.backbones import kernels

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="the kernels are for TensorFlow on a CPU")
SHAPES = [(3, 4, 5, 6), (2, 1, 1, 3), (1, 1, 1, 2)]
# Of the gradients, which sum over the batch.
TOLERANCES = {"float32": 2e-5, "bfloat16": 6e-2, "float16": 1e-2}


def step(layer, images, upstream, jit_compile=False):
    """A training step's output and gradients, and what the layer holds afterwards."""
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


def pair_of(name, dtype, channels, **kwargs):
    pair = [getattr(room, name)(dtype=dtype, **kwargs) for room in (fused, layers)]
    for layer in pair:
        layer.build((None, None, None, channels))
        layer.set_weights([np.abs(random(w.shape, i)) for i, w in enumerate(layer.weights)])
    return pair


def agree(ours, keras_own, tolerance):
    assert len(ours) == len(keras_own)
    for one, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * max(1, np.abs(other).max()))


@needs_kernels
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "kwargs"), [("BatchNormalization", {"epsilon": 1e-5, "momentum": 0.9}), ("PReLU", {"shared_axes": [1, 2]})]
)
def test_a_training_step_is_as_keras_has_it(name, kwargs, shape, dtype, jit_compile):
    images, upstream = random(shape, 10), random(shape, 11)
    pair = pair_of(name, dtype, shape[-1], **kwargs)
    ours, keras_own = (step(layer, images, upstream, jit_compile) for layer in pair)
    agree(ours, keras_own, TOLERANCES[dtype.removeprefix("mixed_")])


@needs_kernels
def test_prelu_shares_the_axes_it_is_told_to():
    for axes in ([1], [1, 2, 3], None):
        pair = [room.PReLU(alpha_initializer="ones", shared_axes=axes) for room in (fused, layers)]
        for layer in pair:
            layer.build((None, 4, 5, 6))
            layer.set_weights([random(layer.alpha.shape, 0)])
        ours, keras_own = (step(layer, random((3, 4, 5, 6), 1), random((3, 4, 5, 6), 2)) for layer in pair)
        agree(ours, keras_own, TOLERANCES["float32"])


@needs_kernels
def test_prelu_in_training_leaves_nan_and_zero_alone():
    layer = fused.PReLU(shared_axes=[1, 2])
    outputs = np.asarray(layer(np.array([0.0, np.nan, -np.inf], "float32").reshape(1, 1, 1, 3), training=True))
    assert outputs[..., 0] == 0
    assert np.isnan(outputs[..., 1])


@needs_kernels
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
def test_what_cannot_be_fused_is_left_to_keras(kwargs, shape, monkeypatch):
    monkeypatch.setattr(kernels, "batch_norm", None)
    images = random(shape, 0)
    ours, keras_own = (room.BatchNormalization(**kwargs)(images, training=True) for room in (fused, layers))
    np.testing.assert_array_equal(ours, keras_own)


@pytest.mark.parametrize("name", ["BatchNormalization", "PReLU"])
def test_without_training_it_is_keras_own(name, monkeypatch):
    monkeypatch.setattr(kernels, "batch_norm", None)
    monkeypatch.setattr(kernels, "prelu", None)
    ours, keras_own = pair_of(name, "float32", 3, **({"shared_axes": [1, 2]} if name == "PReLU" else {}))
    images = random((2, 4, 4, 3), 0)
    np.testing.assert_array_equal(ours(images, training=False), keras_own(images, training=False))
    ours.trainable = False
    if name == "BatchNormalization":  # frozen, it is in inference mode
        np.testing.assert_array_equal(ours(images, training=True), keras_own(images, training=False))


def test_models_and_weights_pass_between_these_layers_and_keras_own(tmp_path):
    def model(room):
        return keras.Sequential(
            [keras.Input((4, 4, 3)), room.BatchNormalization(name="norm"), room.PReLU(shared_axes=[1, 2], name="prelu")]
        )

    ours, keras_own = model(fused), model(layers)
    ours.set_weights([np.abs(random(w.shape, i)) for i, w in enumerate(ours.weights)])
    images = random((2, 4, 4, 3), 0)
    ours.save_weights(tmp_path / "ours.weights.h5")
    keras_own.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_array_equal(ours.predict(images), keras_own.predict(images))
    ours.save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(loaded.get_layer("norm")) is fused.BatchNormalization
    assert loaded.get_layer("prelu").shared_axes == [1, 2]
    np.testing.assert_array_equal(ours.predict(images), loaded.predict(images))
