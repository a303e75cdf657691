"""BatchNorm and PReLU for training by TensorFlow on a CPU, in fewer passes over memory than Keras' compositions.

Keras' BatchNorm makes some ten passes over a feature map and its gradient as many, and PReLU not many fewer; on a CPU
that was more than half of a training step (`benchmarks/training.py`). TensorFlow's own fused BatchNorm needs two and
two. There is no such operation for PReLU, so XLA fuses it.
"""

import functools

import keras


@functools.cache
def available():
    """Whether Keras computes by TensorFlow, and on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def batch_norm(x, gamma, beta, epsilon):
    """Normalizes by the batch's own statistics.

    Args:
        x: `(batch, rows, columns, channels)`, float16, bfloat16 or float32.
        gamma, beta: `(channels,)` float32.
        epsilon: added to the variance.

    Returns:
        The normalized feature map, in the dtype of `x`; the means and the variances of the channels, float32.
    """
    import tensorflow as tf

    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    # The operation gives the unbiased variance, Keras' moving variance is of the biased one.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), variance.dtype)
    return y, mean, variance * (1 - 1 / count)


def prelu(x, alpha, shared_axes):
    """`x` where it is above 0, otherwise `alpha * x`.

    Args:
        x: `(batch, ...)`.
        alpha: the shape of `x` without the batch, 1 along the shared axes; same dtype.
        shared_axes: axes of `x` along which `alpha` is 1.
    """
    import tensorflow as tf

    forward, backward = _prelu_functions(tuple(shared_axes))

    @tf.custom_gradient
    def apply(x, alpha):
        return forward(x, alpha), lambda upstream: backward(x, alpha, upstream)

    return apply(x, alpha)


@functools.cache
def _prelu_functions(shared_axes):
    import tensorflow as tf

    def forward(x, alpha):
        return tf.where(x > 0, x, alpha * x)

    def backward(x, alpha, upstream):
        below = tf.where(x > 0, tf.zeros_like(x), upstream * x)
        by_alpha = tf.reduce_sum(tf.cast(below, tf.float32), axis=(0, *shared_axes), keepdims=True)[0]
        return tf.where(x > 0, upstream, alpha * upstream), tf.cast(by_alpha, alpha.dtype)

    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
    return compiled(forward), compiled(backward)
