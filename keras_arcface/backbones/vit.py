"""Vision transformers for faces."""

import keras
from keras import layers
from keras import ops

# Channels and numbers of blocks.
_SIZES = {"tiny": (256, 12), "small": (512, 12), "base": (512, 24)}


def ViT(channels, blocks, heads=8, patch_size=9, mlp_ratio=4, drop_path=0.1, input_shape=(112, 112, 3), name="vit"):
    """Builds a vision transformer without class token, as in InsightFace's arcface_torch.

    Patches are the tokens of blocks of attention and a multilayer perceptron with ReLU6, each after a LayerNorm. The
    last dense layer combines all tokens, so that the network learns weights for each position of a face. Rows and
    columns at the end of an image that are left over by the patches are ignored.

    The published recipe masks 10% of the tokens in training, which needs a custom layer; this network does not. Others
    of arcface_torch are trained without masks, with `drop_path=0.05`.

    Args:
        channels: number of channels of a token, a multiple of `heads`.
        blocks: number of blocks.
        heads: number of attention heads.
        patch_size: height and width of a patch.
        mlp_ratio: number of hidden units of a multilayer perceptron, divided by `channels`.
        drop_path: probability in [0, 1) that an image skips a branch of the last block in training (stochastic depth).
            It increases linearly from 0 in the first block.
        input_shape: shape of an image, `(height, width, 3)`.
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map `(batch, 1, 1,
        channels)`.

    Raises:
        ValueError: if an argument is out of its range, or `input_shape` does not have three entries.

    Examples:
        A small network for 36 x 36 images:

        >>> backbone = ViT(channels=32, blocks=2, heads=4, input_shape=(36, 36, 3))
        >>> backbone.output_shape
        (None, 1, 1, 32)
        >>> embedder = make_embedder(backbone, dim=64, dropout=0.0)

    References:
        - [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929)
        - [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382)
        - [arcface_torch](https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch)
    """
    if channels % heads:
        raise ValueError(f"channels must be a multiple of heads={heads}. Received: channels={channels}")
    if min(input_shape[:2]) < patch_size:
        raise ValueError(
            f"input_shape must have at least patch_size={patch_size} rows and columns. "
            f"Received: input_shape={input_shape}"
        )
    images = keras.Input(input_shape, name="images")
    x = _tokens(images, channels, patch_size)
    for block in range(blocks):
        rate = drop_path * block / max(blocks - 1, 1)
        x = _block(x, heads, mlp_ratio, rate, name=f"block{block + 1}")
    x = _norm(x, name="last_norm")
    # The published networks continue with BatchNorm, a dense layer and BatchNorm, the neck of `make_embedder`. Their
    # BatchNorm has an epsilon of 2e-5 instead of 1e-5.
    x = layers.Reshape((1, 1, x.shape[1] * channels), name="last_reshape")(x)
    x = layers.Dense(channels, use_bias=False, kernel_initializer=_initializer(), name="last_dense")(x)
    return keras.Model(images, x, name=name)


def _tokens(images, channels, size):
    """Returns the tokens `(batch, rows * columns, channels)` of all patches."""
    height, width, depth = images.shape[1:]
    rows, columns = height // size, width // size
    x = images
    if (height % size, width % size) != (0, 0):
        x = layers.Cropping2D(((0, height % size), (0, width % size)), name="stem_crop")(x)
    x = layers.Reshape((rows, size, columns, size * depth), name="stem_rows")(x)
    x = layers.Permute((1, 3, 2, 4), name="stem_permute")(x)
    x = layers.Reshape((rows * columns, size * size * depth), name="stem_reshape")(x)
    # A convolution with strides, whose bias also contains the position embedding.
    return layers.EinsumDense(
        "bnp,pc->bnc",
        (rows * columns, channels),
        bias_axes="nc",
        kernel_initializer=_initializer(),
        bias_initializer=_initializer(),
        name="stem_patches",
    )(x)


