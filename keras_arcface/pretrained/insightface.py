"""InsightFace's published networks -> embedders."""

from pathlib import Path

import numpy as np
from keras import layers

from keras_arcface.models import make_embedder
from keras_arcface.pretrained.layouts import recognize
from keras_arcface.pretrained.onnx_networks import read_onnx
from keras_arcface.pretrained.state_dicts import read_safetensors
from keras_arcface.pretrained.state_dicts import read_torch
from keras_arcface.pretrained.weights import UnfitError

_READERS = {".pth": read_torch, ".pt": read_torch, ".safetensors": read_safetensors, ".onnx": read_onnx}


def load_insightface(path, dropout=0.0, synchronized=False, name="embedder"):
    """Loads a network of InsightFace's arcface_torch, an IResNet or a MobileFaceNet, as an embedder of this package.

    Depth, width, image size and length of the embedding are read from the weights, never from the file's name. The
    embedder takes RGB in 0..255, as all of this package's do: the pixels' normalization is inside, and one in the file
    is folded into the first convolution.

    >>> # embedder = load_insightface("ms1mv3_arcface_r50/backbone.pth")
    >>> # embedder.save("r50.keras")

    ONNX files mostly come with BatchNorm folded into the convolutions before it. They give the same embeddings, but the
    statistics are gone, and in training BatchNorm would normalize anew what is normalized already: train on from a
    `.pth`, or set `trainable = False` on the BatchNorms.

    Args:
        path: one of
            - `.pth`, `.pt`: a state dict such as `backbone.pth`, or a checkpoint that holds one; needs PyTorch, whose
              `weights_only` loader runs no code of the file;
            - `.safetensors`: the same names; needs safetensors;
            - `.onnx`: what torch.onnx exports of these networks (w600k_r50.onnx, glint360k ...) and mxnet of the
              same IResNets, recognized by the structure; needs onnx. Weights that the graph computes from constants
              (reshaped, cast, dequantized) are computed once.
        dropout: share of the features that is dropped when the embedder is trained on, see `make_embedder`;
            arcface_torch has 0.
        synchronized: whether BatchNorm normalizes by the statistics of the whole batch instead of each replica's share
            (TensorFlow backend only).
        name: name of the model.

    Returns:
        A functional `keras.Model` as `keras_arcface.models.make_embedder` makes it,
        `(batch, height, width, 3)` -> `(batch, dim)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: saying what to install, if the file's format cannot be read.
        ValueError: naming the file and the key or node in it, if it holds something else than such a network: a vision
            transformer, a network with squeeze-and-excitation, quantized activations, pixels not centered at 127.5.

    References:
        - [InsightFace's arcface_torch](https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} has none of the suffixes {', '.join(_READERS)}. Received: {path.suffix!r}")
    try:
        weights = reader(path)
        layout = recognize(weights, synchronized)
        embedder = make_embedder(layout.backbone, layout.dim, dropout, synchronized, name=name)
        for layer in (*layout.backbone.layers, *embedder.layers):
            _fill(layer, layout.module_of, weights)
        _fill_neck(embedder, layout, weights)
        weights.expect_none_left()
    except UnfitError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    return embedder


def _fill(layer, module_of, weights):
    if not layer.weights or layer.name in ("neck_dense", "embedding"):
        return
    if isinstance(layer, layers.Conv2D):
        rows, columns, inputs, filters = layer.kernel.shape
        kernel = weights.take(f"{module_of(layer.name)}.weight", (filters, inputs, rows, columns))
        layer.kernel.assign(kernel.transpose(2, 3, 1, 0))
    elif isinstance(layer, layers.DepthwiseConv2D):
        rows, columns, channels, _ = layer.kernel.shape
        kernel = weights.take(f"{module_of(layer.name)}.weight", (channels, 1, rows, columns))
        layer.kernel.assign(kernel.transpose(2, 3, 0, 1))
    elif isinstance(layer, layers.BatchNormalization):
        for variable, array in zip(
            (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance),
            _batch_norm(weights, module_of(layer.name), layer.gamma.shape),
            strict=True,
        ):
            variable.assign(array)
    elif isinstance(layer, layers.PReLU):
        slopes = weights.take(f"{module_of(layer.name)}.weight", layer.alpha.shape[-1:])
        layer.alpha.assign(slopes.reshape(layer.alpha.shape))


def _batch_norm(weights, module, shape):
    return [weights.take(f"{module}.{name}", shape) for name in ("weight", "bias", "running_mean", "running_var")]


def _fill_neck(embedder, layout, weights):
    """The dense layer and the BatchNorm behind it. Ours have neither bias nor scale: both move where they are exact."""
    dense, norm = embedder.get_layer("neck_dense"), embedder.get_layer("embedding")
    linear, batch_norm = layout.module_of("neck_dense"), layout.module_of("embedding")
    rows, columns, channels = layout.backbone.output_shape[1:]
    kernel = weights.take(f"{linear}.weight", (layout.dim, channels * rows * columns))
    scale, offset, mean, variance = _batch_norm(weights, batch_norm, (layout.dim,))
    if f"{linear}.bias" in weights:
        mean = mean - weights.take(f"{linear}.bias", (layout.dim,))
    if np.any(scale != 1):
        kernel, mean = kernel * scale[:, None], mean * scale
    # PyTorch flattens a map channels first, Keras channels last.
    kernel = kernel.reshape(layout.dim, channels, rows, columns).transpose(2, 3, 1, 0)
    dense.kernel.assign(kernel.reshape(rows * columns * channels, layout.dim))
    norm.beta.assign(offset)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
