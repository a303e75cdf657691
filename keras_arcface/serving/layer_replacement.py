"""Copies of an embedder with replaced layers and the same weights."""

from collections.abc import Callable
from collections.abc import Iterator

import keras
import tensorflow as tf


def without_xla(embedder: keras.Model) -> keras.Model:
    """Returns the embedder with grouped convolutions that Keras does not compile with XLA.

    Converters cannot read a function that is compiled with XLA, and a server on a CPU supports it only if XLA is
    enabled. An embedder without grouped convolutions is returned unchanged.
    """
    if not any(_is_grouped(layer) for layer in all_layers(embedder)):
        return embedder
    return replace_layers(
        embedder, lambda layer: (_GroupedConv2D if _is_grouped(layer) else type(layer)).from_config(layer.get_config())
    )


def in_float32(embedder: keras.Model) -> keras.Model:
    """Returns the embedder with the dtype policy float32 in all layers."""
    if all(layer.compute_dtype == "float32" for layer in all_layers(embedder)):
        return embedder
    return replace_layers(embedder, lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float32"}))


def replace_layers(embedder: keras.Model, copy_layer: Callable) -> keras.Model:
    """Returns a copy of a functional embedder, with `copy_layer(layer)` for each layer and the same weights."""
    copy = keras.models.clone_model(embedder, clone_function=copy_layer, recursive=True)
    copy.set_weights(embedder.get_weights())
    return copy


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yields all layers of a model, including the layers of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer


def _is_grouped(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and layer.groups > 1


class _GroupedConv2D(keras.layers.Conv2D):
    """Convolution that Keras does not compile with XLA."""

    def convolution_op(self, inputs, kernel):
        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
