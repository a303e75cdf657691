"""Conversion of any convolutional or transformer embedder in an ONNX file to a Keras model, operator by operator."""

from collections import Counter
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_arcface import _arguments
from keras_arcface import _cpu_training
from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface.pretrained import preset_files
from keras_arcface.pretrained.onnx_constants import to_array
from keras_arcface.pretrained.onnx_networks import read_normalization
from keras_arcface.pretrained.onnx_operators import OPERATORS
from keras_arcface.pretrained.onnx_operators.builder import Builder
from keras_arcface.pretrained.onnx_operators.builder import Node
from keras_arcface.pretrained.onnx_operators.builder import check_size
from keras_arcface.pretrained.onnx_operators.constants import CONSTANTS
from keras_arcface.pretrained.onnx_operators.constants import evaluate
from keras_arcface.pretrained.onnx_operators.values import BATCH
from keras_arcface.pretrained.onnx_operators.values import Symbol
from keras_arcface.pretrained.onnx_operators.values import describe as describe_shape
from keras_arcface.pretrained.onnx_reader import OnnxGraph
from keras_arcface.pretrained.onnx_reader import describe
from keras_arcface.pretrained.weights import UnsupportedFileError

_IMAGE_SIZE = 112, 112
_MAX_NODES = 5000
_ARITHMETIC = ("Sub", "Add", "Mul", "Div")


def load_onnx(path, color="RGB", name="embedder"):
    """Converts an ONNX file of any embedder to a Keras model, operator by operator.

    `load_insightface` builds the backbones of this package and is the better choice for the networks that it knows.
    This function is for all others: convolutional networks and transformers that consist of about 60 operators. The
    model is an ordinary functional one of layers and operations of Keras. It can be trained, saved, exported and
    served, and loading it does not require this package. Weights are variables; single numbers in the graph are
    constants.

    The embedder accepts RGB images in 0..255, like all embedders of this package. If the graph begins with arithmetic
    on pixels, it contains their normalization. Otherwise, images are scaled to `(x - 127.5) / 127.5`.

    In most ONNX files, BatchNorm is folded into the preceding convolutions. They give the same embeddings, but lack
    normalization in training. Use a small learning rate for fine-tuning. Dropout is not converted.

    Args:
        path: path of the file. Its input are images `(n, 3, height, width)` or `(n, height, width, 3)` with n of 1 or
            variable size. If height and width are variable, the embedder takes 112 x 112 images.
        color: order of the channels in which the network was trained, "RGB" or "BGR". The embedder takes RGB in
            both cases.
        name: name of the model.

    Returns:
        A functional `keras.Model`, `(batch, height, width, 3)` -> `(batch, dim)`. If several outputs of the graph have
        two axes, it is the longest vector.

    Raises:
        FileNotFoundError: if the file does not exist.
        ModuleNotFoundError: if onnx is not installed.
        ValueError: if the color order is unknown; if the file is damaged, or asks for more memory than its size
            explains; or if it contains unsupported operators, which are listed, an operator that joins the images of a
            batch, or no output with two axes. The message names the file and the node.

    Examples:
        A file of any network, such as `torch.onnx.export(network, images, "network.onnx")` writes it:

        >>> embedder = load_onnx("network.onnx")
        >>> embedder.input_shape, embedder.output_shape
        ((None, 32, 32, 3), (None, 8))
        >>> embedder.save("converted.keras")
    """
    path = Path(path)
    preset_files.check_is_file(path)
    _arguments.check_choice("color", color, ("RGB", "BGR"))
    try:
        return _cpu_training.speed_up(_convert(_read(path), color, name))
    except UnsupportedFileError as error:
        raise UnsupportedFileError(f"{path} cannot be converted: {error}") from error


def _read(path):
    try:
        return OnnxGraph(path)
    except (UnsupportedFileError, ImportError):
        raise
    except Exception as error:  # onnx raises exceptions of many types
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(f"expected an ONNX file. Received: a file that fails with {received}") from error


def _convert(graph, color, name):
    if graph.batch_size > 1:
        raise UnsupportedFileError(
            f"expected a batch of 1 or variable size. Received: a graph for {graph.batch_size} images"
        )
    size = graph.input_size or _IMAGE_SIZE
    if min(size) < 1:
        raise UnsupportedFileError(f"expected images of a positive size. Received: {size[0]} x {size[1]}")
    images = keras.Input((*size, 3), dtype="float32", name="images")
    builder = Builder(graph, images)
    start, normalized = _normalize(graph, images, color)
    for tensor, value in ((graph.images, images), (start, normalized)):
        builder.values[tensor] = Symbol(value, channels_last=not graph.channels_last)
        check_size(builder.values[tensor])
    outputs = graph.outputs(2)
    nodes = _needed_nodes(graph, outputs, set(builder.values))
    _check_operators(nodes, set(builder.values))
    used = {name for node in nodes for name in node.input}
    builder.values.update((name, _array(tensor)) for name, tensor in graph.initializers.items() if name in used)
    for node in nodes:
        _convert_node(builder, node)
    embedding = _longest_vector(builder, outputs)
    embedding = layers.Activation("linear", dtype="float32", name="embedding")(embedding.tensor)
    try:
        return keras.Model(images, embedding, name=name)
    except (ValueError, RecursionError) as error:
        received = f"{len(nodes)} nodes, and {type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(f"expected a network that Keras can build. Received: {received}") from error


