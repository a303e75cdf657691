"""Vision transformers of arcface_torch."""

import math

import numpy as np

from keras_arcface import backbones
from keras_arcface.pretrained.layouts.layout import Layout
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.layouts.layout import Shapes
from keras_arcface.pretrained.layouts.layout import build_backbone
from keras_arcface.pretrained.layouts.layout import check_blocks
from keras_arcface.pretrained.layouts.layout import check_shapes
from keras_arcface.pretrained.layouts.layout import count_blocks
from keras_arcface.pretrained.layouts.layout import dense_shapes
from keras_arcface.pretrained.layouts.layout import norm_shapes
from keras_arcface.pretrained.weights import UnsupportedFileError

# The weights do not tell the number of heads. All networks of arcface_torch have the same, and also the same size of a
# patch and ratio of hidden units. Others, such as those of CVLface, have 8 or 16 heads.
_HEADS = 8
_PATCH_SIZE = 9
_MLP_RATIO = 4

_IMAGE_SIZE = 112
_EPSILONS = 2e-5, 1e-5  # of BatchNorm in arcface_torch and in this package


def vit_shapes(channels: int, blocks: int, tokens: int, dim: int) -> Shapes:
    """Yields the name and shape of each weight of a ViT.

    Args:
        channels: number of channels of a token.
        blocks: number of blocks.
        tokens: number of patches of an image.
        dim: length of an embedding.
    """
    yield "patch_embed.proj.weight", (channels, 3, _PATCH_SIZE, _PATCH_SIZE)
    yield "patch_embed.proj.bias", (channels,)
    yield "pos_embed", (1, tokens, channels)
    for block in range(blocks):
        name = f"blocks.{block}"
        yield from dense_shapes(f"{name}.norm1", (channels,))
        yield f"{name}.attn.qkv.weight", (3 * channels, channels)
        yield from dense_shapes(f"{name}.attn.proj", (channels, channels))
        yield from dense_shapes(f"{name}.norm2", (channels,))
        yield from dense_shapes(f"{name}.mlp.fc1", (_MLP_RATIO * channels, channels))
        yield from dense_shapes(f"{name}.mlp.fc2", (channels, _MLP_RATIO * channels))
    yield from dense_shapes("norm", (channels,))
    yield "feature.0.weight", (channels, channels * tokens)
    yield from norm_shapes("feature.1", channels)
    yield "feature.2.weight", (dim, channels)
    yield from norm_shapes("feature.3", dim)


def _vit(weights, synchronized):
    channels = weights.shape("patch_embed.proj.weight", rank=4)[0]
    tokens = weights.shape("pos_embed", rank=3)[1]
    dim = weights.shape("feature.2.weight", rank=2)[0]
    blocks = max(count_blocks(weights, r"blocks\.(\d+)\."), 1)  # a file without blocks lacks blocks.0
    check_blocks([blocks])
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UnsupportedFileError(
            "expected pos_embed for side^2 patches of square images. "
            f"Received: shape {weights.shape('pos_embed', rank=3)}"
        )
    if channels % _HEADS:
        raise UnsupportedFileError(
            f"expected patch_embed.proj.weight with a multiple of {_HEADS} channels. Received: {channels} channels"
        )
    check_shapes(weights, vit_shapes(channels, blocks, tokens, dim))
    _convert(weights, channels, tokens)
    size = _IMAGE_SIZE if side == _IMAGE_SIZE // _PATCH_SIZE else _PATCH_SIZE * side
    backbone = build_backbone(
        backbones.ViT, channels, blocks, _HEADS, _PATCH_SIZE, _MLP_RATIO, input_shape=(size, size, 3), drop_path=0.0
    )
    return Network(backbone, dim, _module_name)


def _convert(weights, channels, tokens):
    """Merges the weights of patches and positions, and adapts those of BatchNorm to another epsilon."""
    weights.rename(lambda name: None if name == "mask_token" else name)  # used in training only
    kernel = weights.pop("patch_embed.proj.weight", (channels, 3, _PATCH_SIZE, _PATCH_SIZE))
    bias = weights.pop("patch_embed.proj.bias", (channels,))
    positions = weights.pop("pos_embed", (1, tokens, channels))
    weights.add("patches.weight", kernel.transpose(2, 3, 1, 0).reshape(-1, channels), "patch_embed.proj.weight")
    weights.add("patches.bias", positions[0] + bias, "pos_embed and patch_embed.proj.bias")
    stored, ours = _EPSILONS
    for name in ("feature.1", "feature.3"):
        shape = weights.shape(f"{name}.weight", rank=1)
        scale, variance = weights.pop(f"{name}.weight", shape), weights.pop(f"{name}.running_var", shape)
        scale = scale * np.sqrt((variance + ours) / (variance + stored))
        weights.add(f"{name}.weight", scale, f"{name}.weight")
        weights.add(f"{name}.running_var", variance, f"{name}.running_var")


def _module_name(layer):
    if layer in _MODULES:
        return _MODULES[layer]
    block, part = layer.split("_", 1)
    return f"blocks.{int(block.removeprefix('block')) - 1}.{_PARTS.get(part, part)}"


_MODULES = {
    "stem_patches": "patches",
    "last_norm": "norm",
    "last_dense": "feature.0",
    "neck_bn": "feature.1",
    "neck_dense": "feature.2",
    "embedding": "feature.3",
}
_PARTS = {"attention_qkv": "attn.qkv", "attention_proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}

ARCFACE_TORCH = Layout("ViT of arcface_torch", ("patch_embed.proj.weight", "feature.2.weight"), _vit)
