"""State of the conversion of an ONNX graph: values of tensors, names of layers, and the size of all weights."""

import re
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_arcface.pretrained.onnx_operators.values import BATCH
from keras_arcface.pretrained.onnx_operators.values import Symbol
from keras_arcface.pretrained.onnx_operators.values import channels_last
from keras_arcface.pretrained.onnx_operators.values import describe
from keras_arcface.pretrained.onnx_reader import OnnxGraph
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

Value = Symbol | np.ndarray

# The largest feature map of a published embedder has 112 * 112 * 64 values.
_MAX_VALUES = 2**24
# Number of values of all constants together that are computed in addition to those of the file.
_MAX_COMPUTED = 2**22


class Builder:
    """State of a conversion.

    Args:
        graph: graph to convert.
        images: `KerasTensor` of the images.

    Attributes:
        graph: the graph.
        values: values of the tensors that are converted, by name.
        origins: names of computed constants, with the name of the first tensor from which they are computed.
        merged: names of tensors that a previous node has computed, with the names of its outputs.
    """

    def __init__(self, graph: OnnxGraph, images: Any):
        self.graph = graph
        self.values: dict[str, Value] = {}
        self.merged: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self._images = images
        self._weights = Weights(graph.file_size)
        self._free = _MAX_COMPUTED + graph.file_size
        self._names = {"images", "normalize_pixels", "embedding"}
        self._parameters: dict[tuple[str, bool], Any] = {}

    def spend(self, shape: tuple[int, ...]) -> None:
        """Accounts for a constant before it is computed.

        Raises:
            UnsupportedFileError: if all computed constants together are too large.
        """
        self._free -= int(np.prod([max(side, 1) for side in shape], dtype=np.float64))
        if self._free < 0:
            raise UnsupportedFileError(
                f"expected constants of at most {_MAX_COMPUTED + self.graph.file_size} values that are computed in the "
                f"graph. Received: more up to one with shape {describe(shape)}"
            )

    def weight(self, array: np.ndarray, origin: str) -> np.ndarray:
        """Returns an array as a float32 weight, after a check of the size of all weights."""
        self._weights.add("weight", array, origin)
        return self._weights.pop("weight", array.shape)

    def layer_name(self, node: Any, index: int) -> str:
        """Returns a unique name for a layer: that of one of its weights in the file, or of its node."""
        weight = node.input[index] if index < len(node.input) else ""
        weight = self.origins.get(weight, weight)
        text = re.sub(r"\.(weight|bias)$", "", weight)
        if re.match(r"onnx::|/|\d|$", weight):  # a name of the exporter
            text = _module(node.name) or node.op_type
        text = re.sub(r"\W+", "_", text[-60:], flags=re.ASCII).strip("_")
        # Keras names operations after their functions, and requires that all names differ.
        if not re.match("[A-Za-z]", text) or hasattr(ops, re.sub(r"_\d+$", "", text.lower())):
            text = f"layer_{text}"
        name, number = text, 1
        while name in self._names:
            number += 1
            name = f"{text}_{number}"
        self._names.add(name)
        return name

    def parameter(self, array: np.ndarray, node: Any, index: int, moved: bool = False) -> Symbol:
        """Returns an array as a trainable tensor.

        No layer of Keras returns its weights alone. Here they are the kernel of a dense layer whose input is 1.

        Args:
            array: values.
            node: node that uses them.
            index: index of the input of the node.
            moved: whether the tensor has four axes with channels last.
        """
        key = (node.input[index], moved)
        if key not in self._parameters:
            origin = f"input {index} of the node"
            values = self.weight(channels_last(array) if moved else array, origin)
            one = ops.reshape(ops.ones_like(ops.sum(self._images)), (1, 1))
            layer = layers.Dense(values.size, use_bias=False, name=self.layer_name(node, index))
            tensor = ops.reshape(layer(one), values.shape)
            layer.set_weights([values.reshape(1, -1)])
            self._parameters[key] = tensor
        return Symbol(self._parameters[key], channels_last=moved)

    def with_batch(self, value: Symbol, axis: int) -> Symbol:
        """Repeats a value whose axis has size 1 for each image of the batch."""
        zeros = ops.zeros_like(ops.sum(self._images, axis=(1, 2, 3)))
        shape = [-1 if index == value.axis(axis) else 1 for index in range(value.rank)]
        return value.replaced(ops.add(value.tensor, ops.reshape(zeros, shape)))._replace(multiple=1)


def _module(name):
    """Returns the name of the module of a node that torch.onnx names `/layer1/layer1.0/conv1/Conv`."""
    *modules, last = name.strip("/").split("/")
    parts = [part for part, child in zip(modules, [*modules[1:], ""], strict=True) if not child.startswith(f"{part}.")]
    return ".".join(parts) or last


class Node:
    """Node of the graph, as the functions that convert operators see it.

    Args:
        proto: protocol buffer of the node.
        builder: state of the conversion.
    """

    def __init__(self, proto: Any, builder: Builder):
        self.proto, self.builder = proto, builder

    def attribute(self, name: str, default: Any) -> Any:
        """Returns an attribute, or `default` if the node does not have it. Strings are `bytes`."""
        return self.builder.graph.attribute(self.proto, name, default)

    def name(self, index: int = 1) -> str:
        """Returns a unique name for the layer with the weights of input `index`."""
        return self.builder.layer_name(self.proto, index)

    def symbol(self, value: Value, index: int = 0, moved: bool = False) -> Symbol:
        """Returns a value as a symbol. Constants become trainable weights."""
        if isinstance(value, Symbol):
            return value
        return self.builder.parameter(value, self.proto, index, moved)

    def weight(self, value: Value | None, index: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Returns a constant that becomes a weight of a layer.

        Args:
            value: value of an input.
            index: index of the input.
            shape: expected shape, if there is only one.
        """
        array = self.constant(value, f"weights in input {index}")
        if shape is not None and array.shape != shape:
            raise UnsupportedFileError(
                f"expected weights with shape {describe(shape)} in input {index}. Received: {array.shape}"
            )
        return self.builder.weight(array, f"input {index} of the node")

    def constant(self, value: Value | None, expected: str) -> np.ndarray:
        """Returns a value that must be a constant."""
        if not isinstance(value, np.ndarray):
            raise UnsupportedFileError(f"expected constant {expected}. Received: a tensor that depends on the images")
        return value

    def integers(self, name: str, value: Value | None, default: Any = None) -> Any:
        """Returns integers that are an attribute in old versions of the operator, and an input in new ones."""
        if value is None:
            return self.attribute(name, default)
        return [int(number) for number in self.constant(value, name).ravel()]


def apply(layer: keras.layers.Layer, value: Symbol, weights: list[np.ndarray]) -> Symbol:
    """Applies a layer of Keras, and sets its weights."""
    result = value.replaced(layer(value.tensor))
    layer.set_weights(weights)
    return result


def check_size(value: Value) -> None:
    """Raises an UnsupportedFileError if a tensor has too many values per image, or is not supported."""
    if isinstance(value, Symbol):
        size = int(np.prod(value.shape, dtype=np.float64)) // (BATCH if None in value.tensor.shape else 1)
        if size > _MAX_VALUES or size < 1 or list(value.tensor.shape).count(None) > 1:
            raise UnsupportedFileError(
                f"expected tensors of 1 to {_MAX_VALUES} values per image. Received: shape {describe(value.shape)}"
            )
