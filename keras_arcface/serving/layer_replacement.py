"""An embedder with other layers in it, and the same weights."""

import keras
import tensorflow as tf


def without_xla(embedder):
    """The embedder, or one with its weights whose grouped convolutions are TensorFlow's own.

    Converters do not see into what XLA is to compile, and a server has XLA on CPUs only where it is told to.
    """
    if not any(_is_grouped(layer) for layer in layers_of(embedder)):
        return embedder
    return copied(
        embedder, lambda layer: (_GroupedConv2D if _is_grouped(layer) else type(layer)).from_config(layer.get_config())
    )


def _is_grouped(layer):
    return isinstance(layer, keras.layers.Conv2D) and layer.groups > 1


class _GroupedConv2D(keras.layers.Conv2D):
    """Keras' own has XLA compile grouped convolutions, for the sake of training on CPUs; this is TensorFlow's."""

    def convolution_op(self, inputs, kernel):
        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)


def copied(embedder, copy_layer):
    """A functional embedder, each layer made anew by `copy_layer`, with the weights of the old ones."""
    copy = keras.models.clone_model(embedder, clone_function=copy_layer, recursive=True)
    copy.set_weights(embedder.get_weights())
    return copy


def layers_of(model):
    """All layers, those of models within it too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)
        else:
            yield layer
