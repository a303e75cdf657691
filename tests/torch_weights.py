"""Copies weights of PyTorch networks to Keras layers, for comparisons of networks."""

import numpy as np
import torch
from keras import layers
from torch import nn

from keras_arcface.models import make_embedder

PARTS = ("weight", "bias", "running_mean", "running_var")
# Order of the axes of a kernel in Keras, as axes of the weight in PyTorch.
KERNEL_AXES = {layers.Conv2D: (2, 3, 1, 0), layers.DepthwiseConv2D: (2, 3, 0, 1), layers.Dense: (1, 0)}


def copy_weights(backbone, embedder, network, name_of, special=None):
    """Sets the weights of an embedder to those of a network, and returns the names of those that were not used."""
    state = {name: value.numpy() for name, value in network.state_dict().items() if "num_batches" not in name}
    for layer in [*backbone.layers, *embedder.layers]:
        if not layer.weights or layer is backbone:
            continue
        if special and layer.name in special:
            layer.set_weights(special[layer.name](state))
            continue
        name = name_of(layer.name)
        names = [name] if name in state else [f"{name}.{part}" for part in PARTS if f"{name}.{part}" in state]
        first, *others = (state.pop(part) for part in names)
        if isinstance(layer, layers.Dense):
            first = first.reshape(first.shape[:2])  # some are 1 x 1 convolutions
        if type(layer) in KERNEL_AXES:
            first = first.transpose(KERNEL_AXES[type(layer)])
        if isinstance(layer, layers.BatchNormalization):
            others[-1] = others[-1] + np.float32(network.get_submodule(name).eps - layer.epsilon)
        layer.set_weights([first.reshape(layer.weights[0].shape), *others])
    return set(state)


def compare(backbone, network, name_of, neck="E", special=None):
    """Returns the largest difference of an embedder and a network with random weights, which are copied.

    Args:
        backbone: Keras backbone.
        network: PyTorch network, whose weights are changed.
        name_of: function from the name of a Keras layer to the name of a module or a parameter of the network.
        neck: neck of the embedder.
        special: functions from the state dict to the weights of single layers.

    Returns:
        The L2 norm of the difference for an image, relative to the distance of its embedding to the mean embedding, and
        the names of the weights of the network that were not used.
    """
    pixels = smooth_images(8, backbone.input_shape[1:3])
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    randomize(network, inputs)
    with torch.no_grad():
        expected = network(inputs).numpy()
    embedder = make_embedder(backbone, dim=expected.shape[1], dropout=0.0, scaled=neck == "E", neck=neck)
    unused = copy_weights(backbone, embedder, network, name_of, special)
    outputs = np.asarray(embedder(pixels))
    differences = np.linalg.norm(outputs - expected, axis=1)
    largest = np.max(differences / np.linalg.norm(expected - expected.mean(axis=0), axis=1))
    print(f"largest difference: {largest:.1e} of the distance to the mean embedding")
    return largest, unused


def smooth_images(count, size):
    """Returns images `(count, height, width, 3)` in 0..255 that differ in more than noise."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(0, 60, (count, -(-size[0] // 8), -(-size[1] // 8), 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = generator.uniform(0, 255, (count, 1, 1, 3)) + coarse[:, : size[0], : size[1]]
    return np.clip(images, 0, 255).astype(np.float32)


def randomize(network, inputs, seed=0):
    """Sets random weights, and statistics of BatchNorm that are near those of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for name, parameter in network.named_parameters():
        module = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.PReLU):
            parameter.data.uniform_(0, 0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.data.normal_(0, 0.2, generator=generator)
        elif parameter.ndim == 1 or "temperature" in name:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(inputs)
    for norm in norms:
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.3 * spread * torch.randn(spread.shape, generator=generator)
        norm.running_var *= torch.empty_like(spread).uniform_(0.5, 2, generator=generator)
    return network.eval()
