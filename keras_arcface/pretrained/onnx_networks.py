"""Reader of the weights in ONNX files, which follows the graph from the images to the embedding.

Exporters rename weights and fold BatchNorm into the preceding convolution. A weight is therefore identified by its
position in the graph, and gets the name that it has in arcface_torch. A graph with additional or missing nodes is
rejected.
"""

from pathlib import Path

import numpy as np

from keras_arcface.backbones import mobilenet
from keras_arcface.pretrained.onnx_reader import OnnxGraph
from keras_arcface.pretrained.onnx_reader import describe
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

_EPSILON = 1e-5  # value in the BatchNorm layers of this package and of arcface_torch, except MobileNetV1


def read_onnx(path: Path) -> Weights:
    """Reads an `.onnx` file of an IResNet, a MobileFaceNet or SFace with images `(n, 3, height, width)`.

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        UnsupportedFileError: if the graph is another network.
        Exception: of many types if the file is damaged.
    """
    graph = OnnxGraph(path)
    if graph.channels_last:
        raise UnsupportedFileError("expected images (n, 3, height, width). Received: images (n, height, width, 3)")
    network = _WeightCollector(graph)
    x, scale = _read_scale(graph)
    stem = graph.only_consumer(x, "Conv")
    if graph.attribute(stem, "strides", [1, 1]) != [1, 1]:
        network.read_mobilefacenet(stem, scale)
    elif network.has_blocks_without_shortcut(stem):
        network.read_mobilenet(stem, scale)
    else:
        network.read_iresnet(stem, scale)
    network.weights.input_size = graph.input_size
    return network.weights


def read_normalization(graph: OnnxGraph) -> tuple[str, np.ndarray, np.ndarray]:
    """Reads the normalization of pixels at the beginning of a graph, `scale * x + offset`.

    Returns:
        The name of the normalized tensor, or of the images if nothing normalizes them; and scale and offset of each
        channel.

    Raises:
        UnsupportedFileError: if it is arithmetic with other constants.
    """
    tensor, scale, offset = graph.images, np.ones(3), np.zeros(3)
    while len(graph.consumers(tensor)) == 1 and graph.consumers(tensor)[0].op_type in ("Sub", "Add", "Mul", "Div"):
        node = graph.consumers(tensor)[0]
        index = 1 - graph.inputs(node).index(tensor)
        value = graph.constant(node, index).astype(np.float64)
        expected = (3,) if graph.channels_last else (3, 1, 1)
        if value.size not in (1, 3) or (value.size == 3 and value.shape[-len(expected) :] != expected):
            raise UnsupportedFileError(
                f"expected one number, or one per channel, in {describe(node)}. Received: shape {value.shape}"
            )
        if index == 0 and node.op_type in ("Sub", "Div"):
            graph.raise_unexpected(tensor, "pixels minus a constant or divided by one")
        value = value.ravel()
        if node.op_type in ("Mul", "Div"):
            factor = value if node.op_type == "Mul" else 1 / value
            scale, offset = scale * factor, offset * factor
        else:
            offset = offset + (value if node.op_type == "Add" else -value)
        tensor = node.output[0]
    return tensor, scale, offset


def _read_scale(graph):
    """Returns the name of the normalized tensor, and the ratio of its values to `x / 127.5 - 1` for each channel."""
    tensor, scale, offset = read_normalization(graph)
    if tensor == graph.images:  # a file without normalization expects (x - 127.5) / 127.5
        return tensor, scale
    # Another center cannot be folded into the convolution, because it pads images with zeros.
    if not np.allclose(127.5 * scale + offset, 0, atol=1e-5 * np.abs(127.5 * scale)):
        raise UnsupportedFileError(
            "expected normalized pixels that are a multiple of x / 127.5 - 1. "
            f"Received: {scale} * x + {offset} after {describe(graph.producer(tensor))}"
        )
    return tensor, 127.5 * scale


