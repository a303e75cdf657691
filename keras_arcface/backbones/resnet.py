"""ResNet-50 of `keras.applications`, for images of other objects than faces."""

import os
import warnings
import zipfile

import keras
from keras import ops

from keras_arcface._arguments import check

# Mean pixel of ImageNet, RGB in 0..255, which the networks of `keras.applications.resnet` subtract.
_MEAN_PIXEL = (123.68, 116.779, 103.939)

# The convolutions that halve the resolution of the last stage.
_LAST_STRIDED = ("conv5_block1_0_conv", "conv5_block1_1_conv")


def ResNet50(input_shape=(224, 224, 3), last_stride=2, weights=None, name="resnet50"):
    """Builds the ResNet-50 of `keras.applications`, optionally with weights trained on ImageNet.

    The network is for images of any objects, such as birds, products or whole people, with more pixels than a face: it
    reduces the resolution 32 times. It has 23.6 million parameters. Its pixels are those of ImageNet, BGR minus a mean,
    but this backbone takes RGB in [-1, 1] like all others of this package.

    With `last_stride=1`, the last stage keeps the resolution of the stage before it. The weights are the same for both
    strides.

    Unlike in the ResNet-50 of torchvision, a block with a stride has it in its first convolution, and convolutions have
    a bias.

    Args:
        input_shape: shape of an image, `(height, width, 3)`, at least 32 x 32.
        last_stride: stride of the last stage, 1 or 2. The paper on person re-identification uses 1.
        weights: "imagenet" for the weights that Keras downloads, the path of a weights file of
            `keras.applications.ResNet50` without its top (`.h5`, `.weights.h5` or `.keras`), or None for random ones.
        name: name of the model.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` in [-1, 1] to a feature map, by default
        `(batch, 224, 224, 3)` to `(batch, 7, 7, 2048)`.

    Raises:
        FileNotFoundError: if the file with the weights does not exist.
        ValueError: if an argument is out of its range, or the file contains other weights.

    Examples:
        The network of the recipe `market_r50`, without its weights, which takes some seconds:

            backbone = ResNet50(input_shape=(256, 128, 3), last_stride=1)
            embedder = make_embedder(backbone, dim=2048, dropout=0.0, neck="BNNeck")

    References:
        - [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385)
        - [Bag of Tricks and a Strong Baseline for Deep Person Re-identification](https://arxiv.org/abs/1903.07071),
          section 3.5, on the last stride
    """
    check("last_stride", last_stride, last_stride in (1, 2), "1 or 2")
    network = _load(tuple(input_shape), weights)
    if last_stride == 1:
        network = _without_last_stride(network)
    # Reverses the order of the channels in the weights instead of the images.
    kernel = network.get_layer("conv1_conv").kernel
    kernel.assign(ops.flip(kernel, axis=2))
    images = keras.Input(input_shape, name="images")
    offset = [127.5 - mean for mean in _MEAN_PIXEL]
    pixels = keras.layers.Rescaling(127.5, offset=offset, dtype="float32", name="imagenet_pixels")(images)
    return keras.Model(images, network(pixels), name=name)


def _load(input_shape, weights):
    arguments = {"input_shape": input_shape, "include_top": False}
    if weights in (None, "imagenet"):
        return keras.applications.ResNet50(weights=weights, **arguments)
    path = os.fspath(weights)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'weights must be "imagenet", the path of a weights file, or None. Received: weights={path!r}, which does '
            "not exist"
        )
    network = keras.applications.ResNet50(weights=None, **arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras only warns of some layers without weights
            network.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must contain the weights of keras.applications.ResNet50(include_top=False), in a file .h5, "
            f".weights.h5 or .keras. Received: {error}"
        ) from error
    return network


def _without_last_stride(network):
    config = network.get_config()
    for layer in config["layers"]:
        if layer["config"]["name"] in _LAST_STRIDED:
            layer["config"]["strides"] = (1, 1)
    changed = keras.Model.from_config(config)
    changed.set_weights(network.get_weights())
    return changed
