"""EdgeFace, small networks of convolutions and attention over channels."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_arcface.backbones.building_blocks import layer_scale

# Number of sine and cosine features of each axis.
POSITION_FEATURES = 32


class _Stage(NamedTuple):
    """Configuration of a stage.

    Attributes:
        convolutions: number of convolution blocks, in front of the attention block.
        kernel: size of the depthwise kernels of the convolution blocks.
        parts: number of parts of the channels in the attention block, or 0 for a stage without one.
        has_positions: whether the attention block adds an encoding of the positions.
    """

    convolutions: int
    kernel: int
    parts: int
    has_positions: bool = False


STAGES = (
    _Stage(convolutions=3, kernel=3, parts=0),
    _Stage(convolutions=2, kernel=5, parts=2, has_positions=True),
    _Stage(convolutions=8, kernel=7, parts=3),
    _Stage(convolutions=2, kernel=9, parts=4),
)


def EdgeFace(channels, heads, rank_ratio=None, dim=512, input_shape=(112, 112, 3), name="edgeface"):
    """Builds an EdgeFace, an EdgeNeXt whose dense layers are products of two smaller ones.

    A 4 x 4 convolution with strides 4 is followed by four stages, of which all but the first halve the resolution.
    Convolution blocks are those of ConvNeXt. The last block of a stage attends over the channels instead of the
    positions, which needs less computation.

    The output is the first factor of the last dense layer, after a global average. The published networks continue
    with its second factor, `make_embedder(backbone, neck="linear")`.

    Args:
        channels: number of channels of each stage, such as `(32, 64, 100, 192)`.
        heads: number of attention heads, of which the channels of all stages but the first must be a multiple.
        rank_ratio: rank of a dense layer divided by the smaller number of its inputs and outputs, in (0, 1]. None
            selects dense layers without factors, as in EdgeNeXt; then the output is the global average.
        dim: dimension of the embeddings. It is only used for the rank of the last dense layer.
        input_shape: shape of an image, `(height, width, 3)`.
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map `(batch, 1, 1,
        rank)`.

    Raises:
        ValueError: if an argument is out of its range, `channels` does not have four entries, or `input_shape` does not
            have three.

    Examples:
        A small network for 32 x 32 images:

        >>> backbone = EdgeFace((8, 16, 24, 32), heads=4, rank_ratio=0.5, input_shape=(32, 32, 3))
        >>> backbone.output_shape
        (None, 1, 1, 16)
        >>> embedder = make_embedder(backbone, dim=64, neck="linear")

    References:
        - [EdgeFace](https://arxiv.org/abs/2307.01838)
        - [EdgeNeXt](https://arxiv.org/abs/2206.10589)
    """
    if len(channels) != len(STAGES):
        raise ValueError(f"channels must be four integers, one for each stage. Received: channels={channels}")
    if rank_ratio is not None and not 0 < rank_ratio <= 1:
        raise ValueError(f"rank_ratio must be in (0, 1] or None. Received: rank_ratio={rank_ratio}")
    if any(number % heads for number in channels[1:]):
        raise ValueError(
            f"channels after the first stage must be multiples of heads={heads}. Received: channels={channels}"
        )
    images = keras.Input(input_shape, name="images")
    x = _norm(_patch_conv(images, channels[0], 4, name="stem_conv"), name="stem_norm")
    for number, (stage, count) in enumerate(zip(STAGES, channels, strict=True), 1):
        if number > 1:
            x = _norm(x, name=f"stage{number}_downsample_norm")
            x = _patch_conv(x, count, 2, name=f"stage{number}_downsample_conv")
        for block in range(1, stage.convolutions + 1):
            x = _convolution_block(x, stage.kernel, rank_ratio, name=f"stage{number}_block{block}")
        if stage.parts:
            x = _attention_block(x, stage, heads, rank_ratio, name=f"stage{number}_block{stage.convolutions + 1}")
    x = layers.GlobalAveragePooling2D(keepdims=True, name="last_pool")(x)
    x = _norm(x, name="last_norm")
    if rank_ratio is not None:
        last_rank = rank(channels[-1], dim, rank_ratio)
        x = layers.Dense(last_rank, use_bias=False, kernel_initializer=_initializer(), name="last_dense_linear1")(x)
    return keras.Model(images, x, name=name)


def EdgeFaceXS(**kwargs):
    """Builds an `EdgeFace` of size XS with a rank ratio of 0.6.

    With an embedding of 512 dimensions, it has 1.77 million parameters and needs 77 million multiply-adds, which
    the paper counts as 154 million FLOPs.

    Args:
        **kwargs: arguments of `EdgeFace` except `channels` and `heads`: `rank_ratio`, `dim`, `input_shape` and `name`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 115)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> backbone = EdgeFaceXS()
        >>> backbone.output_shape
        (None, 1, 1, 115)
        >>> embedder = make_embedder(backbone, neck="linear")
        >>> print(f"{embedder.count_params():,}")
        1,770,492
    """
    return EdgeFace((32, 64, 100, 192), heads=4, **{"rank_ratio": 0.6, "name": "edgefacexs", **kwargs})


def EdgeFaceS(**kwargs):
    """Builds an `EdgeFace` of size S with a rank ratio of 0.5.

    With an embedding of 512 dimensions, it has 3.65 million parameters and needs 153 million multiply-adds, which
    the paper counts as 306 million FLOPs.

    Args:
        **kwargs: arguments of `EdgeFace` except `channels` and `heads`: `rank_ratio`, `dim`, `input_shape` and `name`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 152)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> backbone = EdgeFaceS()
        >>> backbone.output_shape
        (None, 1, 1, 152)
        >>> embedder = make_embedder(backbone, neck="linear")
    """
    return EdgeFace((48, 96, 160, 304), heads=8, **{"rank_ratio": 0.5, "name": "edgefaces", **kwargs})


def _convolution_block(x, kernel, rank_ratio, name):
    shortcut = x
    x = _depthwise_conv(x, kernel, name=f"{name}_depthwise")
    x = _mlp(_norm(x, name=f"{name}_norm"), rank_ratio, name)
    return layers.Add(name=f"{name}_add")([shortcut, x])


def _attention_block(x, stage, heads, rank_ratio, name):
    shortcut = x
    x = _cascade(x, stage.parts, name)
    if stage.has_positions:
        x = layers.Add(name=f"{name}_position_add")([x, _positions(x, name)])
    attended = _norm(x, name=f"{name}_attention_norm")
    attended = _channel_attention(attended, heads, rank_ratio, name=f"{name}_attention")
    attended = layer_scale(attended, name=f"{name}_attention_scale")
    x = layers.Add(name=f"{name}_attention_add")([x, attended])
    x = _mlp(_norm(x, name=f"{name}_norm"), rank_ratio, name)
    return layers.Add(name=f"{name}_add")([shortcut, x])


def _mlp(x, rank_ratio, name):
    channels = x.shape[-1]
    x = _dense(x, 4 * channels, rank_ratio, name=f"{name}_fc1")
    # Not layers.Activation("gelu"), whose operation of TensorFlow (Erfc) cannot be converted to ONNX.
    x = 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))
    x = _dense(x, channels, rank_ratio, name=f"{name}_fc2")
    return layer_scale(x, name=f"{name}_scale")


def _cascade(x, parts, name):
    """Convolves all parts of the channels but the last; each but the first together with the result before it."""
    size = -(-x.shape[-1] // parts)
    first, *inner, last = ops.split(x, list(range(size, x.shape[-1], size)), axis=-1)
    convolved = [_depthwise_conv(first, 3, name=f"{name}_depthwise1")]
    for number, part in enumerate(inner, 2):
        part = layers.Add(name=f"{name}_depthwise{number}_add")([convolved[-1], part])
        convolved.append(_depthwise_conv(part, 3, name=f"{name}_depthwise{number}"))
    return layers.Concatenate(name=f"{name}_concat")([*convolved, last])


def _positions(x, name):
    """Returns an encoding of the positions `(batch, rows, columns, channels)`."""
    rows, columns, channels = x.shape[1:]
    zeros = ops.zeros_like(x[..., :1])
    encoded = [
        ops.add(zeros, _sines_and_cosines(rows)[:, np.newaxis]),
        ops.add(zeros, _sines_and_cosines(columns)),
    ]
    x = layers.Concatenate(name=f"{name}_position_concat")(encoded)
    return layers.Dense(channels, kernel_initializer=_initializer(), name=f"{name}_position")(x)


def _sines_and_cosines(count):
    """Returns features `(count, features)` of evenly spaced positions on the circle."""
    angles = np.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi
    angles = angles[:, np.newaxis] / 10000 ** (np.arange(0, POSITION_FEATURES, 2) / POSITION_FEATURES)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, -1).astype(np.float32)


def _channel_attention(x, heads, rank_ratio, name):
    """Computes attention between the channels of each head (cross-covariance attention)."""
    rows, columns, channels = x.shape[1:]
    size = channels // heads
    x = _dense(x, 3 * channels, rank_ratio, name=f"{name}_qkv")
    x = layers.Reshape((rows * columns, 3, heads, size), name=f"{name}_reshape")(x)
    query, key, value = ops.unstack(ops.transpose(x, (0, 2, 3, 4, 1)), axis=1)  # (batch, heads, size, positions)
    # In float32, because a sum of squares over all positions can exceed the range of float16.
    query = layers.UnitNormalization(dtype="float32", name=f"{name}_query_norm")(query)
    key = layers.UnitNormalization(dtype="float32", name=f"{name}_key_norm")(key)
    cosines = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    temperature = layers.EinsumDense(
        "bhij,h->bhij",
        (heads, size, size),
        kernel_initializer="ones",
        dtype="float32",
        name=f"{name}_temperature",
    )
    weights = layers.Softmax(dtype="float32", name=f"{name}_softmax")(temperature(cosines))
    x = ops.matmul(ops.cast(weights, value.dtype), value)
    x = layers.Reshape((rows, columns, channels), name=f"{name}_output")(ops.transpose(x, (0, 3, 1, 2)))
    return _dense(x, channels, rank_ratio, name=f"{name}_proj")


def _dense(x, units, rank_ratio, name):
    """Applies a dense layer, or its two factors."""
    if rank_ratio is not None:
        inner = rank(x.shape[-1], units, rank_ratio)
        x = layers.Dense(inner, use_bias=False, kernel_initializer=_initializer(), name=f"{name}_linear1")(x)
        name = f"{name}_linear2"
    return layers.Dense(units, kernel_initializer=_initializer(), name=name)(x)


def rank(inputs, outputs, rank_ratio):
    """Returns the rank of a dense layer."""
    return max(2, int(min(inputs, outputs) * rank_ratio))


def _norm(x, name):
    return layers.LayerNormalization(epsilon=1e-6, name=name)(x)


def _patch_conv(x, filters, size, name):
    return layers.Conv2D(filters, size, strides=size, kernel_initializer=_initializer(), name=name)(x)


def _depthwise_conv(x, kernel, name):
    initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    return layers.DepthwiseConv2D(kernel, padding="same", depthwise_initializer=initializer, name=name)(x)


def _initializer():
    # It preserves the variance. A smaller one would shrink the output of a dense layer with two factors twice.
    return keras.initializers.LecunNormal()
