"""Reader of the graph of an ONNX file."""

from collections import defaultdict

import numpy as np

from keras_arcface._optional import optional_import
from keras_arcface.pretrained.weights import UnsupportedFileError

_FLOATS = (1, 10, 11, 16)  # codes of float32, float16, float64 and bfloat16 in ONNX
# Operators that are evaluated if all their inputs are constant. Their outputs have no more values than their inputs, so
# a small file cannot allocate much memory.
_EVALUATED = {
    *("Constant", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DequantizeLinear"),
}


class OnnxGraph:
    """Graph of an ONNX file whose only input is a batch of images.

    Nodes that do not change values (Identity, Dropout and casts between float types) are skipped. Their consumers
    appear as consumers of their input. All methods raise an UnsupportedFileError if the graph is not as expected.

    Args:
        path: path of the file.

    Attributes:
        images: name of the input tensor.
        input_size: `(height, width)` of the images, or None if the file does not contain it.

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        UnsupportedFileError: if the file is damaged or has other inputs.
    """

    def __init__(self, path):
        with optional_import("pretrained", f"Reading {path}"):
            import onnx
        self._onnx = onnx
        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf and onnx raise exceptions of many types for damaged files
            received = f"{type(error).__name__}: {str(error)[:200]}"
            raise UnsupportedFileError(f"expected an ONNX file. Received: {received}") from error
        graph, self._opsets = model.graph, model.opset_import
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers, self._consumers, self._aliases = {}, defaultdict(list), {}
        for node in graph.node:
            self._add(node)
        self._outputs = [self._resolve(value.name) for value in graph.output]
        self.images, self.input_size = self._find_images(graph)

    def _find_images(self, graph):
        inputs = [value for value in graph.input if value.name not in self._initializers]
        shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in inputs]
        if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (0, 3):  # 0: unknown
            received = [f"{value.name!r} {shape}" for value, shape in zip(inputs, shapes, strict=True)]
            raise UnsupportedFileError(
                f"expected one input, images (n, 3, height, width). Received: {', '.join(received[:3]) or 'none'}"
            )
        return inputs[0].name, tuple(shapes[0][2:]) if all(shapes[0][2:]) else None

    def _add(self, node):
        inputs = self.inputs(node)
        is_identity = node.op_type in ("Identity", "Dropout") or (
            node.op_type == "Cast" and self.attribute(node, "to", None) in _FLOATS
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
            raise UnsupportedFileError(f"expected {name}={expected} of {describe(node)}. Received: {name}={received}")

    def consumers(self, tensor) -> list:
        """Returns the nodes that use a tensor."""
        return self._consumers.get(tensor, [])

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
        if name in self._initializers:
            return self._onnx.numpy_helper.to_array(self._initializers[name]).astype(np.float32)
        message = f"expected constant weights in input {index} of {describe(node)}. Received:"
        nodes, initializers = self._constant_subgraph(name, message)
        try:
            return self._evaluate(nodes, initializers, name).astype(np.float32)
        except Exception as error:  # the evaluator raises exceptions of many types
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise UnsupportedFileError(
                f"{message} {describe(self._producers[name])}, which fails with {reason}"
            ) from error

    def _constant_subgraph(self, name, message):
        """Returns the nodes and initializers that compute a tensor."""
        computed, initializers, pending = set(), {}, [name]
        while pending:
            tensor = pending.pop()
            if tensor in self._initializers:
                initializers[tensor] = self._initializers[tensor]
            elif tensor and tensor not in computed:
                producer = self._producers.get(tensor)
                if producer is None or producer.op_type not in _EVALUATED:
                    received = describe(producer) if producer is not None else f"tensor {tensor!r}"
                    raise UnsupportedFileError(f"{message} {received}")
                computed.add(tensor)
                pending += producer.input
        if name not in computed:  # an optional input that is not set
            raise UnsupportedFileError(f"{message} tensor {name!r}")
        return [producer for output, producer in self._producers.items() if output in computed], initializers

    def _evaluate(self, nodes, initializers: dict, name: str) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        helper = self._onnx.helper
        output = helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "constant", [], [output], list(initializers.values()))
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, {})[0]

    def raise_unexpected(self, tensor, expected):
        """Raises an UnsupportedFileError that names the nodes that use a tensor."""
        producer = self._producers.get(tensor)
        place = describe(producer) if producer is not None else f"input {tensor!r}"
        received = ", ".join(map(describe, self.consumers(tensor))) or "the end of the graph"
        raise UnsupportedFileError(f"expected {expected} after {place}. Received: {received}")


def describe(node) -> str:
    """Returns the operator and name of a node for messages."""
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"
