"""GhostFaceNets, small face recognition networks that compute half of their channels from the other half."""

from typing import NamedTuple

import keras
from keras import layers
from keras import ops

from keras_arcface.backbones.building_blocks import batch_norm
from keras_arcface.backbones.building_blocks import conv
from keras_arcface.backbones.building_blocks import depthwise_conv
from keras_arcface.backbones.building_blocks import prelu


class _Block(NamedTuple):
    """Configuration of a bottleneck.

    Attributes:
        kernel: size of the kernels of the strided and the shortcut's depthwise convolution.
        expanded: number of channels inside the bottleneck, at width 1.
        channels: number of output channels, at width 1.
        excited: whether squeeze-and-excitation weights the channels.
    """

    kernel: int
    expanded: int
    channels: int
    excited: bool = False


# All stages after the first halve the resolution in their first block.
_STAGES = (
    (_Block(3, 16, 16),),
    (_Block(3, 48, 24), _Block(3, 72, 24)),
    (_Block(5, 72, 40, excited=True), _Block(5, 120, 40, excited=True)),
    (
        _Block(3, 240, 80),
        _Block(3, 200, 80),
        _Block(3, 184, 80),
        _Block(3, 184, 80),
        _Block(3, 480, 112, excited=True),
        _Block(3, 672, 112, excited=True),
    ),
    (
        _Block(5, 672, 160, excited=True),
        _Block(5, 960, 160),
        _Block(5, 960, 160, excited=True),
        _Block(5, 960, 160),
        _Block(5, 960, 160, excited=True),
    ),
)


class _Version(NamedTuple):
    """Differences between the versions.

    Attributes:
        last_expanded: number of channels inside the last bottleneck and of the last convolution, at width 1.
        first_gated_block: number of the first block with gates, or None.
        padding: padding of the strided convolutions.
    """

    last_expanded: int
    first_gated_block: int | None
    padding: str


_V1 = _Version(last_expanded=512, first_gated_block=None, padding="tensorflow")
_V2 = _Version(last_expanded=960, first_gated_block=3, padding="same")


def GhostFaceNetV1(width=1.3, input_shape=(112, 112, 3), stem_strides=1, synchronized=False, name="ghostfacenetv1"):
    """Builds a GhostFaceNetV1, a GhostNet with PReLU and a global depthwise convolution.

    A ghost module computes half of its channels by a 1 x 1 convolution, and the other half from these by a cheap
    depthwise convolution. The names of the published models contain the width and the strides of the stem. With an
    embedding of 512 dimensions, GhostFaceNetV1-1.3-1 has 4.09 million parameters and needs 212 million multiply-adds,
    and GhostFaceNetV1-1.3-2 has 4.07 million parameters and needs 59 million multiply-adds.

    The BatchNorm after the global depthwise convolution is the first layer of the neck that `make_embedder` adds.

    Args:
        width: factor of the numbers of channels, 1.3 in the largest published networks.
        input_shape: shape of an image, `(height, width, 3)`.
        stem_strides: strides of the first convolution, 1 or 2 in the paper. With 2, all later layers need a quarter of
            the computation.
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only).
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 664)`.

    Raises:
        ValueError: if an argument is out of its range, or `input_shape` does not have three entries.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = GhostFaceNetV1(width=0.25, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 1, 1, 128)
        >>> embedder = make_embedder(backbone, dim=64)

    References:
        - [GhostFaceNets](https://doi.org/10.1109/ACCESS.2023.3266068)
        - [GhostNet](https://arxiv.org/abs/1911.11907)
    """
    return _ghostfacenet(_V1, width, input_shape, stem_strides, synchronized, name)


def GhostFaceNetV2(width=1.3, input_shape=(112, 112, 3), stem_strides=1, synchronized=False, name="ghostfacenetv2"):
    """Builds a GhostFaceNetV2, a GhostNetV2 with PReLU and a global depthwise convolution.

    It extends `GhostFaceNetV1` by gates: a long horizontal and a long vertical convolution at half of the resolution
    compute a weight for each channel and position. With an embedding of 512 dimensions, GhostFaceNetV2-1.3-1 has 6.88
    million parameters and needs 267 million multiply-adds, and GhostFaceNetV2-1.3-2 has 6.84 million parameters and
    needs 75 million multiply-adds.

    Args:
        width: factor of the numbers of channels, 1.3 in the largest published networks.
        input_shape: shape of an image, `(height, width, 3)`.
        stem_strides: strides of the first convolution, 1 or 2 in the paper. With 2, all later layers need a quarter of
            the computation.
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only).
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 1248)`.

    Raises:
        ValueError: if an argument is out of its range, `input_shape` does not have three entries, or its images are
            smaller than 32 x 32 times the strides of the stem.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = GhostFaceNetV2(width=0.25, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 1, 1, 240)
        >>> embedder = make_embedder(backbone, dim=64)

    References:
        - [GhostFaceNets](https://doi.org/10.1109/ACCESS.2023.3266068)
        - [GhostNetV2](https://arxiv.org/abs/2211.12905)
    """
    return _ghostfacenet(_V2, width, input_shape, stem_strides, synchronized, name)


