"""MobileNetV1 with PReLU, the network of SFace."""

import keras

from keras_arcface.backbones.building_blocks import batch_norm
from keras_arcface.backbones.building_blocks import conv
from keras_arcface.backbones.building_blocks import depthwise_conv
from keras_arcface.backbones.building_blocks import prelu

# Channels of the blocks of each stage, relative to the first convolution. All stages after the first halve the
# resolution in their first block.
STAGES = ((2,), (4, 4), (8, 8), (16,) * 6, (32, 32))

# SFace was trained with this epsilon, which is not negligible: many variances of its depthwise convolutions are about
# 0.01.
EPSILON = 1e-3


def MobileNetV1(width=32, input_shape=(112, 112, 3), stages=STAGES, synchronized=False, name="mobilenetv1"):
    """Builds a MobileNetV1 for small aligned faces, from depthwise separable convolutions with PReLU.

    It is the network of SFace. A 3 x 3 convolution is followed by 13 blocks of a depthwise and a pointwise convolution.
    Unlike the MobileNetV1 for 224 x 224 images, the first convolution has no stride, and PReLU replaces ReLU. The
    backbone has 3.2 million parameters. With the neck of `make_embedder(backbone, dim=128)`, two thirds of all
    parameters are in the dense layer after the 7 x 7 feature map.

    Args:
        width: number of channels of the first convolution, 32 in the paper. The other layers have 2 to 32 times as
            many.
        input_shape: shape of an image, `(height, width, 3)`.
        stages: for each stage, the channels of its blocks, in multiples of the width. The default has 13 blocks. Each
            stage after the first halves the resolution.
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only).
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 1024)`.

    Raises:
        ValueError: if an argument is out of its range, or `input_shape` does not have three entries.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = MobileNetV1(width=8, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 256)
        >>> embedder = make_embedder(backbone, dim=64)

        The network of SFace with narrower last stages:

        >>> backbone = MobileNetV1(stages=((2,), (4, 4), (8, 8), (12,) * 6, (16, 16, 2)))
        >>> backbone.output_shape
        (None, 7, 7, 64)

    References:
        - [MobileNets](https://arxiv.org/abs/1704.04861)
        - [SFace](https://doi.org/10.1109/TIP.2020.3048632)
    """
    images = keras.Input(input_shape, name="images")
    x = _activated(conv(images, width, 3, name="stem_conv"), synchronized, "stem")
    for stage, multiples in enumerate(stages, 1):
        for block, multiple in enumerate(multiples, 1):
            block_name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            x = depthwise_conv(x, 3, strides, name=f"{block_name}_depthwise")
            x = _activated(x, synchronized, f"{block_name}_depthwise")
            x = conv(x, multiple * width, 1, name=f"{block_name}_pointwise")
            x = _activated(x, synchronized, f"{block_name}_pointwise")
    return keras.Model(images, x, name=name)


def _activated(x, synchronized, name):
    return prelu(batch_norm(x, synchronized, epsilon=EPSILON, name=f"{name}_bn"), name=f"{name}_prelu")
