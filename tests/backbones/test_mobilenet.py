"""MobileNetV1 against SFace in PyTorch."""

import keras
import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training.fine_tuning import stages

FIRST_PAIRS = {1: 2, 2: 3, 3: 5, 4: 7, 5: 13}
NECK = {"neck_bn": "bn1", "neck_dense": "pre_fc1", "embedding": "fc1"}


def sface_name(layer):
    if layer in NECK:
        return NECK[layer]
    parts = layer.split("_")
    kind = {"bn": "batchnorm", "prelu": "relu"}.get(parts[-1], "conv2d")
    if parts[0] == "stem":
        return f"conv_1_{kind}"
    number = FIRST_PAIRS[int(parts[0].removeprefix("stage"))] + int(parts[1].removeprefix("block")) - 1
    return f"conv_{number}{'_dw' * (parts[2] == 'depthwise')}_{kind}"


def test_stages():
    embedder = make_embedder(backbones.MobileNetV1(width=4, input_shape=(32, 32, 3)), dim=8)
    expected = {"stem": 3, "stage1": 6, "stage2": 12, "stage3": 12, "stage4": 36, "stage5": 12, "neck": 3}
    assert {name: len(layers) for name, layers in stages(embedder).items()} == expected


def test_a_network_with_fewer_blocks_shares_the_names_and_shapes_of_the_others():
    whole = backbones.MobileNetV1(width=4, input_shape=(32, 32, 3))
    short = backbones.MobileNetV1(width=4, input_shape=(32, 32, 3), stages=((2,), (4, 4), (8,), (16, 4)))
    shapes = {layer.name: [weight.shape for weight in layer.weights] for layer in whole.layers}
    differing = {
        layer.name
        for layer in short.layers
        if shapes[layer.name] != [weight.shape for weight in layer.weights] and layer.name != "images"
    }
    last = "stage4_block2_pointwise"
    assert differing == {last, f"{last}_bn", f"{last}_prelu"}
    assert short.output_shape == (None, 4, 4, 16)


def test_it_has_the_weights_of_sface():
    # face_recognition_sface_2021dec.onnx has this many weights, without the scale of the last BatchNorm and the bias of
    # the dense layer before it, 128 weights each.
    assert make_embedder(backbones.MobileNetV1(), dim=128).count_params() == 9_667_072 - 2 * 128


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compared on one backend")
def test_it_agrees_with_pytorch():
    pytest.importorskip("torch", reason="the reference network needs PyTorch")
    import torch_weights
    from torch_sface import TorchSFace

    network = TorchSFace(width=8, size=(32, 48), dim=16)
    backbone = backbones.MobileNetV1(width=8, input_shape=(32, 48, 3))

    def dense(state):
        # PyTorch flattens a feature map with channels first.
        return [state.pop("pre_fc1.weight").reshape(16, 256, 2, 3).transpose(2, 3, 1, 0).reshape(-1, 16)]

    def last_batch_norm(state):
        scale, offset, mean, variance = (state.pop(f"fc1.{part}") for part in torch_weights.PARTS)
        return [scale, offset, mean - state.pop("pre_fc1.bias"), variance + np.float32(2e-5 - 1e-5)]

    special = {"neck_dense": dense, "embedding": last_batch_norm}
    difference, unused = torch_weights.compare(backbone, network, sface_name, special=special)
    assert difference < 2e-5
    assert not unused