class _WeightCollector:
    """Collector of the weights of a graph.

    Private methods read one layer or block, and return the name of its output tensor.
    """

    def __init__(self, graph):
        self._graph = graph
        self.weights = Weights(graph.file_size)

    def read_iresnet(self, stem, scale):
        """Collects the weights of an IResNet. `stem` is its first convolution, `scale` a factor for its kernel."""
        graph = self._graph
        x = self._conv_norm(stem, "conv1", "bn1", scale=scale)
        x = self._prelu(x, "prelu")
        stage = block = 0
        while len(graph.consumers(x)) == 2:
            norm, shortcut = graph.two_consumers(x, "BatchNormalization", "Conv", "Add", "MaxPool")
            stage, block = (stage, block + 1) if shortcut.op_type == "Add" else (stage + 1, 0)
            name = f"layer{stage}.{block}"
            y = self._norm(norm, f"{name}.bn1")
            y = self._conv_norm(graph.only_consumer(y, "Conv"), f"{name}.conv1", f"{name}.bn2")
            y = self._prelu(y, f"{name}.prelu")
            y = self._conv_norm(
                graph.only_consumer(y, "Conv"), f"{name}.conv2", f"{name}.bn3", strides=2 if block == 0 else 1
            )
            if shortcut.op_type == "Conv":
                x = self._conv_norm(shortcut, f"{name}.downsample.0", f"{name}.downsample.1", strides=2)
            elif shortcut.op_type == "MaxPool":
                x = self._every_second_pixel(shortcut)
            x = self._sum(x, y)
        x = self._norm(graph.only_consumer(x, "BatchNormalization"), "bn2")
        self._embedding(x, "fc", "features")

    def read_mobilefacenet(self, stem, scale):
        """Collects the weights of a MobileFaceNet. `stem` is its first convolution, `scale` a factor for its kernel."""
        graph = self._graph
        x = self._conv_norm_prelu(stem, "layers.0", strides=2, scale=scale)
        for stage in range(1, 8):
            name = f"layers.{stage}"
            if stage == 1 and len(graph.consumers(x)) == 1:
                x = self._conv_norm_prelu(graph.only_consumer(x, "Conv"), name)
            elif stage % 2 == 0:
                x = self._bottleneck(graph.only_consumer(x, "Conv"), name, strides=2)
            else:
                block = 0
                while len(graph.consumers(x)) == 2:
                    conv, _ = graph.two_consumers(x, "Conv", "Add")
                    x = self._sum(x, self._bottleneck(conv, f"{name}.layers.{block}"))
                    block += 1
        x = self._conv_norm_prelu(graph.only_consumer(x, "Conv"), "conv_sep")
        last = "features.layers.0"
        x = self._conv_norm(graph.only_consumer(x, "Conv"), f"{last}.layers.0", f"{last}.layers.1", padded=False)
        self._embedding(x, "features.layers.2", "features.layers.3")

    def has_blocks_without_shortcut(self, stem):
        """Returns whether a single convolution follows the stem and its activation, as in a MobileNetV1."""
        tensor = stem.output[0]
        while [node.op_type for node in self._graph.consumers(tensor)] in (["BatchNormalization"], ["PRelu"]):
            tensor = self._graph.consumers(tensor)[0].output[0]
        return [node.op_type for node in self._graph.consumers(tensor)] == ["Conv"]

    def read_mobilenet(self, stem, scale):
        """Collects the weights of a MobileNetV1, whose names are those of the layers of `backbones.MobileNetV1`."""
        x = self._mobilenet_unit(stem, "stem_conv", "stem", scale=scale)
        for stage, multiples in enumerate(mobilenet.STAGES, 1):
            for block in range(1, len(multiples) + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                for part in ("depthwise", "pointwise"):
                    name = f"stage{stage}_block{block}_{part}"
                    node = self._graph.only_consumer(x, "Conv")
                    x = self._mobilenet_unit(node, name, name, strides=strides if part == "depthwise" else 1)
        x = self._norm(self._graph.only_consumer(x, "BatchNormalization"), "neck_bn")
        self._embedding(x, "neck_dense", "embedding")

    def _mobilenet_unit(self, node, conv, unit, **kwargs):
        x = self._conv_norm(node, conv, f"{unit}_bn", epsilon=mobilenet.EPSILON, **kwargs)
        return self._prelu(x, f"{unit}_prelu")

    def _bottleneck(self, node, name, strides=1):
        x = self._conv_norm_prelu(node, f"{name}.layers.0")
        x = self._conv_norm_prelu(self._graph.only_consumer(x, "Conv"), f"{name}.layers.1", strides=strides)
        return self._conv_norm(
            self._graph.only_consumer(x, "Conv"), f"{name}.layers.2.layers.0", f"{name}.layers.2.layers.1"
        )

    def _conv_norm_prelu(self, node, name, **kwargs):
        return self._prelu(self._conv_norm(node, f"{name}.layers.0", f"{name}.layers.1", **kwargs), f"{name}.layers.2")

    def _conv_norm(self, node, conv, norm, strides=1, padded=True, scale=None, epsilon=_EPSILON):
        graph = self._graph
        kernel = graph.constant(node, 1)
        if kernel.ndim != 4 or (scale is not None and kernel.shape[1] != 3):
            raise UnsupportedFileError(
                f"expected a kernel of 4 axes in {describe(node)}, for 3 channels of images. "
                f"Received: shape {kernel.shape}"
            )
        graph.expect_attribute(node, "auto_pad", b"NOTSET", default=b"NOTSET")
        graph.expect_attribute(node, "strides", [strides] * 2, default=[1] * 2)
        graph.expect_attribute(node, "dilations", [1] * 2, default=[1] * 2)
        pads = [side // 2 if padded else 0 for side in kernel.shape[2:]] * 2
        graph.expect_attribute(node, "pads", pads, default=[0] * 4)
        if scale is not None:
            kernel = kernel * scale[:, None, None]
        self._add(f"{conv}.weight", kernel, node)
        bias = graph.constant(node, 2) if len(node.input) > 2 else np.zeros(len(kernel))
        return self._optional_norm(node.output[0], norm, bias, node, epsilon)

    def _optional_norm(self, tensor, name, bias, node, epsilon=_EPSILON):
        """Reads a following BatchNorm. If none follows, adds the weights of a BatchNorm that only adds the bias."""
        if bias.ndim != 1:
            raise UnsupportedFileError(f"expected a bias of one axis in {describe(node)}. Received: shape {bias.shape}")
        consumers = self._graph.consumers(tensor)
        if len(consumers) == 1 and consumers[0].op_type == "BatchNormalization":
            return self._norm(consumers[0], name, bias, epsilon)
        self._add(f"{name}.weight", np.ones(bias.shape), node)
        self._add(f"{name}.bias", bias, node)
        self._add(f"{name}.running_mean", np.zeros(bias.shape), node)
        self._add(f"{name}.running_var", np.full(bias.shape, 1 - epsilon), node)
        return tensor

    def _norm(self, node, name, bias=0.0, epsilon=_EPSILON):
        """Reads a BatchNorm for a layer with this epsilon, and subtracts the bias before it from its mean."""
        self._graph.expect_attribute(node, "training_mode", 0, default=0)
        gamma, beta, mean, variance = (self._graph.constant(node, index).astype(np.float64) for index in (1, 2, 3, 4))
        # Arrays of other shapes could broadcast to a large one.
        shapes = [array.shape for array in (gamma, beta, mean, variance)]
        if mean.ndim != 1 or len({*shapes, np.shape(bias) or mean.shape}) != 1:
            raise UnsupportedFileError(
                f"expected arrays (n,) in {describe(node)}, with the channels of the node before it. "
                f"Received: shapes {shapes} after {np.shape(bias) or 'no'} channels"
            )
        stored_epsilon = self._graph.attribute(node, "epsilon", 1e-5)
        if abs(stored_epsilon - epsilon) > 1e-9:
            gamma = gamma * np.sqrt((variance + epsilon) / (variance + stored_epsilon))
        self._add(f"{name}.weight", gamma, node)
        self._add(f"{name}.bias", beta, node)
        self._add(f"{name}.running_mean", mean - bias, node)
        self._add(f"{name}.running_var", variance, node)
        return node.output[0]

    def _prelu(self, tensor, name):
        node = self._graph.only_consumer(tensor, "PRelu")
        self._add(f"{name}.weight", self._graph.constant(node, 1).ravel(), node)
        return node.output[0]

    def _every_second_pixel(self, node):
        for name, expected in (("kernel_shape", [1, 1]), ("strides", [2, 2])):
            self._graph.expect_attribute(node, name, expected, default=[1, 1])
        self._graph.expect_attribute(node, "pads", [0] * 4, default=[0] * 4)
        return node.output[0]

    def _sum(self, shortcut, branch):
        node = self._graph.only_consumer(branch, "Add")
        if sorted(self._graph.inputs(node)) != sorted((shortcut, branch)):
            self._graph.raise_unexpected(branch, "the sum with the shortcut of the block")
        return node.output[0]

    def _embedding(self, tensor, linear, norm):
        graph = self._graph
        node = graph.only_consumer(tensor, "Flatten", "Reshape")
        graph.expect_attribute(node, "axis", 1, default=1)
        node = graph.only_consumer(node.output[0], "Gemm", "MatMul")
        for name, expected in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
            graph.expect_attribute(node, name, expected, default=expected)
        kernel = graph.constant(node, 1)
        if not graph.attribute(node, "transB", 0):
            kernel = kernel.T
        self._add(f"{linear}.weight", kernel, node)
        bias = graph.constant(node, 2) if len(node.input) > 2 else np.zeros(len(kernel))
        tensor = node.output[0]
        if node.op_type == "MatMul" and [consumer.op_type for consumer in graph.consumers(tensor)] == ["Add"]:
            node = graph.only_consumer(tensor, "Add")
            bias = graph.constant(node, 1 - graph.inputs(node).index(tensor))
            tensor = node.output[0]
        graph.expect_only_output(self._optional_norm(tensor, norm, bias, node))

    def _add(self, name, array, node):
        self.weights.add(name, array, f"node {describe(node)}")
