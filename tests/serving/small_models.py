"""Small SavedModels with the signatures of an exported embedder: a projection of the pixels."""

import json

import numpy as np
import tensorflow as tf

from keras_arcface.serving.saved_model.decoding import decode_rows

SIZE, DIM = (16, 20), 24  # not square, so that height and width cannot be confused
THRESHOLDS = {
    "0.01": {
        **{"threshold": 0.25, "far": 0.0098, "far_interval": [0.0065, 0.014], "tar": 0.9},
        **{"impostors_accepted": 29, "impostors": 3000},
    },
    "0.001": {"threshold": 0.5, "far": 0.001, "tar": 0.7},
}


class Projection(tf.Module):
    """Model with weights that depend on `seed`, and with `thresholds` in its metadata."""

    def __init__(self, seed, thresholds=THRESHOLDS):
        super().__init__()
        self.seed = seed
        weights = np.random.default_rng(seed).normal(size=(SIZE[0] * SIZE[1] * 3, DIM))
        self.weights = tf.Variable(weights / np.sqrt(len(weights)), dtype=tf.float32)
        metadata = {"format": 1, "name": f"seed {seed}", "image_size": SIZE, "embedding_size": DIM, "ä": '"\\'}
        self.description = json.dumps(metadata | {"thresholds": thresholds}, ensure_ascii=False)

    @tf.function(input_signature=[tf.TensorSpec((None, *SIZE, 3), tf.uint8, "images")])
    def embed(self, images):
        pixels = tf.reshape(tf.cast(images, tf.float32) / 127.5 - 1.0, (-1, SIZE[0] * SIZE[1] * 3))
        raw = tf.tanh(pixels @ self.weights)
        norm = tf.norm(raw, axis=-1)
        return {"embedding": raw / norm[:, tf.newaxis], "norm": norm}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def embed_bytes(self, image_bytes):
        images, valid = decode_rows(image_bytes, SIZE)
        outputs = self.embed(images)
        return {
            "embedding": tf.where(valid[:, tf.newaxis], outputs["embedding"], 0.0),
            "norm": tf.where(valid, outputs["norm"], 0.0),
            "valid": valid,
        }

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "request")])
    def describe(self, request):
        return {"metadata": tf.fill(tf.shape(request), self.description)}

    def reference(self, images):
        """Returns the expected embeddings and norms in float64."""
        pixels = images.reshape(len(images), -1) / 127.5 - 1
        raw = np.tanh(pixels @ self.weights.numpy().astype(np.float64))
        norm = np.linalg.norm(raw, axis=1)
        return raw / norm[:, np.newaxis], norm


def write(model, directory, signatures=("serving_default", "serve_bytes", "describe")):
    """Writes the model with these signatures atomically, as a publisher does."""
    functions = {"serving_default": model.embed, "serve_bytes": model.embed_bytes, "describe": model.describe}
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    tf.saved_model.save(model, str(unfinished), signatures={name: functions[name] for name in signatures})
    unfinished.rename(directory)
