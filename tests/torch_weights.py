"""Copies weights of PyTorch modules to Keras layers, for comparisons of networks."""

import numpy as np
import torch
from keras import layers

# Order of the axes of a kernel in Keras, as axes of the weight in PyTorch.
KERNEL_AXES = {layers.Conv2D: (2, 3, 1, 0), layers.DepthwiseConv2D: (2, 3, 0, 1), layers.Dense: (1, 0)}


def copy_module(layer, module):
    """Sets the weights of a Keras layer to those of the corresponding module."""
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    if isinstance(layer, layers.BatchNormalization):
        values = [weights[name] for name in ("weight", "bias", "running_mean", "running_var")]
    elif isinstance(layer, layers.LayerNormalization):
        values = [weights["weight"], weights["bias"]]
    elif isinstance(layer, layers.PReLU):
        values = [weights["weight"].reshape(layer.alpha.shape)]
    else:
        values = [weights["weight"].transpose(KERNEL_AXES[type(layer)])]
        values += [weights["bias"]] if layer.use_bias else []
    layer.set_weights(values)


def copy_in_order(model, modules):
    """Sets the weights of the layers of a model to those of modules in the same order."""
    for layer, module in zip([layer for layer in model.layers if layer.weights], modules, strict=True):
        copy_module(layer, module)


def leaves(module):
    """Returns the modules with weights of a network, in the order of their definition."""
    return [inner for inner in module.modules() if inner.state_dict() and not list(inner.children())]


def largest_difference(model, network, images):
    """Returns the largest difference of the outputs of a Keras and a PyTorch network.

    Args:
        model: Keras model of images `(n, height, width, 3)`.
        network: function of images `(n, 3, height, width)`.
        images: images in [-1, 1].

    Returns:
        The L2 norm of the difference for an image, relative to the distance of its output to the mean output.
    """
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    expected = expected.permute(0, 2, 3, 1) if expected.ndim == 4 else expected
    expected = expected.reshape(len(images), -1).numpy()
    outputs = np.asarray(model(images)).reshape(expected.shape)
    differences = np.linalg.norm(outputs - expected, axis=1)
    return np.max(differences / np.linalg.norm(expected - expected.mean(axis=0), axis=1))
