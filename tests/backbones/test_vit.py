"""ViT against PyTorch."""

import keras
import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training.fine_tuning import stages

MODULES = {
    "last_norm": "norm",
    "last_dense": "feature.0",
    "neck_bn": "feature.1",
    "neck_dense": "feature.2",
    "embedding": "feature.3",
}
PARTS = {"attention_qkv": "attn.qkv", "attention_proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def module_name(layer):
    if layer in MODULES:
        return MODULES[layer]
    block, part = layer.split("_", 1)
    return f"blocks.{int(block.removeprefix('block')) - 1}.{PARTS.get(part, part)}"


def patches(state):
    """Returns the kernel and bias of all tokens."""
    kernel, bias = (state.pop(f"patch_embed.proj.{part}") for part in ("weight", "bias"))
    return [kernel.transpose(2, 3, 1, 0).reshape(-1, len(bias)), state.pop("pos_embed")[0] + bias]


def test_stages():
    embedder = make_embedder(backbones.ViT(8, 2, heads=2, input_shape=(18, 18, 3)), dim=8)
    assert list(stages(embedder)) == ["stem", "block1", "block2", "last", "neck"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compared on one backend")
@pytest.mark.parametrize(("patch_size", "mlp_ratio"), [(9, 4), (8, 3)])
def test_it_agrees_with_pytorch(patch_size, mlp_ratio):
    pytest.importorskip("torch", reason="the reference network needs PyTorch")
    import torch_weights
    from torch_vit import TorchViT

    sizes = {"channels": 32, "blocks": 3, "heads": 4, "patch_size": patch_size, "mlp_ratio": mlp_ratio}
    network = TorchViT(**sizes, size=(32, 40), dim=16)  # 9 leaves 5 rows and 4 columns over
    backbone = backbones.ViT(**sizes, input_shape=(32, 40, 3))
    difference, unused = torch_weights.compare(backbone, network, module_name, special={"stem_patches": patches})
    assert difference < 2e-5
    assert unused == {"mask_token"}


def test_drop_path_skips_branches_of_single_images():
    backbone = backbones.ViT(8, 2, heads=2, drop_path=0.5, input_shape=(18, 18, 3))
    before, after = (backbone.get_layer(name) for name in ("block2_fc2", "block2_drop2"))
    both = keras.Model(backbone.input, [before.output, after.output])
    images = np.random.default_rng(0).uniform(-1, 1, (64, 18, 18, 3)).astype(np.float32)
    branch, dropped = (keras.ops.convert_to_numpy(output) for output in both(images, training=True))
    kept = np.any(dropped != 0, axis=(1, 2))
    assert 16 < np.sum(kept) < 48
    np.testing.assert_allclose(dropped[kept], 2 * branch[kept], rtol=1e-5)
    assert not any(layer.name.startswith("block1_drop") for layer in backbone.layers)
    branch, dropped = (keras.ops.convert_to_numpy(output) for output in both(images))
    np.testing.assert_array_equal(branch, dropped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"channels must be a multiple of heads=3\. Received: channels=8"),
        ({"patch_size": 19}, r"at least patch_size=19 rows and columns\. Received: input_shape=\(18, 18, 3\)"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        backbones.ViT(**{"channels": 8, "blocks": 1, "heads": 2, "input_shape": (18, 18, 3), **options})
