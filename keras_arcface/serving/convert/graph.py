"""Keras model that the converters read, and metadata of the converted file."""

import json

import keras
from keras import ops

from keras_arcface.serving.embedder_facts import MIN_NORM
from keras_arcface.serving.embedder_facts import embedder_facts
from keras_arcface.serving.layer_replacement import in_float32
from keras_arcface.serving.layer_replacement import without_xla

METADATA_KEY = "keras_arcface"  # name of the metadata in the files


def make_graph(embedder: keras.Model, mirror: bool) -> keras.Model:
    """Returns a float32 model that maps `images`, uint8 `(n, height, width, 3)`, to `embedding` and `norm`.

    `embedding` is `(n, dim)` and L2-normalized, `norm` is `(n,)`. The model computes in float32 even if the embedder
    does not. The converter applies a lower precision later.

    Args:
        embedder: embedder to export.
        mirror: whether to add the embedding of the mirror image before normalization.
    """
    embedder = without_xla(in_float32(embedder))
    images = keras.Input(embedder.input_shape[1:], dtype="uint8", name="images")
    pixels = ops.cast(images, "float32")
    if mirror:
        pixels = ops.concatenate([pixels, ops.flip(pixels, axis=2)], axis=0)
    raw = embedder(pixels, training=False)
    if mirror:
        raw = ops.sum(ops.reshape(raw, (2, -1, embedder.output_shape[1])), axis=0)
    norm = ops.sqrt(ops.sum(ops.square(raw), axis=-1))
    embedding = raw / ops.expand_dims(ops.maximum(norm, MIN_NORM), -1)
    return keras.Model(images, {"embedding": embedding, "norm": norm}, name=embedder.name)


def input_spec(graph: keras.Model) -> keras.InputSpec:
    """Returns the specification of a model's input for Keras' exporters."""
    return keras.InputSpec(shape=graph.input_shape, dtype="uint8", name="images")


def metadata_json(embedder: keras.Model, mirror: bool, precision: str) -> str:
    """Returns the facts about the embedder and the precision as JSON, for the metadata of the file."""
    return json.dumps({**embedder_facts(embedder, mirror), "precision": precision})
