import keras
import numpy as np
import pytest

from keras_arcface import backbones
from keras_arcface.models import make_embedder


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("IResNet18", 8),
        ("IResNet34", 16),
        ("IResNet50", 24),
        pytest.param("IResNet100", 49, marks=pytest.mark.slow),
        pytest.param("IResNet200", 98, marks=pytest.mark.slow),
    ],
)
def test_iresnet_has_the_blocks_of_its_name(name, blocks):
    model = getattr(backbones, name)(width=16, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 2, 2, 128)
    assert sum(layer.name.endswith("_add") for layer in model.layers) == blocks
    assert model.name == name.lower()


@pytest.mark.parametrize(("name", "published"), [("IResNet18", 24_025_600), ("IResNet50", 43_590_848)])
def test_iresnet_has_the_published_number_of_weights(name, published):
    # Counted in arcface_torch's models. Not here: the fixed scale of the last BatchNorm, and the bias of the dense
    # layer before it, which that BatchNorm makes idle; 512 numbers each.
    embedder = make_embedder(getattr(backbones, name)())
    assert sum(int(np.prod(w.shape)) for w in embedder.trainable_weights) == published - 2 * 512
    assert embedder.input_shape == (None, 112, 112, 3)
    assert embedder.output_shape == (None, 512)


def test_mobilefacenet_is_small_and_ends_in_a_global_depthwise_convolution():
    model = backbones.MobileFaceNet()
    assert model.output_shape == (None, 1, 1, 512)
    assert model.layers[-1].name == "global_depthwise"
    assert model.layers[-1].weights[0].shape == (7, 7, 512, 1)
    # The paper gives 0.99 million for the network with a 128-d embedding.
    assert 0.95e6 < make_embedder(model, dim=128).count_params() < 1.05e6


@pytest.mark.parametrize(
    ("width", "blocks", "published"),
    [(128, (1, 4, 6, 2), 2_059_520), (128, (2, 8, 12, 4), 3_349_888), (256, (2, 8, 12, 4), 6_314_880)],
)
def test_mobilefacenet_can_be_insightfaces(width, blocks, published):
    # Counted in arcface_torch's models; not here: the scale of the last BatchNorm, 512 numbers.
    model = backbones.MobileFaceNet(width=width, blocks=blocks, stem_groups=64)
    assert sum(int(np.prod(w.shape)) for w in make_embedder(model).trainable_weights) == published - 512
    if blocks[0] == 1:
        assert model.get_layer("stem_grouped").kernel.shape == (3, 3, 2, 128)


@pytest.mark.parametrize("make", [backbones.IResNet18, backbones.MobileFaceNet])
def test_width_scales_the_network(make):
    narrow, wide = make(width=32, input_shape=(32, 32, 3)), make(width=64, input_shape=(32, 32, 3))
    assert narrow.get_layer("stem_conv").filters == 32
    assert narrow.count_params() < wide.count_params()


def test_a_stem_with_a_stride_halves_what_follows():
    model = backbones.IResNet18(width=16, stem_strides=2, input_shape=(112, 112, 3))
    assert model.get_layer("stem_prelu").output.shape == (None, 56, 56, 16)
    assert model.output_shape == (None, 4, 4, 128)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras synchronizes BatchNorm on TensorFlow only")
@pytest.mark.parametrize("make", [backbones.IResNet18, backbones.MobileFaceNet])
def test_every_batch_norm_can_be_synchronized(make):
    model = make(input_shape=(32, 32, 3), synchronized=True)
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    assert norms
    assert all(layer.synchronized for layer in norms)


def test_strided_convolutions_pad_both_sides():
    # An image and its mirror image must give mirrored feature maps where the kernels are symmetric.
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
def test_narrow_networks_have_no_convolution_whose_gradient_onednn_writes_past_its_buffer(width):
    model = backbones.IResNet((1, 1), width=width, input_shape=(16, 16, 3))
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    strided = [layer for layer in convolutions if layer.kernel_size == (1, 1) and layer.strides != (1, 1)]
    assert all(layer.input.shape[-1] >= 16 for layer in strided)
    # The shortcut is the strided convolution all the same, and has its name and weights.
    shortcut = model.get_layer("stage1_block1_shortcut_conv")
    before, after = model.get_layer("stem_prelu").output, shortcut.output
    x, y = keras.Model(model.input, [before, after])(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
    x, y = keras.ops.convert_to_numpy(x), keras.ops.convert_to_numpy(y)
    kernel = keras.ops.convert_to_numpy(shortcut.kernel)[0, 0]
    np.testing.assert_allclose(y, x[:, ::2, ::2] @ kernel, atol=1e-5)
