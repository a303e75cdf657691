"""ONNX files -> `Weights`: the graph is followed from the images on, and what is met gets arcface_torch's name.

Exporters rename weights and fold BatchNorm into the convolution before it, so neither names nor counts can be trusted:
what a weight is follows from where it stands. A graph with anything more or less than a network is refused.
"""

import numpy as np

from keras_arcface.pretrained.onnx_graph import OnnxGraph
from keras_arcface.pretrained.onnx_graph import describe
from keras_arcface.pretrained.weights import UnfitError
from keras_arcface.pretrained.weights import Weight
from keras_arcface.pretrained.weights import Weights

_EPSILON = 1e-5  # of every BatchNorm here and in arcface_torch


def read_onnx(path) -> Weights:
    """Reads an `.onnx` file: an IResNet or a MobileFaceNet, images `(n, 3, height, width)` -> embeddings."""
    graph = OnnxGraph(path)
    network = _Network(graph)
    x, scale = _normalized_pixels(graph)
    stem = graph.after(x, "Conv")
    if graph.attribute(stem, "strides", [1, 1]) == [1, 1]:
        network.follow_iresnet(stem, scale)
    else:
        network.follow_mobilefacenet(stem, scale)
    return Weights(network.weights, graph.input_size)


def _normalized_pixels(graph):
    """Passes over the pixels' normalization, if the graph has one.

    Returns:
        The tensor behind it, and what `x / 127.5 - 1` must be multiplied with, per channel, to be the same.
    """
    tensor, scale, offset = graph.images, np.ones(3), np.zeros(3)
    while len(graph.takers(tensor)) == 1 and graph.takers(tensor)[0].op_type in ("Sub", "Add", "Mul", "Div"):
        node = graph.takers(tensor)[0]
        index = 1 - graph.inputs(node).index(tensor)
        value = graph.constant(node, index).astype(np.float64)
        if value.size not in (1, 3) or (value.size == 3 and value.shape[-3:] != (3, 1, 1)):
            raise UnfitError(f"expected a number, or one per channel, in {describe(node)}. Received: {value.shape}")
        if index == 0 and node.op_type in ("Sub", "Div"):
            graph.refuse(tensor, "pixels minus, or divided by, a constant")
        value = value.ravel()
        if node.op_type in ("Mul", "Div"):
            factor = value if node.op_type == "Mul" else 1 / value
            scale, offset = scale * factor, offset * factor
        else:
            offset = offset + (value if node.op_type == "Add" else -value)
        tensor = node.output[0]
    if tensor == graph.images:  # such files take (x - 127.5) / 127.5
        return tensor, scale
    # Another center could not be had exactly: the convolution behind pads with zeros.
    if not np.allclose(127.5 * scale + offset, 0, atol=1e-5 * np.abs(127.5 * scale)):
        raise UnfitError(
            "expected pixels centered at 127.5, and at most scaled otherwise than x / 127.5 - 1. "
            f"Received: {scale} * x + {offset}, up to {describe(node)}"
        )
    return tensor, 127.5 * scale