def _array(tensor):
    try:
        return to_array(tensor)
    except UnsupportedFileError:
        raise
    except Exception as error:  # onnx and NumPy raise exceptions of many types
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(f"expected values in {short(tensor.name)}. Received: {received}") from error


def _normalize(graph, images, color):
    """Returns the name of the first tensor after the normalization of pixels, and its value."""
    if color == "BGR":
        images = ops.flip(images, axis=-1)
    start, scale, offset = graph.images, np.ones(3), np.zeros(3)
    try:
        start, scale, offset = read_normalization(graph)
    except UnsupportedFileError:  # arithmetic with other constants, which is converted like the rest
        return start, images
    if start == graph.images:
        if _begins_with_arithmetic(graph):
            return start, images
        scale, offset = np.full(3, 1 / 127.5), np.full(3, -1.0)
    numbers = [values[0].item() if len(set(values)) == 1 else values.tolist() for values in (scale, offset)]
    return start, layers.Rescaling(*numbers, dtype="float32", name="normalize_pixels")(images)


def _begins_with_arithmetic(graph):
    """Returns whether arithmetic follows the images and a change of the order of their axes."""
    nodes = graph.consumers(graph.images)
    while len(nodes) == 1 and nodes[0].op_type in ("Transpose", "Cast"):
        nodes = graph.consumers(nodes[0].output[0])
    return len(nodes) == 1 and nodes[0].op_type in _ARITHMETIC


def _needed_nodes(graph, outputs, known):
    """Returns the nodes on which outputs depend, in the order of the file."""
    producers = {output: index for index, node in enumerate(graph.nodes) for output in node.output}
    needed, tensors = set(), list(outputs)
    known = known | set(graph.initializers) | {""}
    while tensors:
        tensor = tensors.pop()
        if tensor in known:
            continue
        known.add(tensor)
        if tensor not in producers:
            raise UnsupportedFileError(f"expected a node that computes {short(tensor)}. Received: none")
        needed.add(producers[tensor])
        tensors.extend(graph.nodes[producers[tensor]].input)
    if len(needed) > _MAX_NODES:
        raise UnsupportedFileError(f"expected at most {_MAX_NODES} nodes. Received: {len(needed)}")
    return [graph.nodes[index] for index in sorted(needed)]


def _check_operators(nodes, depending):
    """Checks that all operators are supported. `depending` has the names of tensors that depend on the images."""
    unsupported = Counter()
    for node in nodes:
        depends = any(name in depending for name in node.input)
        if node.op_type not in OPERATORS and (depends or node.op_type not in CONSTANTS):
            unsupported[node.op_type[:40]] += 1
        if depends and node.op_type != "Shape":
            depending.update(node.output)
    if unsupported:
        listed = ", ".join(f"{count} {operator}" for operator, count in unsupported.most_common(20))
        raise UnsupportedFileError(
            f"expected supported operators. Received: {listed}. `keras_arcface.serving.load_embedder` evaluates the "
            "file in ONNX Runtime, without a conversion"
        )


def _convert_node(builder, proto):
    """Converts a node, and converts every error to an UnsupportedFileError that names it."""
    merged = builder.merged.get(proto.output[0])
    if merged is not None:
        builder.values[proto.output[0]] = builder.values[merged]
        return
    try:
        missing = next((name for name in proto.input if name and name not in builder.values), None)
        if missing is not None:
            raise UnsupportedFileError(f"expected nodes in topological order. Received: input {short(missing)}")
        inputs = [builder.values[name] if name else None for name in proto.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        results = _outputs(Node(proto, builder), inputs)
        for name, value in zip(proto.output, results if isinstance(results, list) else [results], strict=False):
            check_size(value)
            builder.values[name] = value
    except UnsupportedFileError as error:
        raise UnsupportedFileError(f"{describe(proto)}: {error}") from error
    except Exception as error:  # Keras and NumPy raise exceptions of many types
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(
            f"{describe(proto)}: expected inputs that fit to the operator. Received: {received}"
        ) from error


def _outputs(node, inputs):
    operator = node.proto.op_type
    is_constant = not any(isinstance(value, Symbol) for value in inputs)
    if is_constant and operator in CONSTANTS:
        source = next(iter(node.proto.input), "")
        node.builder.origins.update(dict.fromkeys(node.proto.output, node.builder.origins.get(source, source)))
        return evaluate(node, inputs)
    return OPERATORS[operator](node, *inputs)


def _longest_vector(builder, outputs):
    values = [builder.values[name] for name in outputs]
    vectors = [value for value in values if isinstance(value, Symbol) and value.rank == 2 and value.shape[0] == BATCH]
    if not vectors:
        received = ", ".join(describe_shape(value.shape) for value in values[:5]) or "other numbers of axes"
        raise UnsupportedFileError(f"expected an output (n, dim). Received: outputs with {received}")
    return max(vectors, key=lambda value: value.shape[1])
