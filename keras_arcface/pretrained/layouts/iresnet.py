"""IResNet of arcface_torch, and of AdaFace and CVLface.

AdaFace and CVLface number their blocks without regard to stages, and the layers of a block. Their arrays are renamed to
those of arcface_torch. The shortcut of their first block has no weights, and their last BatchNorm no scale and offset.
"""

import re
from collections.abc import Sequence

import numpy as np

from keras_arcface import backbones
from keras_arcface.pretrained.layouts.layout import MAX_BLOCKS
from keras_arcface.pretrained.layouts.layout import Layout
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.layouts.layout import Shapes
from keras_arcface.pretrained.layouts.layout import build_backbone
from keras_arcface.pretrained.layouts.layout import check_blocks
from keras_arcface.pretrained.layouts.layout import check_shapes
from keras_arcface.pretrained.layouts.layout import conv_norm_shapes
from keras_arcface.pretrained.layouts.layout import count_blocks
from keras_arcface.pretrained.layouts.layout import feature_map_size
from keras_arcface.pretrained.layouts.layout import image_size
from keras_arcface.pretrained.layouts.layout import norm_shapes

_STRIDES = 16


def iresnet_shapes(
    width: int, blocks: Sequence[int], dim: int, feature_map: tuple[int, int], pooled_shortcut: bool = False
) -> Shapes:
    """Yields the name and shape of each weight of an IResNet.

    Args:
        width: number of channels of the first stage.
        blocks: number of blocks in each stage.
        dim: length of an embedding.
        feature_map: height and width of the last feature map.
        pooled_shortcut: whether the shortcut of the first block has no weights.
    """
    yield from conv_norm_shapes("conv1", "bn1", (width, 3, 3, 3))
    yield "prelu.weight", (width,)
    inputs = width
    for stage, count in enumerate(blocks):
        filters = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            yield from conv_norm_shapes(f"{name}.conv1", f"{name}.bn2", (filters, inputs, 3, 3))
            yield from conv_norm_shapes(f"{name}.conv2", f"{name}.bn3", (filters, filters, 3, 3))
            if block == 0 and not (stage == 0 and pooled_shortcut):
                yield from conv_norm_shapes(f"{name}.downsample.0", f"{name}.downsample.1", (filters, inputs, 1, 1))
            yield from norm_shapes(f"{name}.bn1", inputs)
            yield f"{name}.prelu.weight", (filters,)
            inputs = filters
    yield from norm_shapes("bn2", inputs)
    yield "fc.weight", (dim, inputs * feature_map[0] * feature_map[1])
    yield from norm_shapes("features", dim)


def _iresnet(weights, synchronized):
    width = weights.shape("conv1.weight", rank=4)[0]
    dim = weights.shape("fc.weight", rank=2)[0]
    size = image_size(weights, "fc.weight", 8 * width, _STRIDES)
    # A stage without blocks would keep the resolution, and the dense layer would be larger than in the file.
    blocks = [max(count_blocks(weights, rf"layer{stage}\.(\d+)\."), 1) for stage in (1, 2, 3, 4)]
    check_blocks(blocks)
    pooled_shortcut = not any(name.startswith("layer1.0.downsample.") for name in weights)
    check_shapes(weights, iresnet_shapes(width, blocks, dim, feature_map_size(size, _STRIDES), pooled_shortcut))
    backbone = build_backbone(
        backbones.IResNet, blocks, width, (*size, 3), synchronized=synchronized, pooled_shortcut=pooled_shortcut
    )
    return Network(backbone, dim, _iresnet_module_name)


def _cvlface(weights, synchronized):
    weights.rename(_cvlface_names(weights))
    dim = weights.shape("features.running_mean", rank=1)
    for name, value in (("features.weight", 1), ("features.bias", 0)):
        weights.add(name, np.full(dim, value), f"{name} of a BatchNorm without scale and offset")
    return _iresnet(weights, synchronized)


def _cvlface_names(weights):
    """Returns the function from the names of AdaFace and CVLface to those of arcface_torch."""
    positions = _positions_in_stages(weights)

    def rename(name):
        if name.startswith("head."):  # the classes of the training set
            return None
        block = re.fullmatch(r"body\.(\d+)\.(res_layer|shortcut_layer)\.(\d)\.(\w+)", name)
        if block:
            number, branch, index, part = block.groups()
            module = _CVLFACE_PARTS.get((branch, int(index)), f"{branch}.{index}")
            return f"{positions.get(int(number), f'body.{number}')}.{module}.{part}"
        module, _, part = name.rpartition(".")
        return f"{_CVLFACE_MODULES.get(module, module)}.{part}"

    return rename


def _positions_in_stages(weights):
    """Returns the position of each numbered block, such as `layer2.0`. A stage ends where the channels change."""
    positions = {}
    stage = block = channels = 0
    for number in range(MAX_BLOCKS + 1):
        if f"body.{number}.res_layer.4.weight" not in weights:
            break
        filters = weights.shape(f"body.{number}.res_layer.4.weight", rank=4)[0]
        stage, block = (stage + 1, 0) if filters != channels else (stage, block + 1)
        channels = filters
        positions[number] = f"layer{stage}.{block}"
    return positions


def _iresnet_module_name(layer):
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


# Layers of a block of AdaFace and CVLface, and its other layers, with their names in arcface_torch.
_CVLFACE_PARTS = {
    **{("res_layer", index): part for index, part in enumerate(("bn1", "conv1", "bn2", "prelu", "conv2", "bn3"))},
    **{("shortcut_layer", index): f"downsample.{index}" for index in (0, 1)},
}
_CVLFACE_MODULES = {
    "input_layer.0": "conv1",
    "input_layer.1": "bn1",
    "input_layer.2": "prelu",
    "output_layer.0": "bn2",
    "output_layer.3": "fc",
    "output_layer.4": "features",
}

CVLFACE = Layout("IResNet of AdaFace and CVLface", ("input_layer.0.weight", "body.0.res_layer.1.weight"), _cvlface)
ARCFACE_TORCH = Layout("IResNet of arcface_torch", ("conv1.weight", "layer4.0.conv1.weight"), _iresnet)
