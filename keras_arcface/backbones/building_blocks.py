"""Layers that the backbones share, with the padding and initialization of the published networks."""

import keras
from keras import layers

# Number of input channels that oneDNN's convolutions process at once with AVX-512.
_ONEDNN_BLOCK = 16


def conv(x, filters, kernel_size, strides=1, groups=1, name=None):
    """Adds a convolution without bias, zero-padded by half the kernel size on each side."""
    if kernel_size == 1 and strides > 1 and x.shape[-1] < _ONEDNN_BLOCK:
        # Striding first gives the same result and avoids a fault of oneDNN (issue 6035): with fewer input channels than
        # a block, the kernel gradient of a strided 1 x 1 convolution is written past its buffer.
        x = layers.AveragePooling2D(1, strides, name=None if name is None else f"{name}_stride")(x)
        strides = 1
    x = _pad(x, kernel_size, strides, name)
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="valid" if strides > 1 else "same",
        groups=groups,
        use_bias=False,
        kernel_initializer=_initializer(),
        name=name,
    )(x)


def depthwise_conv(x, kernel_size, strides=1, padding="same", name=None):
    """Adds a depthwise convolution without bias; "same" padding as in `conv`."""
    if padding == "same":
        x = _pad(x, kernel_size, strides, name)
        padding = "valid" if strides > 1 else "same"
    return layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=name,
    )(x)


def batch_norm(x, synchronized, name=None):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name)(x)


def prelu(x, name=None):
    """Adds a PReLU with one slope per channel."""
    return layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name)(x)


def _initializer():
    # The initializer of arcface_torch's IResNet. Keras' He and Glorot initializers compute the fan of a depthwise
    # kernel over all channels, and start it so small that the first steps destroy it.
    return keras.initializers.RandomNormal(stddev=0.1)


def _pad(x, kernel_size, strides, name):
    # With a stride, "same" pads only the far side of an even input; the published networks pad both sides.
    if strides == 1 or kernel_size == 1:
        return x
    return layers.ZeroPadding2D(kernel_size // 2, name=None if name is None else f"{name}_pad")(x)
