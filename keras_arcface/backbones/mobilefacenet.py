"""MobileFaceNet: the small network of the ArcFace papers, for phones and CPUs."""

from typing import NamedTuple

import keras
from keras import layers

from keras_arcface.backbones.building_blocks import batch_norm
from keras_arcface.backbones.building_blocks import conv
from keras_arcface.backbones.building_blocks import depthwise_conv
from keras_arcface.backbones.building_blocks import prelu


class _Stage(NamedTuple):
    channels: int  # at width 64
    expanded: int  # channels inside a bottleneck, at any width
    strides: int


# Stages that halve the resolution have one block, the others as many as `blocks` says.
_STAGES = (
    _Stage(channels=64, expanded=128, strides=2),
    _Stage(channels=64, expanded=128, strides=1),
    _Stage(channels=128, expanded=256, strides=2),
    _Stage(channels=128, expanded=256, strides=1),
    _Stage(channels=128, expanded=512, strides=2),
    _Stage(channels=128, expanded=256, strides=1),
)


def MobileFaceNet(
    width=64,
    input_shape=(112, 112, 3),
    synchronized=False,
    name="mobilefacenet",
    blocks=(1, 4, 6, 2),
    stem_groups=None,
):
    """Builds MobileFaceNet: inverted residual bottlenecks with PReLU, and a global depthwise convolution.

    A depthwise convolution over the whole last map weighs each place of a face by itself, where average pooling would
    treat them alike. Its BatchNorm is the first of the neck that `make_embedder` adds.

    Args:
        width: channels of the first stages; 64 in the paper.
        input_shape: `(height, width, 3)`.
        synchronized: whether BatchNorm normalizes by the statistics of the whole batch instead of each replica's share
            (TensorFlow backend only).
        name: name of the model.
        blocks: number of blocks at each of the four resolutions, those that halve it not counted. 1 at the first means
            the paper's single convolution; more are bottlenecks in its place.
        stem_groups: groups of that single convolution; None for as many as it has channels, which makes it depthwise
            as in the paper. InsightFace's networks have 64 at every width.

    Returns:
        A functional `keras.Model`, images in [-1, 1] `(batch, 112, 112, 3)` -> feature map `(batch, 1, 1, 512)`.

    References:
        - [MobileFaceNets](https://arxiv.org/abs/1804.07573)
    """
    images = keras.Input(input_shape, name="images")
    x = conv(images, width, 3, strides=2, name="stem_conv")
    x = batch_norm(x, synchronized, name="stem_bn")
    x = prelu(x, name="stem_prelu")
    if blocks[0] == 1:
        if stem_groups in (None, width):
            x = depthwise_conv(x, 3, name="stem_depthwise")
        else:
            x = conv(x, width, 3, groups=stem_groups, name="stem_grouped")
        x = batch_norm(x, synchronized, name="stem_depthwise_bn")
        x = prelu(x, name="stem_depthwise_prelu")
    else:
        for block in range(blocks[0]):
            x = _bottleneck(x, width, expanded=128, strides=1, synchronized=synchronized, name=f"stem_block{block + 1}")
    for number, stage in enumerate(_STAGES, 1):
        for block in range(1 if stage.strides > 1 else blocks[number // 2]):
            x = _bottleneck(
                x,
                channels=stage.channels * width // 64,
                expanded=stage.expanded,
                strides=stage.strides,
                synchronized=synchronized,
                name=f"stage{number}_block{block + 1}",
            )
    x = conv(x, 512, 1, name="last_conv")
    x = batch_norm(x, synchronized, name="last_bn")
    x = prelu(x, name="last_prelu")
    x = depthwise_conv(x, tuple(x.shape[1:3]), padding="valid", name="global_depthwise")
    return keras.Model(images, x, name=name)


def _bottleneck(x, channels, expanded, strides, synchronized, name):
    shortcut = x
    x = conv(x, expanded, 1, name=f"{name}_expand")
    x = batch_norm(x, synchronized, name=f"{name}_expand_bn")
    x = prelu(x, name=f"{name}_expand_prelu")
    x = depthwise_conv(x, 3, strides, name=f"{name}_depthwise")
    x = batch_norm(x, synchronized, name=f"{name}_depthwise_bn")
    x = prelu(x, name=f"{name}_depthwise_prelu")
    x = conv(x, channels, 1, name=f"{name}_project")
    x = batch_norm(x, synchronized, name=f"{name}_project_bn")
    return layers.Add(name=f"{name}_add")([shortcut, x]) if strides == 1 else x