class _Network:
    """Follows the graph part by part, keeping in `weights` what is met. Each method returns the tensor behind."""

    def __init__(self, graph):
        self._graph = graph
        self.weights: dict[str, Weight] = {}

    def follow_iresnet(self, stem, scale):
        graph = self._graph
        x = self._conv_norm(stem, "conv1", "bn1", scale=scale)
        x = self._prelu(x, "prelu")
        stage = block = 0
        while len(graph.takers(x)) == 2:
            norm, shortcut = graph.fork(x, "BatchNormalization", "Conv", "Add")
            stage, block = (stage + 1, 0) if shortcut.op_type == "Conv" else (stage, block + 1)
            name = f"layer{stage}.{block}"
            y = self._norm(norm, f"{name}.bn1")
            y = self._conv_norm(graph.after(y, "Conv"), f"{name}.conv1", f"{name}.bn2")
            y = self._prelu(y, f"{name}.prelu")
            y = self._conv_norm(graph.after(y, "Conv"), f"{name}.conv2", f"{name}.bn3", strides=2 if block == 0 else 1)
            if block == 0:
                x = self._conv_norm(shortcut, f"{name}.downsample.0", f"{name}.downsample.1", strides=2)
            x = self._sum(x, y)
        x = self._norm(graph.after(x, "BatchNormalization"), "bn2")
        self._embedding(x, "fc", "features")

    def follow_mobilefacenet(self, stem, scale):
        graph = self._graph
        x = self._conv_norm_prelu(stem, "layers.0", strides=2, scale=scale)
        for stage in range(1, 8):
            name = f"layers.{stage}"
            if stage == 1 and len(graph.takers(x)) == 1:
                x = self._conv_norm_prelu(graph.after(x, "Conv"), name)
            elif stage % 2 == 0:
                x = self._bottleneck(graph.after(x, "Conv"), name, strides=2)
            else:
                block = 0
                while len(graph.takers(x)) == 2:
                    conv, _ = graph.fork(x, "Conv", "Add")
                    x = self._sum(x, self._bottleneck(conv, f"{name}.layers.{block}"))
                    block += 1
        x = self._conv_norm_prelu(graph.after(x, "Conv"), "conv_sep")
        last = "features.layers.0"
        x = self._conv_norm(graph.after(x, "Conv"), f"{last}.layers.0", f"{last}.layers.1", padded=False)
        self._embedding(x, "features.layers.2", "features.layers.3")

    def _bottleneck(self, node, name, strides=1):
        x = self._conv_norm_prelu(node, f"{name}.layers.0")
        x = self._conv_norm_prelu(self._graph.after(x, "Conv"), f"{name}.layers.1", strides=strides)
        return self._conv_norm(self._graph.after(x, "Conv"), f"{name}.layers.2.layers.0", f"{name}.layers.2.layers.1")

    def _conv_norm_prelu(self, node, name, **kwargs):
        return self._prelu(self._conv_norm(node, f"{name}.layers.0", f"{name}.layers.1", **kwargs), f"{name}.layers.2")

    def _conv_norm(self, node, conv, norm, strides=1, padded=True, scale=None):
        graph = self._graph
        kernel = graph.constant(node, 1)
        if kernel.ndim != 4:
            raise UnfitError(f"expected a kernel of 4 axes in {describe(node)}. Received: shape {kernel.shape}")
        graph.expect_attribute(node, "auto_pad", b"NOTSET", default=b"NOTSET")
        graph.expect_attribute(node, "strides", [strides] * 2, default=[1] * 2)
        graph.expect_attribute(node, "dilations", [1] * 2, default=[1] * 2)
        pads = [side // 2 if padded else 0 for side in kernel.shape[2:]] * 2
        graph.expect_attribute(node, "pads", pads, default=[0] * 4)
        if scale is not None:
            kernel = kernel * scale[:, None, None]
        self._keep(f"{conv}.weight", kernel, node)
        bias = graph.constant(node, 2) if len(node.input) > 2 else np.zeros(len(kernel))
        return self._norm_if_any(node.output[0], norm, bias, node)

    def _norm_if_any(self, tensor, name, bias, node):
        """A BatchNorm that follows; where it has been folded into the node before, one that adds its bias alone."""
        takers = self._graph.takers(tensor)
        if len(takers) == 1 and takers[0].op_type == "BatchNormalization":
            return self._norm(takers[0], name, bias)
        self._keep(f"{name}.weight", np.ones(bias.shape), node)
        self._keep(f"{name}.bias", bias, node)
        self._keep(f"{name}.running_mean", np.zeros(bias.shape), node)
        self._keep(f"{name}.running_var", np.full(bias.shape, 1 - _EPSILON), node)
        return tensor

    def _norm(self, node, name, bias=0.0):
        """A BatchNorm, with the bias of what is before it: ours have none there."""
        self._graph.expect_attribute(node, "training_mode", 0, default=0)
        gamma, beta, mean, variance = (self._graph.constant(node, index).astype(np.float64) for index in (1, 2, 3, 4))
        epsilon = self._graph.attribute(node, "epsilon", _EPSILON)
        if abs(epsilon - _EPSILON) > 1e-9:
            gamma = gamma * np.sqrt((variance + _EPSILON) / (variance + epsilon))
        self._keep(f"{name}.weight", gamma, node)
        self._keep(f"{name}.bias", beta, node)
        self._keep(f"{name}.running_mean", mean - bias, node)
        self._keep(f"{name}.running_var", variance, node)
        return node.output[0]

    def _prelu(self, tensor, name):
        node = self._graph.after(tensor, "PRelu")
        self._keep(f"{name}.weight", self._graph.constant(node, 1).ravel(), node)
        return node.output[0]

    def _sum(self, shortcut, branch):
        node = self._graph.after(branch, "Add")
        if sorted(self._graph.inputs(node)) != sorted((shortcut, branch)):
            self._graph.refuse(branch, "the sum with this block's shortcut")
        return node.output[0]

    def _embedding(self, tensor, linear, norm):
        graph = self._graph
        node = graph.after(tensor, "Flatten", "Reshape")
        graph.expect_attribute(node, "axis", 1, default=1)
        node = graph.after(node.output[0], "Gemm", "MatMul")
        for name, expected in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
            graph.expect_attribute(node, name, expected, default=expected)
        kernel = graph.constant(node, 1)
        if not graph.attribute(node, "transB", 0):
            kernel = kernel.T
        self._keep(f"{linear}.weight", kernel, node)
        bias = graph.constant(node, 2) if len(node.input) > 2 else np.zeros(len(kernel))
        tensor = node.output[0]
        if node.op_type == "MatMul" and [taker.op_type for taker in graph.takers(tensor)] == ["Add"]:
            node = graph.after(tensor, "Add")
            bias = graph.constant(node, 1 - graph.inputs(node).index(tensor))
            tensor = node.output[0]
        graph.expect_end(self._norm_if_any(tensor, norm, bias, node))

    def _keep(self, name, array, node):
        self.weights[name] = Weight(np.asarray(array, np.float32), f"node {describe(node)}")
