"""MobileFaceNet, a small face recognition network for phones and CPUs."""

from typing import NamedTuple

import keras
from keras import layers

from keras_arcface.backbones.building_blocks import batch_norm
from keras_arcface.backbones.building_blocks import conv
from keras_arcface.backbones.building_blocks import depthwise_conv
from keras_arcface.backbones.building_blocks import prelu


class _Stage(NamedTuple):
    """Configuration of a stage of bottlenecks.

    Attributes:
        channels: number of output channels at width 64.
        expanded: number of channels inside a bottleneck, independent of the width.
        strides: strides of the depthwise convolution.
    """

    channels: int
    expanded: int
    strides: int


# Stages with strides 2 have one block. The argument `blocks` sets the number of blocks of the other stages.
STAGES = (
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
    """Builds a MobileFaceNet from inverted residual bottlenecks with PReLU and a global depthwise convolution.

    It has 1 million parameters, and is meant for phones and CPUs. The depthwise convolution over the whole last
    feature map learns a weight for each position of a face, unlike average pooling. Its BatchNorm is the first layer of
    the neck that `make_embedder` adds.

    Args:
        width: number of channels of the first stages, 64 in the paper.
        input_shape: shape of an image, `(height, width, 3)`.
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only).
        name: name of the model.
        blocks: number of blocks at each of the four resolutions, without the blocks that halve the resolution. At the
            first resolution, 1 selects the single convolution of the paper, and N > 1 selects N bottlenecks.
        stem_groups: number of groups of the single convolution at the first resolution. None makes it depthwise, as in
            the paper. The networks of InsightFace have 64 groups at every width.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 512)`.

    Raises:
        ValueError: if an argument is out of its range, `blocks` does not have four entries, or `input_shape` does not
            have three.

    Examples:
        >>> backbone = MobileFaceNet()
        >>> backbone.output_shape
        (None, 1, 1, 512)
        >>> print(f"{backbone.count_params():,}")
        954,624
        >>> embedder = make_embedder(backbone, dim=128)

    References:
        - [MobileFaceNets](https://arxiv.org/abs/1804.07573)
    """
    if len(blocks) != 4:
        raise ValueError(f"blocks must be four integers, one for each resolution. Received: blocks={blocks}")
    images = keras.Input(input_shape, name="images")
    x = _stem(images, width, blocks[0], stem_groups, synchronized)
    for number, stage in enumerate(STAGES, 1):
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


def _stem(images, width, blocks, groups, synchronized):
    x = conv(images, width, 3, strides=2, name="stem_conv")
    x = batch_norm(x, synchronized, name="stem_bn")
    x = prelu(x, name="stem_prelu")
    if blocks > 1:
        for block in range(blocks):
            x = _bottleneck(x, width, expanded=128, strides=1, synchronized=synchronized, name=f"stem_block{block + 1}")
        return x
    if groups in (None, width):
        x = depthwise_conv(x, 3, name="stem_depthwise")
    else:
        x = conv(x, width, 3, groups=groups, name="stem_grouped")
    x = batch_norm(x, synchronized, name="stem_depthwise_bn")
    return prelu(x, name="stem_depthwise_prelu")


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
