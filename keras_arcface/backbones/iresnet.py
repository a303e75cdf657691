"""Residual networks of the ArcFace paper."""

import keras
from keras import layers

from keras_arcface.backbones.building_blocks import batch_norm
from keras_arcface.backbones.building_blocks import conv
from keras_arcface.backbones.building_blocks import prelu

# Numbers of residual blocks in the four stages, for each number of layers.
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


def IResNet(
    blocks,
    width=64,
    input_shape=(112, 112, 3),
    stem_strides=1,
    synchronized=False,
    name="iresnet",
    pooled_shortcut=False,
):
    """Builds an IResNet, a residual network for small aligned faces with a stem of full resolution.

    It is the backbone of the ArcFace paper and of many published models. A 3 x 3 convolution without
    stride is followed by stages of residual blocks BN - conv - BN - PReLU - conv - BN. Each stage halves the resolution
    and doubles the channels.

    Args:
        blocks: number of blocks in each stage, such as `(3, 4, 14, 3)` for `IResNet50`.
        width: number of channels of the first stage, 64 in the papers.
        input_shape: shape of an image, `(height, width, 3)`.
        stem_strides: strides of the first convolution, 1 in the papers. With 2, all later layers need a quarter of the
            computation.
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only).
        name: name of the model.
        pooled_shortcut: if true, the shortcut of the first block takes every second pixel of its input, as in the
            networks of AdaFace and CVLface, instead of a convolution. Its number of channels does not change.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range, or `input_shape` does not have three entries.

    Examples:
        A small network for 32 x 32 images:

        >>> backbone = IResNet((1, 1, 1, 1), width=16, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 128)
        >>> embedder = make_embedder(backbone, dim=64)

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
        - [Improved Residual Networks](https://arxiv.org/abs/2004.04989)
    """
    images = keras.Input(input_shape, name="images")
    x = conv(images, width, 3, stem_strides, name="stem_conv")
    x = batch_norm(x, synchronized, name="stem_bn")
    x = prelu(x, name="stem_prelu")
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _block(
                x,
                filters=width * 2**stage,
                strides=2 if block == 0 else 1,
                synchronized=synchronized,
                name=f"stage{stage + 1}_block{block + 1}",
                pooled_shortcut=pooled_shortcut and stage == 0,
            )
    return keras.Model(images, x, name=name)


def _block(x, filters, strides, synchronized, name, pooled_shortcut):
    shortcut = x
    if strides > 1 and pooled_shortcut:
        shortcut = layers.AveragePooling2D(1, strides, name=f"{name}_shortcut_pool")(x)
    elif strides > 1:
        shortcut = conv(x, filters, 1, strides, name=f"{name}_shortcut_conv")
        shortcut = batch_norm(shortcut, synchronized, name=f"{name}_shortcut_bn")
    x = batch_norm(x, synchronized, name=f"{name}_bn1")
    x = conv(x, filters, 3, name=f"{name}_conv1")
    x = batch_norm(x, synchronized, name=f"{name}_bn2")
    x = prelu(x, name=f"{name}_prelu")
    x = conv(x, filters, 3, strides, name=f"{name}_conv2")
    x = batch_norm(x, synchronized, name=f"{name}_bn3")
    return layers.Add(name=f"{name}_add")([x, shortcut])


def IResNet18(**kwargs):
    """Builds an `IResNet` with 18 layers and 11.2 million parameters.

    Args:
        **kwargs: arguments of `IResNet` except `blocks`: `width`, `input_shape`, `stem_strides`, `synchronized`,
            `name` and `pooled_shortcut`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = IResNet18(width=8, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 64)
        >>> embedder = make_embedder(backbone, dim=64)
    """
    return IResNet(_BLOCKS[18], **{"name": "iresnet18", **kwargs})


def IResNet34(**kwargs):
    """Builds an `IResNet` with 34 layers and 21.3 million parameters.

    Args:
        **kwargs: arguments of `IResNet` except `blocks`: `width`, `input_shape`, `stem_strides`, `synchronized`,
            `name` and `pooled_shortcut`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = IResNet34(width=8, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 64)
        >>> embedder = make_embedder(backbone, dim=64)
    """
    return IResNet(_BLOCKS[34], **{"name": "iresnet34", **kwargs})


def IResNet50(**kwargs):
    """Builds an `IResNet` with 50 layers and 30.8 million parameters.

    Args:
        **kwargs: arguments of `IResNet` except `blocks`: `width`, `input_shape`, `stem_strides`, `synchronized`,
            `name` and `pooled_shortcut`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = IResNet50(width=8, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 64)
        >>> embedder = make_embedder(backbone, dim=64)
    """
    return IResNet(_BLOCKS[50], **{"name": "iresnet50", **kwargs})


def IResNet100(**kwargs):
    """Builds an `IResNet` with 100 layers and 52.4 million parameters.

    Args:
        **kwargs: arguments of `IResNet` except `blocks`: `width`, `input_shape`, `stem_strides`, `synchronized`,
            `name` and `pooled_shortcut`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        A narrow network for 32 x 32 images:

        >>> backbone = IResNet100(width=8, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 2, 2, 64)
        >>> embedder = make_embedder(backbone, dim=64)
    """
    return IResNet(_BLOCKS[100], **{"name": "iresnet100", **kwargs})


def IResNet200(**kwargs):
    """Builds an `IResNet` with 200 layers and 106.1 million parameters.

    Args:
        **kwargs: arguments of `IResNet` except `blocks`: `width`, `input_shape`, `stem_strides`, `synchronized`,
            `name` and `pooled_shortcut`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 7, 7, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        This takes some seconds:

            embedder = make_embedder(IResNet200(), dim=512)
    """
    return IResNet(_BLOCKS[200], **{"name": "iresnet200", **kwargs})
