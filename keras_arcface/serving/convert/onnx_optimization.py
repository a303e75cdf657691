"""Optimizations of the ONNX graphs that tf2onnx creates from Keras models.

The functions change the model in place. They require the optional dependency `onnx`.
"""

from collections import defaultdict
from typing import Any

import numpy as np

_MIN_FLOAT16_ELEMENTS = 1024  # smaller weights need little space


def fuse_prelu(model: Any) -> int:
    """Replaces the five operations of Keras' PReLU, `Relu(x) + (-alpha) * Relu(-x)`, with one PRelu operation.

    Returns:
        Number of replaced PReLUs.
    """
    from onnx import helper
    from onnx import numpy_helper

    constants, producers, _ = _index(model)
    fused = 0
    for node in list(model.graph.node):
        found = _match_prelu(node, constants, producers)
        if found is None:
            continue
        x, name = found
        slope = f"{node.output[0]}_slope"
        model.graph.initializer.append(numpy_helper.from_array(-numpy_helper.to_array(constants[name]), slope))
        node.CopyFrom(helper.make_node("PRelu", [x, slope], node.output, node.name))
        fused += 1
    return fused


def _match_prelu(add: Any, constants: dict[str, Any], producers: dict[str, Any]) -> tuple[str, str] | None:
    """Returns the names of `x` and `-alpha` if a node is the last operation of a PReLU, otherwise None."""
    if add.op_type != "Add":
        return None
    for one, other in (add.input, reversed(add.input)):
        positive: Any = producers.get(one)
        scaled: Any = producers.get(other)
        if not (_is(positive, "Relu") and _is(scaled, "Mul")):
            continue
        for alpha, negative in (scaled.input, reversed(scaled.input)):
            relu: Any = producers.get(negative)
            negation: Any = producers.get(relu.input[0]) if _is(relu, "Relu") else None
            if alpha in constants and _is(negation, "Neg") and negation.input[0] == positive.input[0]:
                return positive.input[0], alpha
    return None


def flatten_channels_first(model: Any) -> None:
    """Removes the transpose of the feature map before a Flatten by reordering the weights after it."""
    from onnx import helper
    from onnx import numpy_helper
    from onnx import shape_inference

    constants, producers, consumers = _index(model)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in shape_inference.infer_shapes(model).graph.value_info
    }
    for node in list(model.graph.node):
        reshape: Any = producers.get(node.input[0]) if _is(node, "MatMul") and node.input[1] in constants else None
        transpose: Any = producers.get(reshape.input[0]) if _is(reshape, "Reshape") else None
        if not _is(transpose, "Transpose") or list(transpose.attribute[0].ints) != [0, 2, 3, 1]:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        sides = shapes.get(transpose.output[0], [])[1:]
        if len(consumers[reshape.output[0]]) > 1 or np.prod(sides) != len(weight):
            continue
        reordered = weight.reshape(*sides, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
        name = f"{node.input[1]}_channels_first"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(reordered), name))
        reshape.CopyFrom(helper.make_node("Flatten", [transpose.input[0]], reshape.output, axis=1))
        node.input[1] = name


def store_weights_in_float16(model: Any) -> None:
    """Stores large weights in float16, and adds a cast to float32 that runs when the file is loaded."""
    from onnx import TensorProto
    from onnx import helper
    from onnx import numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _MIN_FLOAT16_ELEMENTS:
            continue
        name = weight.name
        with np.errstate(over="ignore"):  # `check_parity` detects infinite weights later
            halves = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(halves, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def remove_unused(model: Any) -> None:
    """Removes the operations and constants that do not affect any output."""
    needed = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):  # a producer precedes its consumers
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(nodes))
    model.graph.initializer.extend(weights)


def normalize_interface(model: Any) -> None:
    """Names the batch axis `n`, and removes imports of operator domains that the graph does not use."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    domains = {node.domain for node in model.graph.node}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)


def _is(node: Any, operation: str) -> bool:
    return node is not None and node.op_type == operation


def _index(model: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, list]]:
    """Returns dictionaries of constants by name, of nodes by output name, and of lists of nodes by input name."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    consumers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            consumers[name].append(node)
    return constants, producers, consumers
