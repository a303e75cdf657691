"""Signatures of a SavedModel, as TensorFlow functions that run the embedder."""

import json
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_arcface import _private_api
from keras_arcface.serving.embedder_facts import MIN_NORM
from keras_arcface.serving.saved_model.decoding import decode_rows


def make_embed(embedder: keras.Model, image_size: tuple[int, int], mirror: bool, freeze: bool) -> Callable:
    """Returns a TensorFlow function that maps `images` to `embedding` and `norm`.

    Args:
        embedder: exported model.
        image_size: `(height, width)` of the images.
        mirror: whether to add the embedding of the mirror image before normalization.
        freeze: whether to store the weights as constants of the graph.
    """

    @tf.function(input_signature=[tf.TensorSpec((None, *image_size, 3), tf.uint8, "images")])
    def embed(images):
        raw = tf.cast(embedder(images, training=False), tf.float32)
        if mirror:
            raw += tf.cast(embedder(tf.reverse(images, [2]), training=False), tf.float32)
        norm = tf.norm(raw, axis=-1)
        return {"embedding": raw / tf.maximum(norm, MIN_NORM)[:, tf.newaxis], "norm": norm}

    if not freeze:
        return embed
    frozen = _private_api.freeze_variables(embed.get_concrete_function(), lower_control_flow=False)
    dim = embedder.output_shape[-1]

    def embed_frozen(images):
        embedding, norm = frozen(images)
        return {"embedding": tf.ensure_shape(embedding, (None, dim)), "norm": tf.ensure_shape(norm, (None,))}

    return embed_frozen


def make_signatures(
    embed: Callable, image_size: tuple[int, int], compare: bool, metadata: dict[str, Any]
) -> dict[str, tuple[Callable, list[tf.TensorSpec]]]:
    """Returns the signatures as `{name: (function, specifications of its inputs)}`.

    Args:
        embed: result of `make_embed`.
        image_size: `(height, width)` of the images.
        compare: whether to include the signature `compare`.
        metadata: dictionary that the signature `describe` returns as JSON.
    """
    description = json.dumps(metadata)

    def embed_images(images):
        # A server does not check shapes. Images of a different rank would crash its process, and images of a different
        # size with the same number of pixels would give wrong embeddings.
        images = tf.ensure_shape(images, (None, *image_size, 3))
        rows = tf.shape(images)[0]
        # Some CPU kernels fail for an empty batch, so it is padded with one row, which is removed from the outputs.
        outputs = embed(tf.pad(images, [[0, tf.cast(rows == 0, tf.int32)], [0, 0], [0, 0], [0, 0]]))
        return {name: value[:rows] for name, value in outputs.items()}

    def embed_bytes(image_bytes):
        images, valid = decode_rows(tf.ensure_shape(image_bytes, (None,)), image_size)
        outputs = embed_images(images)
        return {
            "embedding": tf.where(valid[:, tf.newaxis], outputs["embedding"], 0.0),
            "norm": tf.where(valid, outputs["norm"], 0.0),
            "valid": valid,
        }

    def compare_images(images_a, images_b):
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(images_a), tf.shape(images_b))]):
            first, second = (embed_images(images)["embedding"] for images in (images_a, images_b))
        return {"cosine": tf.reduce_sum(first * second, axis=-1)}

    # A server with batching requires an input with a batch axis in every signature, so `describe` has an unused input.
    def describe(request):
        return {"metadata": tf.fill(tf.shape(tf.ensure_shape(request, (None,))), description)}

    images = tf.TensorSpec((None, *image_size, 3), tf.uint8)
    strings = tf.TensorSpec((None,), tf.string)
    signatures: dict[str, tuple[Callable, dict[str, tf.TensorSpec]]] = {
        "serving_default": (embed_images, {"images": images}),
        "serve_bytes": (embed_bytes, {"image_bytes": strings}),
        "compare": (compare_images, {"images_a": images, "images_b": images}),
        "describe": (describe, {"request": strings}),
    }
    if not compare:
        del signatures["compare"]
    return {
        name: (function, [tf.TensorSpec(spec.shape, spec.dtype, argument) for argument, spec in inputs.items()])
        for name, (function, inputs) in signatures.items()
    }
