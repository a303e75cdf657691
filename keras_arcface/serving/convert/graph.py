"""Graph that is converted, and the metadata of the converted file."""

import json

import keras
from keras import ops

from keras_arcface.serving.embedder_facts import MIN_NORM
from keras_arcface.serving.embedder_facts import embedder_facts
from keras_arcface.serving.layer_replacement import in_float32
from keras_arcface.serving.layer_replacement import without_xla

METADATA_KEY = "keras_arcface"  # of the metadata in the files


def make_graph(embedder: keras.Model, mirror: bool) -> keras.Model:
    """Returns a model `images` uint8 `(n, height, width, 3)` -> `embedding` `(n, dim)`, `norm` `(n,)`.

    It computes in float32 under every dtype policy of the embedder. A lower precision is applied by the converter.

    Args:
        embedder: the model.
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
    """Returns the input signature of a graph for Keras' exporters."""
    return keras.InputSpec(shape=graph.input_shape, dtype="uint8", name="images")


def metadata_json(embedder: keras.Model, mirror: bool, precision: str) -> str:
    """Returns the JSON of facts that a user of the file must know and that the file does not show otherwise."""
    return json.dumps({**embedder_facts(embedder, mirror), "precision": precision})
