"""An ONNX graph that can be followed from tensor to tensor. What computes nothing is passed over."""

from collections import defaultdict

import numpy as np

from keras_arcface.pretrained.weights import UnfitError

_FLOATS = (1, 10, 11, 16)  # float32, float16, float64 and bfloat16 as ONNX numbers them
# Operators that are evaluated where all they take is constant. None makes an array with more values than it is given,
# so that a small file cannot ask for much memory.
_FOLDED = {
    *("Constant", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DequantizeLinear"),
}


class OnnxGraph:
    """The graph of an ONNX file with one input of images.

    Raises:
        UnfitError: if the file is damaged, or takes something else; so do the methods where the graph is not as asked.
    """

    def __init__(self, path):
        try:
            import onnx
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{path} is read with onnx: pip install onnx") from error
        self._onnx = onnx
        try:
            model = onnx.load(path)
        except Exception as error:  # a damaged file makes protobuf and onnx raise whatever they like
            raise UnfitError(f"expected an ONNX file. Received: {type(error).__name__}: {str(error)[:200]}") from error
        graph, self._opsets = model.graph, model.opset_import
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers, self._takers, self._same = {}, defaultdict(list), {}
        for node in graph.node:
            self._add(node)
        self._outputs = [self._resolve(value.name) for value in graph.output]
        images = [value for value in graph.input if value.name not in self._initializers]
        shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in images]
        if len(images) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (0, 3):  # 0: not fixed
            received = [f"{value.name!r} {shape}" for value, shape in zip(images, shapes, strict=True)]
            raise UnfitError(
                f"expected one input, images (n, 3, height, width). Received: {', '.join(received[:3]) or 'none'}"
            )
        self.images = images[0].name
        self.input_size = tuple(shapes[0][2:]) if all(shapes[0][2:]) else None

    def _add(self, node):
        inputs = self.inputs(node)
        computes_nothing = node.op_type in ("Identity", "Dropout") or (
            node.op_type == "Cast" and self.attribute(node, "to", None) in _FLOATS
        )
        if computes_nothing and inputs:
            self._same[node.output[0]] = inputs[0]
        elif node.op_type != "Shape":  # how some exporters begin to flatten
            for name in set(inputs):
                self._takers[name].append(node)
        for output in node.output[:1]:
            if output in self._takers or output in self._producers:  # so that nothing is followed in circles
                raise UnfitError(
                    f"expected nodes after what they take. Received: {describe(node)} where it is too late"
                )
            self._producers[output] = node

    def _resolve(self, name):
        return self._same.get(name, name)

    def inputs(self, node) -> list[str]:
        return [self._resolve(name) for name in node.input]

    def attribute(self, node, name, default):
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def expect_attribute(self, node, name, expected, default):
        received = self.attribute(node, name, default)
        if received != expected:
            raise UnfitError(f"expected {name}={expected} of {describe(node)}. Received: {name}={received}")

    def takers(self, tensor) -> list:
        """The nodes that take a tensor."""
        return self._takers.get(tensor, [])

    def after(self, tensor, *operators):
        """The only node that takes a tensor."""
        takers = self.takers(tensor)
        if len(takers) != 1 or takers[0].op_type not in operators:
            self.refuse(tensor, f"one node {' or '.join(operators)}")
        return takers[0]

    def fork(self, tensor, first, *second):
        """The two nodes that take a tensor: one of the operator `first`, one of the operators `second`."""
        nodes = sorted(self.takers(tensor), key=lambda node: node.op_type != first)
        if len(nodes) != 2 or nodes[0].op_type != first or nodes[1].op_type not in second:
            self.refuse(tensor, f"nodes {first} and {' or '.join(second)}")
        return nodes

    def expect_end(self, tensor):
        """Refuses a graph that goes on, or has other outputs."""
        if self._outputs != [tensor] or self.takers(tensor):
            self.refuse(tensor, "the end of the graph and its only output")

    def constant(self, node, index) -> np.ndarray:
        """An input of a node that does not depend on the images, float32. What computes it from constants is folded."""
        name = self.inputs(node)[index] if index < len(node.input) else ""
        if name in self._initializers:
            return self._onnx.numpy_helper.to_array(self._initializers[name]).astype(np.float32)
        where = f"expected constant weights in input {index} of {describe(node)}. Received:"
        wanted, initializers, left = set(), {}, [name]
        while left:
            tensor = left.pop()
            if tensor in self._initializers:
                initializers[tensor] = self._initializers[tensor]
            elif tensor and tensor not in wanted:
                producer = self._producers.get(tensor)
                if producer is None or producer.op_type not in _FOLDED:
                    received = describe(producer) if producer is not None else f"tensor {tensor!r}"
                    raise UnfitError(f"{where} {received}")
                wanted.add(tensor)
                left += producer.input
        if name not in wanted:  # an input that is left out
            raise UnfitError(f"{where} tensor {name!r}")
        nodes = [producer for output, producer in self._producers.items() if output in wanted]
        try:
            return self._evaluate(nodes, initializers, name).astype(np.float32)
        except Exception as error:  # the evaluator raises whatever NumPy does
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise UnfitError(f"{where} {describe(self._producers[name])}, which fails with {reason}") from error

    def _evaluate(self, nodes, initializers: dict, name: str) -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        helper = self._onnx.helper
        output = helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "constant", [], [output], list(initializers.values()))
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets)).run(None, {})[0]

    def refuse(self, tensor, expected):
        producer = self._producers.get(tensor)
        where = describe(producer) if producer is not None else f"input {tensor!r}"
        received = ", ".join(map(describe, self.takers(tensor))) or "the end of the graph"
        raise UnfitError(f"expected {expected} after {where}. Received: {received}")


def describe(node) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"
