"""Which network a file holds, and under which names: read from its weights alone."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_arcface import backbones
from keras_arcface.pretrained.weights import UnfitError
from keras_arcface.pretrained.weights import Weights

# Both networks halve their images four times.
_STRIDES = 16


class Layout(NamedTuple):
    backbone: keras.Model
    dim: int
    module_of: Callable[[str], str]  # name of our layer -> arcface_torch's


def recognize(weights: Weights, synchronized: bool) -> Layout:
    """The empty network that these weights belong to."""
    if "conv1.weight" in weights and "layer4.0.conv1.weight" in weights:
        return _iresnet(weights, synchronized)
    if "layers.0.layers.0.weight" in weights and "conv_sep.layers.0.weight" in weights:
        return _mobilefacenet(weights, synchronized)
    raise UnfitError(
        "expected an IResNet (conv1.weight, layer4.0.conv1.weight ...) or a MobileFaceNet (layers.0.layers.0.weight, "
        f"conv_sep.layers.0.weight ...) of arcface_torch. Received: {len(weights)} arrays, among them "
        f"{', '.join(sorted(weights)[:5]) or 'none'}"
    )


def _iresnet(weights, synchronized):
    width = weights.shape("conv1.weight", rank=4)[0]
    dim, features = weights.shape("fc.weight", rank=2)
    size = weights.input_size
    if size is None:
        side = math.isqrt(features // (8 * width))
        if side * side * 8 * width != features:
            raise UnfitError(
                f"expected fc.weight with 8 * {width} * side^2 columns, for square images and {width} channels in the "
                f"first stage. Received: shape {(dim, features)}"
            )
        size = (_STRIDES * side, _STRIDES * side)
    backbone = backbones.IResNet(
        blocks=[_count(weights, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
        width=width,
        input_shape=(*size, 3),
        synchronized=synchronized,
    )
    return Layout(backbone, dim, _iresnet_module)


def _iresnet_module(layer):
    block = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", layer)
    if block:
        stage, number, part = block.groups()
        part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(part, part)
        return f"layer{stage}.{int(number) - 1}.{part}"
    return {
        "stem_conv": "conv1",
        "stem_bn": "bn1",
        "stem_prelu": "prelu",
        "neck_bn": "bn2",
        "neck_dense": "fc",
        "embedding": "features",
    }[layer]


def _mobilefacenet(weights, synchronized):
    width = weights.shape("layers.0.layers.0.weight", rank=4)[0]
    rows, columns = weights.shape("features.layers.0.layers.0.weight", rank=4)[2:]
    dim = weights.shape("features.layers.2.weight", rank=2)[0]
    blocks, stem_groups = [_count(weights, rf"layers\.{index}\.layers\.(\d+)\.") for index in (1, 3, 5, 7)], None
    if "layers.1.layers.0.weight" in weights:  # a single convolution where others have bottlenecks
        blocks[0] = 1
        stem_groups = width // max(weights.shape("layers.1.layers.0.weight", rank=4)[1], 1)
    backbone = backbones.MobileFaceNet(
        width=width,
        input_shape=(*(weights.input_size or (_STRIDES * rows, _STRIDES * columns)), 3),
        synchronized=synchronized,
        blocks=blocks,
        stem_groups=stem_groups,
    )
    return Layout(backbone, dim, _mobilefacenet_module)


def _mobilefacenet_module(layer):
    bottleneck = re.fullmatch(r"(?:stage(\d)|stem)_block(\d+)_(expand|depthwise|project)(_\w+)?", layer)
    if bottleneck:
        stage, number, part, kind = bottleneck.groups()
        stage = int(stage or 0)
        module = f"layers.{stage + 1}"
        if stage % 2 == 0:  # the stages that keep the resolution are lists of blocks
            module += f".layers.{int(number) - 1}"
        return f"{module}.layers.{('expand', 'depthwise', 'project').index(part)}.layers.{_KINDS[kind]}"
    part = re.fullmatch(r"(stem_depthwise|stem_grouped|stem|last)(_conv|_bn|_prelu)?", layer)
    if part:
        module = {"stem": "layers.0", "last": "conv_sep"}.get(part[1], "layers.1")
        return f"{module}.layers.{_KINDS[part[2]]}"
    return {
        "global_depthwise": "features.layers.0.layers.0",
        "neck_bn": "features.layers.0.layers.1",
        "neck_dense": "features.layers.2",
        "embedding": "features.layers.3",
    }[layer]


_KINDS = {None: 0, "_conv": 0, "_bn": 1, "_prelu": 2}


def _count(weights, pattern):
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})
