"""ONNX graphs as tf2onnx makes them of Keras' layers -> what runtimes are quick with.

onnx is imported by who calls: it is optional, and what is changed here is the graph that was loaded.
"""

from collections import defaultdict

import numpy as np

_FEWEST_IN_FLOAT16 = 1024  # elements; what has fewer costs no space


def fuse_prelu(model) -> int:
    """Makes one PRelu of `Relu(x) + (-alpha) * Relu(-x)`, the five operations that Keras' PReLU becomes.

    Returns:
        How many were found.
    """
    from onnx import helper
    from onnx import numpy_helper

    constants, makers, _ = _index(model)
    fused = 0
    for node in list(model.graph.node):
        found = _slope_of_prelu(node, constants, makers)
        if found is None:
            continue
        x, name = found
        slope = f"{node.output[0]}_slope"
        model.graph.initializer.append(numpy_helper.from_array(-numpy_helper.to_array(constants[name]), slope))
        node.CopyFrom(helper.make_node("PRelu", [x, slope], node.output, node.name))
        fused += 1
    return fused


def _slope_of_prelu(add, constants, makers):
    """`x` and the name of `-alpha`, if this node is the last of a PReLU."""
    if add.op_type != "Add":
        return None
    for one, other in (add.input, reversed(add.input)):
        above, scaled = makers.get(one), makers.get(other)
        if not (_is(above, "Relu") and _is(scaled, "Mul")):
            continue
        for alpha, below in (scaled.input, reversed(scaled.input)):
            relu = makers.get(below)
            minus = makers.get(relu.input[0]) if _is(relu, "Relu") else None
            if alpha in constants and _is(minus, "Neg") and minus.input[0] == above.input[0]:
                return above.input[0], alpha
    return None


def flatten_channels_first(model) -> None:
    """Reorders the weights behind a Flatten, so that the feature map before it need not be transposed back."""
    from onnx import helper
    from onnx import numpy_helper
    from onnx import shape_inference

    constants, makers, users = _index(model)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in shape_inference.infer_shapes(model).graph.value_info
    }
    for node in list(model.graph.node):
        reshape = makers.get(node.input[0]) if _is(node, "MatMul") and node.input[1] in constants else None
        transpose = makers.get(reshape.input[0]) if _is(reshape, "Reshape") else None
        if not _is(transpose, "Transpose") or list(transpose.attribute[0].ints) != [0, 2, 3, 1]:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        sides = shapes.get(transpose.output[0], [])[1:]
        if len(users[reshape.output[0]]) > 1 or np.prod(sides) != len(weight):
            continue
        reordered = weight.reshape(*sides, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
        name = f"{node.input[1]}_channels_first"
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(reordered), name))
        reshape.CopyFrom(helper.make_node("Flatten", [transpose.input[0]], reshape.output, axis=1))
        node.input[1] = name


def store_weights_in_float16(model) -> None:
    """Halves the file: large weights are kept in float16, and cast when the file is loaded."""
    from onnx import TensorProto
    from onnx import helper
    from onnx import numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < _FEWEST_IN_FLOAT16:
            continue
        name = weight.name
        with np.errstate(over="ignore"):  # infinite weights show in the answers
            halves = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(halves, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_unread(model) -> None:
    """Drops operations and constants that no output needs any more."""
    wanted = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):  # makers stand before users
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    weights = [weight for weight in model.graph.initializer if weight.name in wanted]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(nodes))
    model.graph.initializer.extend(weights)


def tidy(model) -> None:
    """Names the batch axis `n`, and forgets domains of operations that do not occur."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    domains = {node.domain for node in model.graph.node}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)


def _is(node, operation):
    return node is not None and node.op_type == operation


def _index(model):
    """Constants by name, nodes by what they give, nodes by what they take."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    users = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    return constants, makers, users
