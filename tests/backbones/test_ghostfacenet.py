"""GhostFaceNets against PyTorch."""

import keras
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training.fine_tuning import stages

# Index of the first block of each stage in the list of all blocks, and their groups in PyTorch.
FIRST_BLOCKS = {1: 0, 2: 1, 3: 3, 4: 5, 5: 11}
GROUPS = [*[(group, 0) for group in range(6)], *[(6, block) for block in range(5)], (7, 0), *[(8, n) for n in range(4)]]
MODULES = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "stem_prelu": "act1",
    "last_conv": "blocks.9.0.conv",
    "last_bn": "blocks.9.0.bn1",
    "last_prelu": "blocks.9.0.act1",
    "global_depthwise": "classifier.conv_dw",
    "neck_bn": "classifier.bn1",
    "neck_dense": "classifier.conv",
    "embedding": "classifier.bn2",
}
PARTS = {
    **{
        f"ghost{number}_{ours}{suffix}": f"ghost{number}.{theirs}.{index}"
        for number in (1, 2)
        for ours, theirs in (("primary", "primary_conv"), ("cheap", "cheap_operation"))
        for index, suffix in enumerate(("", "_bn", "_prelu"))
    },
    "gate_conv": "ghost1.short_conv.0",
    "gate_bn": "ghost1.short_conv.1",
    "gate_horizontal": "ghost1.short_conv.2",
    "gate_horizontal_bn": "ghost1.short_conv.3",
    "gate_vertical": "ghost1.short_conv.4",
    "gate_vertical_bn": "ghost1.short_conv.5",
    "depthwise": "conv_dw",
    "depthwise_bn": "bn_dw",
    "excite_reduce": "se.conv_reduce",
    "excite_prelu": "se.act1",
    "excite_expand": "se.conv_expand",
    "shortcut_depthwise": "shortcut.0",
    "shortcut_depthwise_bn": "shortcut.1",
    "shortcut_pointwise": "shortcut.2",
    "shortcut_pointwise_bn": "shortcut.3",
}


def module_name(layer):
    if layer in MODULES:
        return MODULES[layer]
    stage, block, part = layer.split("_", 2)
    number = FIRST_BLOCKS[int(stage.removeprefix("stage"))] + int(block.removeprefix("block")) - 1
    group, index = GROUPS[number]
    return f"blocks.{group}.{index}.{PARTS[part]}"


def test_stages():
    embedder = make_embedder(backbones.GhostFaceNetV1(0.25, (32, 32, 3)), dim=8)
    assert list(stages(embedder)) == ["stem", "stage1", "stage2", "stage3", "stage4", "stage5", "last", "neck"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compared on one backend")
@pytest.mark.parametrize(("version", "stem_strides"), [(1, 1), (2, 1), (1, 2)])
def test_it_agrees_with_pytorch(version, stem_strides):
    pytest.importorskip("torch", reason="the reference network needs PyTorch")
    import torch_weights
    from torch_ghostfacenet import TorchGhostFaceNet

    # The last feature maps of an odd size, whose gates are resized by another factor than 2, and those of strided
    # convolutions of even and odd sizes.
    size = (48, 72)
    network = TorchGhostFaceNet(version, 0.3, size, stem_strides, dim=16)
    make_backbone = backbones.GhostFaceNetV1 if version == 1 else backbones.GhostFaceNetV2
    backbone = make_backbone(0.3, (*size, 3), stem_strides)

    def factor_of_hard_sigmoid(state, name):
        kernel, bias = (state.pop(f"{module_name(name)}.{part}") for part in ("weight", "bias"))
        factor = 6 / 5 if version == 1 else 1
        return [factor * kernel.transpose(2, 3, 1, 0), factor * bias]

    special = {
        layer.name: lambda state, name=layer.name: factor_of_hard_sigmoid(state, name)
        for layer in backbone.layers
        if layer.name.endswith("excite_expand")
    }
    difference, unused = torch_weights.compare(backbone, network, module_name, special=special)
    assert difference < 2e-5
    assert not unused
