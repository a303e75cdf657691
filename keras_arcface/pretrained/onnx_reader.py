"""Reader of the graph of an ONNX file."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface.pretrained.onnx_constants import EVALUATED
from keras_arcface.pretrained.onnx_constants import evaluate
from keras_arcface.pretrained.onnx_constants import load_external_data
from keras_arcface.pretrained.onnx_constants import to_array
from keras_arcface.pretrained.weights import UnsupportedFileError

_FLOATS = (1, 10, 11, 16)  # codes of float32, float16, float64 and bfloat16 in ONNX
_MAX_CONSTANTS = 16  # number of tensors from which a constant is computed; exporters need about 8
_MAX_INPUTS = 32  # number of inputs, or attributes, of a node


class OnnxGraph:
    """Graph of an ONNX file whose only input is a batch of images.

    Nodes that do not change values (Identity, Dropout, casts between float types, pooling of one pixel) are skipped.
    Their consumers appear as consumers of their input. All methods raise an UnsupportedFileError if the graph is not
    as expected.

    Args:
        path: path of the file.

    Attributes:
        images: name of the input tensor.
        batch_size: number of images in the file, or 0 if it is variable.
        input_size: `(height, width)` of the images, or None if the file does not contain it.
        channels_last: whether the images are `(n, height, width, 3)` instead of `(n, 3, height, width)`.
        nodes: all nodes, in the order of the file.
        initializers: stored tensors by name, as protocol buffers.
        opset: version of the operators.
        file_size: size of the file and of its files of external data in bytes.

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        UnsupportedFileError: if the file has other inputs.
        Exception: of many types if the file is damaged.
    """

    def __init__(self, path: Path):
        with optional_import("pretrained", f"Reading {path}"):
            import onnx
        self._onnx = onnx
        model = onnx.load(path, load_external_data=False)
        graph = model.graph
        self.file_size = path.stat().st_size + load_external_data(graph.initializer, path.parent)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers, self._consumers, self._aliases = {}, defaultdict(list), {}
        self.nodes = list(graph.node)
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
        self._direct_consumers = defaultdict(list)
        for node in self.nodes:
            self._add(node)
            for name in set(node.input):
                self._direct_consumers[name].append(node)
        self._outputs = [self._resolve(value.name) for value in graph.output]
        self._output_ranks = {value.name: _rank(value) for value in graph.output}
        self.images, self.batch_size, self.input_size, self.channels_last = self._find_images(graph)

    def _find_images(self, graph):
        # Old files list their weights as inputs too, and quantizers leave those that they have replaced.
        inputs = [value for value in graph.input if value.name not in self.initializers and self.consumers(value.name)]
        shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in inputs]
        shape = shapes[0] if len(inputs) == 1 and len(shapes[0]) == 4 else [0, 1, 0, 1]  # 0: unknown
        channels_last = shape[3] == 3 and shape[1] != 3
        if shape[1] not in (0, 3) and not channels_last:
            received = [f"{short(entry.name)} {shape[:5]}" for entry, shape in zip(inputs[:3], shapes, strict=False)]
            raise UnsupportedFileError(
                f"expected one input, images (n, 3, height, width). Received: {', '.join(received) or 'none'}"
            )
        size = tuple(shape[1:3] if channels_last else shape[2:])
        return inputs[0].name, shape[0], size if all(size) else None, channels_last

    def _add(self, node):
        if max(len(node.input), len(node.attribute)) > _MAX_INPUTS or node.domain not in ("", "ai.onnx"):
            raise UnsupportedFileError(
                f"expected operators of ONNX with at most {_MAX_INPUTS} inputs and attributes. Received: "
                f"{describe(node)} of the domain {short(node.domain)} with {len(node.input)} inputs"
            )
        inputs = self.inputs(node)
        is_identity = (
            node.op_type in ("Identity", "Dropout")
            or (node.op_type == "Cast" and self.attribute(node, "to", None) in _FLOATS)
            or (node.op_type == "MaxPool" and self._is_pooling_of_one_pixel(node))
        )
        if is_identity and inputs:
            self._aliases[node.output[0]] = inputs[0]
        elif node.op_type != "Shape":  # some exporters compute the shape for a Flatten
            for name in set(inputs):
                self._consumers[name].append(node)
        for output in node.output[:1]:
            if output in self._consumers or output in self._producers:  # excludes cycles
                raise UnsupportedFileError(
                    f"expected nodes in topological order. Received: {describe(node)} after a node that uses its output"
                )
            self._producers[output] = node

    def _is_pooling_of_one_pixel(self, node):
        defaults = {"kernel_shape": None, "strides": [1, 1], "pads": [0] * 4}
        values = [self.attribute(node, name, default) for name, default in defaults.items()]
        return values == [[1, 1], [1, 1], [0] * 4]

    def _resolve(self, name):
        return self._aliases.get(name, name)

    def inputs(self, node) -> list[str]:
        """Returns the names of the input tensors of a node."""
        return [self._resolve(name) for name in node.input]

    def attribute(self, node, name, default):
        """Returns an attribute of a node, or `default` if the node does not have it."""
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def expect_attribute(self, node, name, expected, default):
        """Checks that an attribute of a node, or `default`, has the expected value."""
        received = self.attribute(node, name, default)
        if received != expected:
            if not isinstance(received, int | float):
                received = received[:20] if isinstance(received, list | bytes) else type(received).__name__
            raise UnsupportedFileError(f"expected {name}={expected} of {describe(node)}. Received: {name}={received}")

    def consumers(self, tensor) -> list:
        """Returns the nodes that use a tensor."""
        return self._consumers.get(tensor, [])

    def direct_consumers(self, tensor: str) -> list:
        """Returns the nodes that use a tensor itself, and not through a node that does not change values."""
        return self._direct_consumers.get(tensor, [])

    def producer(self, tensor: str):
        """Returns the node that computes a tensor as its first output, or None."""
        return self._producers.get(tensor)

    def outputs(self, rank: int) -> list[str]:
        """Returns the names of the outputs of the graph that may have a number of axes."""
        return [name for name, known in self._output_ranks.items() if known in (rank, None)]

    def only_consumer(self, tensor, *operators):
        """Returns the only node that uses a tensor. Its operator must be one of the given ones."""
        nodes = self.consumers(tensor)
        if len(nodes) != 1 or nodes[0].op_type not in operators:
            self.raise_unexpected(tensor, f"one node {' or '.join(operators)}")
        return nodes[0]

    def two_consumers(self, tensor, first, *second):
        """Returns the two nodes that use a tensor, one with operator `first`, the other with one of `second`."""
        nodes = sorted(self.consumers(tensor), key=lambda node: node.op_type != first)
        if len(nodes) != 2 or nodes[0].op_type != first or nodes[1].op_type not in second:
            self.raise_unexpected(tensor, f"nodes {first} and {' or '.join(second)}")
        return nodes

    def expect_only_output(self, tensor):
        """Checks that a tensor is the only output of the graph and that no node uses it."""
        if self._outputs != [tensor] or self.consumers(tensor):
            self.raise_unexpected(tensor, "the end of the graph and its only output")

    def constant(self, node, index) -> np.ndarray:
        """Returns a constant input of a node as a float32 array.

        An input that is computed from constants by reshaping, casting or dequantizing is evaluated.

        Args:
            node: node of the graph.
            index: index of the input.
        """
        name = self.inputs(node)[index] if index < len(node.input) else ""
        message = f"expected constant weights in input {index} of {describe(node)}. Received:"
        return self._evaluate(name, {}, message).astype(np.float32)

    def _evaluate(self, name, values, message):
        """Returns the value of a tensor, and adds it to `values`, with all tensors from which it is computed."""
        if values.get(name) is not None:
            return values[name]
        node = self._producers.get(name)
        if name in self.initializers:
            values[name] = to_array(self.initializers[name])
        elif node is None or node.op_type not in EVALUATED or len(values) >= _MAX_CONSTANTS:
            raise UnsupportedFileError(f"{message} {describe(node) if node else f'tensor {short(name)}'}")
        else:
            values[name] = None  # counts this tensor
            inputs = [self._evaluate(source, values, message) for source in self.inputs(node)[:3] if source]
            try:
                values[name] = evaluate(node, inputs, lambda *arguments: self.attribute(node, *arguments))
            except Exception as error:  # NumPy raises exceptions of many types
                reason = f"{type(error).__name__}: {cut(str(error))}"
                raise UnsupportedFileError(f"{message} {describe(node)}, which fails with {reason}") from error
        return values[name]

    def raise_unexpected(self, tensor, expected):
        """Raises an UnsupportedFileError that names the nodes that use a tensor."""
        producer = self._producers.get(tensor)
        place = describe(producer) if producer is not None else f"input {short(tensor)}"
        received = ", ".join(map(describe, self.consumers(tensor)[:5])) or "the end of the graph"
        raise UnsupportedFileError(f"expected {expected} after {place}. Received: {received}")


def describe(node) -> str:
    """Returns the operator and name of a node for messages."""
    return f"{node.op_type[:40]} {short(node.name or next(iter(node.output), ''))}"


def _rank(value):
    """Returns the number of axes of an output, or None if the file does not contain it."""
    tensor_type = value.type.tensor_type
    return len(tensor_type.shape.dim) if tensor_type.HasField("shape") else None
