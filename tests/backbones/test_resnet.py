"""ResNet50 against `keras.applications`, with its preprocessing and its weights files."""

import keras
import numpy as np
import pytest
from keras import ops
from small_resnet import small_resnet

from keras_arcface import backbones

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3)).astype("float32")


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(keras.applications, "ResNet50", small_resnet)


def load(path, **options):
    return backbones.ResNet50(PIXELS.shape[1:], weights=path, **options)


def save_weights(path):
    """Writes random weights and returns the network of `keras.applications` that has them."""
    network = keras.applications.ResNet50(include_top=False, weights=None, input_shape=PIXELS.shape[1:])
    generator = np.random.default_rng(1)
    network.set_weights([generator.uniform(0.5, 1.5, w.shape) * (np.array(w) + 0.01) for w in network.weights])
    if path.suffixes[-2:] == [".weights", ".h5"]:
        network.save_weights(path)
    else:
        network.save(path)
    return network


def outputs(model, pixels):
    return ops.convert_to_numpy(model(pixels, training=False))


def preprocess(pixels):
    return keras.applications.resnet.preprocess_input(pixels.copy())


def assert_is_network(path):
    network, backbone = save_weights(path), load(path)
    expected = outputs(network, preprocess(PIXELS))
    found = outputs(backbone, PIXELS / 127.5 - 1)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{path.name}: {error:.1e} of the largest output")
    assert error < 1e-4
    return network, backbone


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", ["resnet.keras", "resnet.weights.h5"])
def test_backbone_takes_the_pixels_of_this_package(name, tmp_path):
    network, _ = assert_is_network(tmp_path / name)
    expected = outputs(network, preprocess(PIXELS))
    for wrong in (PIXELS, PIXELS / 127.5 - 1, preprocess(PIXELS[..., ::-1])):  # the test can fail
        assert np.abs(outputs(network, wrong) - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.usefixtures("_small")
def test_a_legacy_file_is_read(tmp_path):
    """The format of the files that Keras downloads."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    network = save_weights(tmp_path / "new.keras")
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    expected = outputs(load(tmp_path / "new.keras"), PIXELS)
    np.testing.assert_array_equal(outputs(load(tmp_path / "notop.h5"), PIXELS), expected)


@pytest.mark.usefixtures("_small")
def test_weights_of_imagenet_are_those_of_keras():
    first, second = load("imagenet"), load("imagenet")
    np.testing.assert_array_equal(outputs(first, PIXELS), outputs(second, PIXELS))
    assert (outputs(first, PIXELS) != outputs(load(None), PIXELS)).any()


@pytest.mark.usefixtures("_small")
def test_last_stride_keeps_the_weights_and_the_resolution(tmp_path):
    """The last stage without a stride, at every second position, has the first convolutions of that with a stride."""
    network = save_weights(tmp_path / "resnet.keras")
    fine = load(tmp_path / "resnet.keras", last_stride=1)
    x = outputs(keras.Model(network.input, network.get_layer("conv1_bn").output), preprocess(PIXELS))
    kernels = {name: network.get_layer(f"conv5_block1_{name}_conv").get_weights() for name in "012"}
    shortcut, x = (x @ kernels[name][0][0, 0] + kernels[name][1] for name in "01")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    expected = shortcut + kernels["2"][1]
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            expected = expected + window @ kernels["2"][0][row, column]
    found = outputs(fine, PIXELS / 127.5 - 1)
    assert found.shape == (2, 16, 8, 6)
    assert load(None).output_shape == (None, 8, 4, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.usefixtures("_small")
def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^weights must be .*absent.h5', which does not exist"):
        load(tmp_path / "absent.h5")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    for name in ("other.weights.h5", "text.h5", "text.keras", "text.txt"):
        if name.startswith("text"):
            (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=rf"{name} must contain the weights of keras.applications.ResNet50"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match=r"last_stride must be 1 or 2. Received: last_stride=3"):
        load(None, last_stride=3)


@pytest.mark.slow
def test_the_network_of_keras(tmp_path):
    network, backbone = assert_is_network(tmp_path / "resnet.weights.h5")
    assert backbone.output_shape == (None, 2, 1, 2048)
    assert backbone.count_params() == network.count_params() == 23_587_712
    assert load(None, last_stride=1).output_shape == (None, 4, 2, 2048)