def _ghostfacenet(version, width, input_shape, stem_strides, synchronized, name):
    images = keras.Input(input_shape, name="images")
    x = conv(images, _scaled(16, width), 3, stem_strides, padding=version.padding, name="stem_conv")
    x = prelu(batch_norm(x, synchronized, name="stem_bn"), name="stem_prelu")
    number = 0
    for stage, blocks in enumerate(_STAGES, 1):
        for position, block in enumerate(blocks, 1):
            number += 1
            is_last = stage == len(_STAGES) and position == len(blocks)
            x = _bottleneck(
                x,
                channels=_scaled(block.channels, width),
                expanded=_scaled(version.last_expanded if is_last else block.expanded, width),
                kernel=block.kernel,
                strides=2 if stage > 1 and position == 1 else 1,
                padding=version.padding,
                excited=block.excited,
                gated=version.first_gated_block is not None and number >= version.first_gated_block,
                synchronized=synchronized,
                name=f"stage{stage}_block{position}",
            )
    x = conv(x, _scaled(version.last_expanded, width), 1, name="last_conv")
    x = prelu(batch_norm(x, synchronized, name="last_bn"), name="last_prelu")
    x = depthwise_conv(x, tuple(x.shape[1:3]), padding="valid", name="global_depthwise")
    return keras.Model(images, x, name=name)


def _bottleneck(x, channels, expanded, kernel, strides, padding, excited, gated, synchronized, name):
    shortcut, inputs = x, x
    if strides > 1 or x.shape[-1] != channels:
        shortcut = depthwise_conv(x, kernel, strides, padding, name=f"{name}_shortcut_depthwise")
        shortcut = batch_norm(shortcut, synchronized, name=f"{name}_shortcut_depthwise_bn")
        shortcut = conv(shortcut, channels, 1, name=f"{name}_shortcut_pointwise")
        shortcut = batch_norm(shortcut, synchronized, name=f"{name}_shortcut_pointwise_bn")
    x = _ghost_module(x, expanded, True, synchronized, name=f"{name}_ghost1")
    if gated:
        x = layers.Multiply(name=f"{name}_gate")([x, _gate(inputs, expanded, synchronized, name=f"{name}_gate")])
    if strides > 1:
        x = depthwise_conv(x, kernel, strides, padding, name=f"{name}_depthwise")
        x = batch_norm(x, synchronized, name=f"{name}_depthwise_bn")
    if excited:
        x = layers.Multiply(name=f"{name}_excite")([x, _excitation(x, name=f"{name}_excite")])
    x = _ghost_module(x, channels, False, synchronized, name=f"{name}_ghost2")
    return layers.Add(name=f"{name}_add")([shortcut, x])


def _ghost_module(x, channels, activated, synchronized, name):
    x = conv(x, channels // 2, 1, name=f"{name}_primary")
    x = batch_norm(x, synchronized, name=f"{name}_primary_bn")
    if activated:
        x = prelu(x, name=f"{name}_primary_prelu")
    ghosts = depthwise_conv(x, 3, name=f"{name}_cheap")
    ghosts = batch_norm(ghosts, synchronized, name=f"{name}_cheap_bn")
    if activated:
        ghosts = prelu(ghosts, name=f"{name}_cheap_prelu")
    return layers.Concatenate(name=f"{name}_concat")([x, ghosts])


def _gate(x, channels, synchronized, name):
    """Returns weights of all channels and positions (DFC attention)."""
    rows, columns = x.shape[1:3]
    x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    x = conv(x, channels, 1, name=f"{name}_conv")
    x = batch_norm(x, synchronized, name=f"{name}_bn")
    x = depthwise_conv(x, (1, 5), name=f"{name}_horizontal")
    x = batch_norm(x, synchronized, name=f"{name}_horizontal_bn")
    x = depthwise_conv(x, (5, 1), name=f"{name}_vertical")
    x = batch_norm(x, synchronized, name=f"{name}_vertical_bn")
    x = layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)
    # Not layers.Resizing: its default training=True makes all later layers of a model run in training mode.
    return ops.image.resize(x, (rows, columns), interpolation="bilinear")


def _excitation(x, name):
    """Returns weights of all channels (squeeze-and-excitation)."""
    channels = x.shape[-1]
    x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    x = layers.Conv2D(_scaled(channels, 0.25), 1, name=f"{name}_reduce")(x)
    x = layers.Conv2D(channels, 1, name=f"{name}_expand")(prelu(x, name=f"{name}_prelu"))
    return layers.Activation("hard_sigmoid", name=f"{name}_sigmoid")(x)


def _scaled(channels, width):
    """Returns the multiple of 4 that is closest to a scaled number of channels, and not below 90% of it."""
    scaled = max(4, int(channels * width + 2) // 4 * 4)
    return scaled if scaled >= 0.9 * channels * width else scaled + 4
