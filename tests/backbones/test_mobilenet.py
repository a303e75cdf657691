"""MobileNetV1 against SFace in PyTorch."""

import keras
import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training.fine_tuning import stages


def test_it_has_the_weights_of_sface():
    embedder = make_embedder(backbones.MobileNetV1(), dim=128)
    # face_recognition_sface_2021dec.onnx has this many weights, without the scale of the last BatchNorm and the bias of
    # the dense layer before it, 128 weights each.
    assert embedder.count_params() == 9_667_072 - 2 * 128
    names = ["stem", "stage1", "stage2", "stage3", "stage4", "stage5", "neck"]
    assert [(name, len(layers)) for name, layers in stages(embedder).items()] == list(
        zip(names, [3, 6, 12, 12, 36, 12, 3], strict=True)
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="PyTorch and TensorFlow run on a CPU")
def test_it_agrees_with_pytorch():
    pytest.importorskip("torch")
    import insightface_networks
    import torch_weights
    from torch_sface import TorchSFace

    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3)).astype(np.uint8)
    network = insightface_networks.randomize(TorchSFace(width=8, size=(32, 48)), pixels)
    model = backbones.MobileNetV1(width=8, input_shape=(32, 48, 3))
    torch_weights.copy_in_order(model, torch_weights.leaves(network)[:-3])
    difference = torch_weights.largest_difference(model, network.features, pixels / np.float32(127.5) - 1)
    print(f"largest difference: {difference:.1e} of the distance to the mean output")
    assert difference < 2e-5
