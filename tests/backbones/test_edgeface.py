"""EdgeFace against PyTorch."""

import keras
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training.fine_tuning import stages

MODULES = {
    "stem_conv": "stem.0",
    "stem_norm": "stem.1",
    "last_norm": "head.norm",
    "last_dense_linear1": "head.fc.linear1",
}
PARTS = {
    "depthwise": "conv_dw",
    "scale": "gamma",
    "position": "pos_embd.token_projection",
    "attention_norm": "norm_xca",
    "attention_scale": "gamma_xca",
    "attention_temperature": "xca.temperature",
}


def module_name(layer, has_factors=True):
    if layer == "embedding":
        return "model.head.fc.linear2" if has_factors else "model.head.fc"
    if layer in MODULES:
        return f"model.{MODULES[layer]}"
    stage, block, part = layer.split("_", 2)
    prefix = f"model.stages.{int(stage.removeprefix('stage')) - 1}"
    if block == "downsample":
        return f"{prefix}.downsample.{('norm', 'conv').index(part)}"
    prefix = f"{prefix}.blocks.{int(block.removeprefix('block')) - 1}"
    if part in PARTS:
        part = PARTS[part]
    elif part.startswith("depthwise"):
        part = f"convs.{int(part.removeprefix('depthwise')) - 1}"
    elif part.startswith("fc"):
        part = f"mlp.{part.replace('_', '.')}"
    elif part.startswith("attention_"):
        part = f"xca.{part.removeprefix('attention_').replace('_', '.')}"
    return f"{prefix}.{part}"


def test_stages():
    backbone = backbones.EdgeFace((4, 8, 12, 16), heads=4, rank_ratio=0.5, input_shape=(32, 32, 3))
    embedder = make_embedder(backbone, dim=8, neck="linear")
    assert list(stages(embedder)) == ["stem", "stage1", "stage2", "stage3", "stage4", "last", "neck"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compared on one backend")
@pytest.mark.parametrize("ratio", [0.6, None])
def test_it_agrees_with_pytorch(ratio):
    pytest.importorskip("torch", reason="the reference network needs PyTorch")
    import torch_weights
    from torch_edgeface import TorchEdgeFace

    # 20 channels in three parts are 7, 7 and 6.
    network = TorchEdgeFace((8, 16, 20, 24), heads=4, ratio=ratio, dim=16)
    backbone = backbones.EdgeFace((8, 16, 20, 24), 4, ratio, dim=16, input_shape=(64, 96, 3))
    difference, unused = torch_weights.compare(
        backbone, network, lambda layer: module_name(layer, ratio is not None), neck="linear"
    )
    assert difference < 2e-5
    assert not unused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 16, 24)}, r"channels must be four integers, one for each stage\. Received: channels=\(8"),
        ({"rank_ratio": 1.5}, r"rank_ratio must be in \(0, 1\] or None\. Received: rank_ratio=1\.5"),
        ({"heads": 5}, r"multiples of heads=5\. Received: channels=\(8, 16, 24, 32\)"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        backbones.EdgeFace(**{"channels": (8, 16, 24, 32), "heads": 4, "input_shape": (32, 32, 3), **options})
