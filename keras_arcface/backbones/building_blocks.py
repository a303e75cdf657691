"""Layers that the backbones share, with the padding and initialization of the published networks."""

import keras
from keras import layers

# Number of input channels that convolutions of oneDNN process at once with AVX-512.
_ONEDNN_BLOCK = 16


def conv(x, filters, kernel_size, strides=1, groups=1, padding="same", name=None):
    """Applies a convolution without bias.

    The padding "same" is half of the kernel size on each side. The padding "tensorflow" is the "same" of Keras, which
    pads an input of even size on the far side only, if the convolution has strides.
    """
    if kernel_size == 1 and strides > 1 and x.shape[-1] < _ONEDNN_BLOCK:
        # A separate layer for the stride gives the same result and avoids a bug of oneDNN (issue 6035): with few input
        # channels, the kernel gradient of a strided 1 x 1 convolution overflows its buffer.
        x = layers.AveragePooling2D(1, strides, name=None if name is None else f"{name}_stride")(x)
        strides = 1
    x, padding = _pad(x, kernel_size, strides, padding, name)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=_initializer(),
        name=name,
    )(x)


def depthwise_conv(x, kernel_size, strides=1, padding="same", name=None):
    """Applies a depthwise convolution without bias. The padding is "valid", or as in `conv`."""
    x, padding = _pad(x, kernel_size, strides, padding, name)
    return layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=name,
    )(x)


def batch_norm(x, synchronized, epsilon=1e-5, name=None):
    """Applies a BatchNorm with the momentum and, by default, the epsilon of the published networks."""
    return layers.BatchNormalization(momentum=0.9, epsilon=epsilon, synchronized=synchronized, name=name)(x)


def prelu(x, name=None):
    """Applies a PReLU with one slope per channel."""
    return layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name)(x)


def layer_scale(x, initial=1e-6, name=None):
    """Multiplies each channel by a weight, which is small at first (LayerScale)."""
    letters = "bcdef"[: len(x.shape) - 1] + "k"
    return layers.EinsumDense(
        f"{letters},k->{letters}", x.shape[1:], kernel_initializer=keras.initializers.Constant(initial), name=name
    )(x)


def _initializer():
    # This is the initializer of the IResNet of arcface_torch. The He and Glorot initializers of Keras compute the fan
    # of a depthwise kernel over all channels. The initial kernel is then so small that training is unstable.
    return keras.initializers.RandomNormal(stddev=0.1)


def _pad(x, kernel_size, strides, padding, name):
    """Pads an input for a convolution if necessary, and returns it with the padding of the Keras layer."""
    if padding == "tensorflow":
        return x, "same"
    if padding == "valid" or strides == 1:
        return x, padding
    if kernel_size == 1:
        return x, "valid"
    return layers.ZeroPadding2D(kernel_size // 2, name=None if name is None else f"{name}_pad")(x), "valid"
