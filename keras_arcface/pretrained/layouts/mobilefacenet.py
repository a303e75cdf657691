"""MobileFaceNet of arcface_torch."""

import re
from collections.abc import Sequence

from keras_arcface import backbones
from keras_arcface.backbones.mobilefacenet import STAGES
from keras_arcface.pretrained.layouts.layout import Layout
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.layouts.layout import Shapes
from keras_arcface.pretrained.layouts.layout import build_backbone
from keras_arcface.pretrained.layouts.layout import check_blocks
from keras_arcface.pretrained.layouts.layout import check_shapes
from keras_arcface.pretrained.layouts.layout import conv_norm_shapes
from keras_arcface.pretrained.layouts.layout import count_blocks
from keras_arcface.pretrained.layouts.layout import feature_map_size
from keras_arcface.pretrained.layouts.layout import norm_shapes
from keras_arcface.pretrained.weights import UnsupportedFileError

_STRIDES = 16


def mobilefacenet_shapes(
    width: int, blocks: Sequence[int], stem_inputs: int, dim: int, feature_map: tuple[int, int]
) -> Shapes:
    """Yields the name and shape of each weight of a MobileFaceNet.

    Args:
        width: number of channels of the first stages.
        blocks: number of blocks at each resolution, as in `backbones.MobileFaceNet`.
        stem_inputs: number of input channels in each group of the single convolution at the first resolution.
        dim: length of an embedding.
        feature_map: height and width of the last feature map.
    """
    yield from _conv_norm_prelu("layers.0", (width, 3, 3, 3))
    if blocks[0] > 1:
        for block in range(blocks[0]):
            yield from _bottleneck(f"layers.1.layers.{block}", width, 128, width)
    else:
        yield from _conv_norm_prelu("layers.1", (width, stem_inputs, 3, 3))
    inputs = width
    for number, stage in enumerate(STAGES, 1):
        channels = stage.channels * width // 64
        if stage.strides > 1:
            yield from _bottleneck(f"layers.{number + 1}", inputs, stage.expanded, channels)
        else:
            for block in range(blocks[number // 2]):
                yield from _bottleneck(f"layers.{number + 1}.layers.{block}", inputs, stage.expanded, channels)
        inputs = channels
    yield from _conv_norm_prelu("conv_sep", (512, inputs, 1, 1))
    yield from conv_norm_shapes("features.layers.0.layers.0", "features.layers.0.layers.1", (512, 1, *feature_map))
    yield "features.layers.2.weight", (dim, 512)
    yield from norm_shapes("features.layers.3", dim)


def _bottleneck(name, inputs, expanded, channels):
    yield from _conv_norm_prelu(f"{name}.layers.0", (expanded, inputs, 1, 1))
    yield from _conv_norm_prelu(f"{name}.layers.1", (expanded, 1, 3, 3))
    yield from conv_norm_shapes(f"{name}.layers.2.layers.0", f"{name}.layers.2.layers.1", (channels, expanded, 1, 1))


def _conv_norm_prelu(name, kernel):
    yield from conv_norm_shapes(f"{name}.layers.0", f"{name}.layers.1", kernel)
    yield f"{name}.layers.2.weight", kernel[:1]


def _mobilefacenet(weights, synchronized):
    width = weights.shape("layers.0.layers.0.weight", rank=4)[0]
    rows, columns = weights.shape("features.layers.0.layers.0.weight", rank=4)[2:]
    dim = weights.shape("features.layers.2.weight", rank=2)[0]
    size = weights.input_size or (_STRIDES * rows, _STRIDES * columns)
    blocks = [count_blocks(weights, rf"layers\.{index}\.layers\.(\d+)\.") for index in (1, 3, 5, 7)]
    stem_inputs, stem_groups = 1, None
    if "layers.1.layers.0.weight" in weights:  # the first stage is a single convolution instead of bottlenecks
        stem_inputs = weights.shape("layers.1.layers.0.weight", rank=4)[1]
        if width % stem_inputs:
            raise UnsupportedFileError(
                f"expected layers.1.layers.0.weight for groups of equal size of {width} channels. "
                f"Received: groups of {stem_inputs} channels"
            )
        stem_groups = width // stem_inputs
        blocks[0] = 1
    check_blocks(blocks)
    check_shapes(weights, mobilefacenet_shapes(width, blocks, stem_inputs, dim, feature_map_size(size, _STRIDES)))
    backbone = build_backbone(
        backbones.MobileFaceNet,
        width,
        (*size, 3),
        synchronized=synchronized,
        blocks=blocks,
        stem_groups=stem_groups,
    )
    return Network(backbone, dim, _mobilefacenet_module_name)


def _mobilefacenet_module_name(layer):
    bottleneck = re.fullmatch(r"(?:stage(\d)|stem)_block(\d+)_(expand|depthwise|project)(_\w+)?", layer)
    if bottleneck:
        stage, number, part, kind = bottleneck.groups()
        stage = int(stage or 0)
        module = f"layers.{stage + 1}"
        if stage % 2 == 0:  # stages that keep the resolution are lists of blocks
            module += f".layers.{int(number) - 1}"
        return f"{module}.layers.{('expand', 'depthwise', 'project').index(part)}.layers.{_LAYER_INDICES[kind]}"
    part = re.fullmatch(r"(stem_depthwise|stem_grouped|stem|last)(_conv|_bn|_prelu)?", layer)
    if part:
        module = {"stem": "layers.0", "last": "conv_sep"}.get(part[1], "layers.1")
        return f"{module}.layers.{_LAYER_INDICES[part[2]]}"
    return {
        "global_depthwise": "features.layers.0.layers.0",
        "neck_bn": "features.layers.0.layers.1",
        "neck_dense": "features.layers.2",
        "embedding": "features.layers.3",
    }[layer]


# Indices of convolution, BatchNorm and PReLU in the lists of layers of arcface_torch.
_LAYER_INDICES = {None: 0, "_conv": 0, "_bn": 1, "_prelu": 2}


ARCFACE_TORCH = Layout(
    "MobileFaceNet of arcface_torch", ("layers.0.layers.0.weight", "conv_sep.layers.0.weight"), _mobilefacenet
)
