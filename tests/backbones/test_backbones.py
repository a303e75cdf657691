"""Shapes, numbers of weights and padding of the backbones."""

import keras
import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder


def count_blocks(model):
    return sum(layer.name.endswith("_add") for layer in model.layers)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("IResNet34", 16),
        pytest.param("IResNet100", 49, marks=pytest.mark.slow),
        pytest.param("IResNet200", 98, marks=pytest.mark.slow),
    ],
)
def test_iresnet_has_the_blocks_of_its_name(name, blocks):
    model = getattr(backbones, name)(width=16, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 2, 2, 128)
    assert model.get_layer("stem_conv").filters == 16
    assert count_blocks(model) == blocks
    assert model.name == name.lower()


@pytest.mark.parametrize(("name", "blocks", "published"), [("IResNet18", 8, 24_025_600), ("IResNet50", 24, 43_590_848)])
def test_iresnet_has_the_published_number_of_weights(name, blocks, published):
    # Numbers of arcface_torch's models, less the fixed scale of the last BatchNorm and the bias of the dense layer
    # before it, which that BatchNorm makes redundant; 512 weights each.
    backbone = getattr(backbones, name)()
    embedder = make_embedder(backbone)
    assert sum(int(np.prod(w.shape)) for w in embedder.trainable_weights) == published - 2 * 512
    assert embedder.input_shape == (None, 112, 112, 3)
    assert embedder.output_shape == (None, 512)
    assert count_blocks(backbone) == blocks


def test_mobilefacenet_ends_in_a_global_depthwise_convolution():
    model = backbones.MobileFaceNet()
    assert model.output_shape == (None, 1, 1, 512)
    assert model.layers[-1].name == "global_depthwise"
    assert model.layers[-1].weights[0].shape == (7, 7, 512, 1)
    # The paper states 0.99 million weights with embeddings of 128 dimensions.
    assert 0.95e6 < make_embedder(model, dim=128).count_params() < 1.05e6


@pytest.mark.parametrize(
    ("width", "blocks", "published"),
    [(128, (1, 4, 6, 2), 2_059_520), (256, (2, 8, 12, 4), 6_314_880)],
)
def test_mobilefacenet_has_the_weights_of_insightface(width, blocks, published):
    # Numbers of arcface_torch's models, less the scale of the last BatchNorm, 512 weights.
    model = backbones.MobileFaceNet(width=width, blocks=blocks, stem_groups=64)
    assert sum(int(np.prod(w.shape)) for w in make_embedder(model).trainable_weights) == published - 512
    if blocks[0] == 1:
        assert model.get_layer("stem_grouped").kernel.shape == (3, 3, 2, 128)


def test_mobilefacenet_with_a_wrong_number_of_blocks():
    with pytest.raises(ValueError, match=r"blocks must be four integers, one for each resolution\. Received: blocks="):
        backbones.MobileFaceNet(blocks=(1, 4, 6))


def test_strides_of_the_stem():
    model = backbones.IResNet((1, 1, 1, 1), width=16, stem_strides=2)
    assert model.get_layer("stem_prelu").output.shape == (None, 56, 56, 16)
    assert model.output_shape == (None, 4, 4, 128)


def test_strided_convolutions_pad_both_sides():
    # With symmetric kernels, a mirrored image must give the mirrored feature map.
    model = backbones.MobileFaceNet(input_shape=(33, 33, 3))
    stem = model.get_layer("stem_conv")
    kernel = np.asarray(stem.kernel)
    stem.kernel.assign(kernel + kernel[:, ::-1])
    to_stem = keras.Model(model.inputs[0], stem.output)
    images = np.random.default_rng(0).normal(size=(1, 33, 33, 3)).astype(np.float32)
    straight = np.asarray(to_stem(images))
    mirrored = np.asarray(to_stem(images[:, :, ::-1]))
    np.testing.assert_allclose(mirrored[:, :, ::-1], straight, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="oneDNN computes for TensorFlow")
@pytest.mark.parametrize("width", [1, 8, 15])
def test_narrow_networks_avoid_the_onednn_fault_of_strided_convolutions(width):
    model = backbones.IResNet((1, 1), width=width, input_shape=(16, 16, 3))
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    strided = [layer for layer in convolutions if layer.kernel_size == (1, 1) and layer.strides != (1, 1)]
    assert all(layer.input.shape[-1] >= 16 for layer in strided)
    # The shortcut still computes the strided convolution, under the same name.
    shortcut = model.get_layer("stage1_block1_shortcut_conv")
    before, after = model.get_layer("stem_prelu").output, shortcut.output
    x, y = keras.Model(model.input, [before, after])(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
    x, y = keras.ops.convert_to_numpy(x), keras.ops.convert_to_numpy(y)
    kernel = keras.ops.convert_to_numpy(shortcut.kernel)[0, 0]
    np.testing.assert_allclose(y, x[:, ::2, ::2] @ kernel, atol=1e-5)
