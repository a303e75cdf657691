"""Setting of the weights of Keras layers from arrays in the order of PyTorch."""

import keras
import numpy as np
from keras import layers

from keras_arcface.pretrained.layouts import Network
from keras_arcface.pretrained.weights import Weights


def set_weights(embedder: keras.Model, network: Network, weights: Weights) -> None:
    """Sets the weights of an embedder, and removes their arrays.

    Args:
        embedder: model of `make_embedder` with the backbone of the network.
        network: the recognized network.
        weights: weights of the file.

    Raises:
        UnsupportedFileError: if an array does not exist, or has another shape.
    """
    neck = ("neck_dense", "embedding") if network.neck == "E" else ()
    for layer in (*network.backbone.layers, *embedder.layers):
        if layer.weights and layer.name not in neck and layer is not network.backbone:
            _set_layer(layer, network.module_name(layer.name), weights)
    if neck:
        _set_neck(embedder, network, weights)


def _set_layer(layer, module, weights):
    if isinstance(layer, layers.BatchNormalization):
        arrays = _pop_batch_norm(weights, module, layer.gamma.shape)
        for variable, array in zip(
            (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance), arrays, strict=True
        ):
            variable.assign(array)
        return
    if isinstance(layer, layers.LayerNormalization):
        layer.gamma.assign(weights.pop(f"{module}.weight", layer.gamma.shape))
        layer.beta.assign(weights.pop(f"{module}.bias", layer.beta.shape))
        return
    if isinstance(layer, layers.PReLU):
        slopes = weights.pop(f"{module}.weight", layer.alpha.shape[-1:])
        layer.alpha.assign(slopes.reshape(layer.alpha.shape))
        return
    if isinstance(layer, layers.EinsumDense) and f"{module}.weight" not in weights:
        # A factor for each channel or head, which is a parameter of its module in PyTorch.
        axes = (1,) * (2 if module.endswith("temperature") else 0)
        layer.kernel.assign(weights.pop(module, (*layer.kernel.shape, *axes)).reshape(layer.kernel.shape))
        return
    _set_kernel(layer, f"{module}.weight", weights)
    if layer.bias is not None:
        layer.bias.assign(weights.pop(f"{module}.bias", layer.bias.shape))


def _set_kernel(layer, name, weights):
    """Sets a kernel, whose axes have another order in PyTorch."""
    shape = layer.kernel.shape
    if isinstance(layer, layers.DepthwiseConv2D):
        kernel = weights.pop(name, (shape[2], 1, *shape[:2])).transpose(2, 3, 0, 1)
    elif isinstance(layer, layers.Conv2D):
        kernel = weights.pop(name, (shape[3], shape[2], *shape[:2])).transpose(2, 3, 1, 0)
    elif isinstance(layer, layers.EinsumDense):
        kernel = weights.pop(name, shape)
    elif weights.rank(name) == 4:  # a dense layer of feature maps can be a convolution in PyTorch
        kernel = weights.pop(name, (shape[1], shape[0], 1, 1))[:, :, 0, 0].T
    else:
        kernel = weights.pop(name, (shape[1], shape[0])).T
    layer.kernel.assign(kernel)


def _pop_batch_norm(weights, module, shape):
    return [weights.pop(f"{module}.{name}", shape) for name in ("weight", "bias", "running_mean", "running_var")]


def _set_neck(embedder, network, weights):
    """Sets the weights of the dense layer and the last BatchNorm.

    The dense layer has no bias, so a bias in the file is subtracted from the mean of BatchNorm. BatchNorm has no scale,
    so a scale in the file is multiplied with the kernel and the mean. Both are exact.
    """
    dense, norm = embedder.get_layer("neck_dense"), embedder.get_layer("embedding")
    linear, batch_norm = network.module_name("neck_dense"), network.module_name("embedding")
    rows, columns, channels = network.backbone.output_shape[1:]
    kernel = weights.pop(f"{linear}.weight", (network.dim, channels * rows * columns))
    scale, offset, mean, variance = _pop_batch_norm(weights, batch_norm, (network.dim,))
    if f"{linear}.bias" in weights:
        mean = mean - weights.pop(f"{linear}.bias", (network.dim,))
    if np.any(scale != 1):
        kernel, mean = kernel * scale[:, None], mean * scale
    # PyTorch flattens a feature map with channels first, Keras with channels last.
    kernel = kernel.reshape(network.dim, channels, rows, columns).transpose(2, 3, 1, 0)
    dense.kernel.assign(kernel.reshape(rows * columns * channels, network.dim))
    norm.beta.assign(offset)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