def _block(x, heads, mlp_ratio, drop_path, name):
    shortcut, channels = x, x.shape[-1]
    x = _attention(_norm(x, name=f"{name}_norm1"), heads, name=f"{name}_attention")
    x = shortcut = layers.Add(name=f"{name}_add1")([shortcut, _drop_path(x, drop_path, name=f"{name}_drop1")])
    x = _dense(_norm(x, name=f"{name}_norm2"), mlp_ratio * channels, name=f"{name}_fc1")
    x = layers.Activation("relu6", name=f"{name}_relu6")(x)
    x = _dense(x, channels, name=f"{name}_fc2")
    return layers.Add(name=f"{name}_add2")([shortcut, _drop_path(x, drop_path, name=f"{name}_drop2")])


def _attention(x, heads, name):
    # layers.MultiHeadAttention has a bias either in all of its dense layers or in none. The published networks have one
    # in the last dense layer only.
    tokens, channels = x.shape[1:]
    x = _dense(x, 3 * channels, use_bias=False, name=f"{name}_qkv")
    x = layers.Reshape((tokens, 3, heads, channels // heads), name=f"{name}_reshape")(x)
    query, key, value = ops.unstack(ops.transpose(x, (0, 2, 3, 1, 4)), axis=1)  # (batch, heads, tokens, size)
    query = layers.Rescaling((channels // heads) ** -0.5, name=f"{name}_scale")(query)
    weights = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    weights = layers.Softmax(dtype="float32", name=f"{name}_softmax")(weights)
    x = ops.transpose(ops.matmul(ops.cast(weights, value.dtype), value), (0, 2, 1, 3))
    x = layers.Reshape((tokens, channels), name=f"{name}_output")(x)
    return _dense(x, channels, name=f"{name}_proj")


def _drop_path(x, rate, name):
    return layers.Dropout(rate, noise_shape=(None, 1, 1), name=name)(x) if rate else x


def _norm(x, name):
    return layers.LayerNormalization(epsilon=1e-5, name=name)(x)


def _dense(x, units, name, use_bias=True):
    return layers.Dense(units, use_bias=use_bias, kernel_initializer=_initializer(), name=name)(x)


def _initializer():
    return keras.initializers.TruncatedNormal(stddev=0.02)


def ViTTiny(**kwargs):
    """Builds a `ViT` of 256 channels and 12 blocks, the ViT-T of arcface_torch.

    With an embedding of 512 dimensions, it has 19.1 million parameters and needs 1.50 billion multiply-adds.

    Args:
        **kwargs: arguments of `ViT` except `channels` and `blocks`: `heads`, `patch_size`, `mlp_ratio`, `drop_path`,
            `input_shape` and `name`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 256)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> backbone = ViTTiny()
        >>> backbone.output_shape
        (None, 1, 1, 256)
        >>> embedder = make_embedder(backbone, dropout=0.0)
    """
    return _vit("tiny", kwargs)


def ViTSmall(**kwargs):
    """Builds a `ViT` of 512 channels and 12 blocks, the ViT-S of arcface_torch.

    With an embedding of 512 dimensions, it has 76.0 million parameters and needs 5.7 billion multiply-adds.

    Args:
        **kwargs: arguments of `ViT` except `channels` and `blocks`: `heads`, `patch_size`, `mlp_ratio`, `drop_path`,
            `input_shape` and `name`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> backbone = ViTSmall(input_shape=(36, 36, 3))
        >>> backbone.output_shape
        (None, 1, 1, 512)
        >>> embedder = make_embedder(backbone, dropout=0.0)
    """
    return _vit("small", kwargs)


def ViTBase(**kwargs):
    """Builds a `ViT` of 512 channels and 24 blocks, the ViT-B of arcface_torch.

    With an embedding of 512 dimensions, it has 113.8 million parameters and needs 11.4 billion multiply-adds.

    Args:
        **kwargs: arguments of `ViT` except `channels` and `blocks`: `heads`, `patch_size`, `mlp_ratio`, `drop_path`,
            `input_shape` and `name`.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 112, 112, 3)` to `(batch, 1, 1, 512)`.

    Raises:
        ValueError: if an argument is out of its range.

    Examples:
        >>> backbone = ViTBase(input_shape=(36, 36, 3))
        >>> backbone.output_shape
        (None, 1, 1, 512)
        >>> embedder = make_embedder(backbone, dropout=0.0)
    """
    return _vit("base", kwargs)


def _vit(size, kwargs):
    channels, blocks = _SIZES[size]
    return ViT(channels, blocks, **{"name": f"vit{size}", **kwargs})
