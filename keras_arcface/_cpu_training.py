"""Faster training of BatchNormalization and PReLU layers with TensorFlow on a CPU.

Keras composes both layers of elementwise operations, each of which reads and writes a whole feature map. On a CPU,
they need more than half of the time of a training step (`benchmarks/training.py`). TensorFlow has a fused BatchNorm
operation, and XLA fuses PReLU.
"""

import functools

import keras
from keras import layers
from keras import ops

from keras_arcface import _private_api

# Embedder files from before version 0.1 contain the names of former subclasses of these layers.
keras.saving.get_custom_objects().update(
    {f"keras_arcface>{layer.__name__}": layer for layer in (layers.BatchNormalization, layers.PReLU)}
)


def speed_up(model):
    """Makes the BatchNormalization and PReLU layers of a model faster in training with TensorFlow on a CPU.

    Only the attribute `call` of these layer objects is replaced. Keras neither saves nor clones it, so that a saved or
    cloned model consists of plain Keras layers. Inference, other backends and subclasses of the layers are unaffected.

    Results are those of Keras up to rounding, except that the derivative of PReLU at exactly 0 is `alpha` instead of 0.

    Args:
        model: a `keras.Model`, which is changed in place, including nested models.

    Returns:
        The same model.
    """
    if _is_available():
        for layer in _flatten(model):
            if type(layer) is layers.BatchNormalization:
                layer.call = functools.partial(_call_batch_norm, layer)
            elif type(layer) is layers.PReLU:
                layer.call = functools.partial(_call_prelu, layer)
    return model


@functools.cache
def _is_available():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def _flatten(layer):
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from _flatten(inner)


def _call_batch_norm(layer, inputs, training=None, mask=None):
    if not (training and layer.trainable and mask is None and _can_fuse(layer, inputs)):
        return layers.BatchNormalization.call(layer, inputs, training=training, mask=mask)
    gamma, beta = ops.cast(layer.gamma, "float32"), ops.cast(layer.beta, "float32")
    outputs, mean, variance = _fused_batch_norm(inputs, gamma, beta, layer.epsilon)
    for moving, batch in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + ops.cast(batch, moving.dtype) * (1 - layer.momentum))
    return outputs


def _can_fuse(layer, inputs):
    return (
        layer.scale
        and layer.center
        and not layer.synchronized
        and not layer.renorm
        and len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and keras.backend.standardize_dtype(inputs.dtype) in ("float16", "bfloat16", "float32")
    )


def _fused_batch_norm(x, gamma, beta, epsilon):
    """Normalizes a feature map `(batch, rows, columns, channels)` by the statistics of its channels.

    Returns:
        The normalized feature map in the dtype of `x`, and the means and variances `(channels,)` in float32.
    """
    import tensorflow as tf

    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    # The operation returns the unbiased variance; the moving variance of Keras averages the biased one.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), variance.dtype)
    return y, mean, variance * (1 - 1 / count)


def _call_prelu(layer, inputs):
    # Keras does not pass `training` to PReLU. Outside of training, the Keras implementation is used, so that exported
    # graphs do not contain the compiled function.
    if not _private_api.training_of_current_call():
        return layers.PReLU.call(layer, inputs)
    return _compiled_prelu(inputs, layer.alpha, tuple(layer.shared_axes or ()))


def _compiled_prelu(x, alpha, shared_axes):
    """Returns `x` where it is above 0, and `alpha * x` elsewhere. `alpha` has size 1 along the shared axes of `x`."""
    import tensorflow as tf

    forward, backward = _prelu_functions(shared_axes)
    # With this option, TensorFlow computes the surrounding convolutions in bfloat16, but not a compiled function.
    is_bfloat16 = tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16", False)
    stored = "bfloat16" if is_bfloat16 and x.dtype == "float32" else x.dtype

    @tf.custom_gradient
    def apply(x, alpha):
        return forward(x, alpha), lambda upstream: backward(x, alpha, upstream)

    return tf.cast(apply(tf.cast(x, stored), tf.cast(alpha, "float32")), x.dtype)


@functools.cache
def _prelu_functions(shared_axes):
    import tensorflow as tf

    # The conversions to float32 are a part of the compiled functions, and need no memory.
    def forward(x, alpha):
        below = tf.cast(alpha * tf.cast(x, "float32"), x.dtype)
        return tf.where(x > 0, x, below)

    def backward(x, alpha, upstream):
        product = tf.cast(upstream, "float32") * tf.cast(x, "float32")
        by_alpha = tf.reduce_sum(tf.where(x > 0, 0.0, product), axis=(0, *shared_axes), keepdims=True)[0]
        below = tf.cast(alpha * tf.cast(upstream, "float32"), x.dtype)
        return tf.where(x > 0, upstream, below), by_alpha

    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
    return compiled(forward), compiled(backward)
