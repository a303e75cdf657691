"""EdgeFace, whose names are those of timm's EdgeNeXt."""

from keras_arcface import backbones
from keras_arcface.backbones.edgeface import POSITION_FEATURES
from keras_arcface.backbones.edgeface import STAGES
from keras_arcface.backbones.edgeface import rank
from keras_arcface.pretrained.layouts.layout import Layout
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.layouts.layout import Shapes
from keras_arcface.pretrained.layouts.layout import build_backbone
from keras_arcface.pretrained.layouts.layout import check_shapes
from keras_arcface.pretrained.layouts.layout import dense_shapes
from keras_arcface.pretrained.weights import UnsupportedFileError

# The rank ratios of the published networks of each number of channels. The weights of a dense layer only have its rank.
_RANK_RATIOS = (0.6, 0.5)
_IMAGE_SIZE = 112


def edgeface_shapes(channels: tuple[int, ...], heads: int, dim: int, rank_ratio: float | None) -> Shapes:
    """Yields the name and shape of each weight of an EdgeFace.

    Args:
        channels: number of channels of each stage.
        heads: number of attention heads.
        dim: length of an embedding.
        rank_ratio: rank of a dense layer divided by the smaller number of its inputs and outputs, or None.
    """

    def linear(name, inputs, outputs):
        if rank_ratio is None:
            yield from dense_shapes(name, (outputs, inputs))
        else:
            inner = rank(inputs, outputs, rank_ratio)
            yield f"{name}.linear1.weight", (inner, inputs)
            yield from dense_shapes(f"{name}.linear2", (outputs, inner))

    yield from dense_shapes("stem.0", (channels[0], 3, 4, 4))
    yield from dense_shapes("stem.1", (channels[0],))
    for number, (stage, count) in enumerate(zip(STAGES, channels, strict=True)):
        if number:
            yield from dense_shapes(f"stages.{number}.downsample.0", (channels[number - 1],))
            yield from dense_shapes(f"stages.{number}.downsample.1", (count, channels[number - 1], 2, 2))
        for block in range(stage.convolutions + (stage.parts > 0)):
            name = f"stages.{number}.blocks.{block}"
            if block < stage.convolutions:
                yield from dense_shapes(f"{name}.conv_dw", (count, 1, stage.kernel, stage.kernel))
            else:
                yield from _attention(name, stage, count, heads, linear)
            yield from dense_shapes(f"{name}.norm", (count,))
            yield from linear(f"{name}.mlp.fc1", count, 4 * count)
            yield from linear(f"{name}.mlp.fc2", 4 * count, count)
            yield f"{name}.gamma", (count,)
    yield from dense_shapes("head.norm", (channels[-1],))
    yield from linear("head.fc", channels[-1], dim)


def _attention(name, stage, channels, heads, linear):
    part = -(-channels // stage.parts)
    for number in range(stage.parts - 1):
        yield from dense_shapes(f"{name}.convs.{number}", (part, 1, 3, 3))
    if stage.has_positions:
        yield from dense_shapes(f"{name}.pos_embd.token_projection", (channels, 2 * POSITION_FEATURES, 1, 1))
    yield from dense_shapes(f"{name}.norm_xca", (channels,))
    yield f"{name}.gamma_xca", (channels,)
    yield f"{name}.xca.temperature", (heads, 1, 1)
    yield from linear(f"{name}.xca.qkv", channels, 3 * channels)
    yield from linear(f"{name}.xca.proj", channels, channels)


def _edgeface(weights, synchronized):
    del synchronized  # the network has no BatchNorm
    channels = tuple(
        weights.shape(name, rank=4)[0]
        for name in ("stem.0.weight", *(f"stages.{stage}.downsample.1.weight" for stage in (1, 2, 3)))
    )
    heads = weights.shape("stages.3.blocks.2.xca.temperature", rank=3)[0]
    has_factors = "head.fc.linear2.weight" in weights
    dim = weights.shape("head.fc.linear2.weight" if has_factors else "head.fc.weight", rank=2)[0]
    rank_ratio = _rank_ratio(weights, channels[-1], dim) if has_factors else None
    check_shapes(weights, edgeface_shapes(channels, heads, dim, rank_ratio))
    size = weights.input_size or (_IMAGE_SIZE, _IMAGE_SIZE)
    backbone = build_backbone(backbones.EdgeFace, channels, heads, rank_ratio, dim, (*size, 3))
    return Network(backbone, dim, lambda layer: _module_name(layer, has_factors), neck="linear")


def _rank_ratio(weights, channels, dim):
    received = weights.shape("head.fc.linear1.weight", rank=2)[0]
    for ratio in _RANK_RATIOS:
        if rank(channels, dim, ratio) == received:
            return ratio
    raise UnsupportedFileError(
        f"expected head.fc.linear1.weight with a rank of {' or '.join(map(str, _RANK_RATIOS))} times {channels}. "
        f"Received: a rank of {received}"
    )


def _module_name(layer, has_factors):
    if layer == "embedding":
        return "head.fc.linear2" if has_factors else "head.fc"
    if layer in _MODULES:
        return _MODULES[layer]
    stage, block, part = layer.split("_", 2)
    prefix = f"stages.{int(stage.removeprefix('stage')) - 1}"
    if block == "downsample":
        return f"{prefix}.downsample.{('norm', 'conv').index(part)}"
    prefix = f"{prefix}.blocks.{int(block.removeprefix('block')) - 1}"
    if part in _PARTS:
        part = _PARTS[part]
    elif part.startswith("depthwise"):
        part = f"convs.{int(part.removeprefix('depthwise')) - 1}"
    elif part.startswith("fc"):
        part = f"mlp.{part.replace('_', '.')}"
    elif part.startswith("attention_"):
        part = f"xca.{part.removeprefix('attention_').replace('_', '.')}"
    return f"{prefix}.{part}"


_MODULES = {
    "stem_conv": "stem.0",
    "stem_norm": "stem.1",
    "last_norm": "head.norm",
    "last_dense_linear1": "head.fc.linear1",
}
_PARTS = {
    "depthwise": "conv_dw",
    "scale": "gamma",
    "position": "pos_embd.token_projection",
    "attention_norm": "norm_xca",
    "attention_scale": "gamma_xca",
    "attention_temperature": "xca.temperature",
}

EDGEFACE = Layout("EdgeFace", ("stem.0.weight", "stages.3.blocks.2.xca.temperature"), _edgeface)
