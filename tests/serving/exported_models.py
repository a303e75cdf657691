"""A small exported embedder, healthy and with faults of the served graph."""

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.serving import export_saved_model
from keras_arcface.serving.saved_model import export

SIZE, DIM = (32, 32), 16


def make_network(seed=1, size=SIZE):
    """Returns a small network whose statistics are as after training, so that colors and normalization matter."""
    keras.utils.set_random_seed(seed)
    embedder = make_embedder(backbones.IResNet((1, 1), width=16, input_shape=(*size, 3)), dim=DIM)
    generator = np.random.default_rng(seed)
    for layer in embedder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    return embedder


def with_first_step(embedder, step):
    """Returns an embedder that applies a function of a Keras tensor to its images first."""
    images = keras.Input(embedder.input_shape[1:])
    return keras.Model(images, embedder(step(images)), name=embedder.name)


def swap_colors(embedder):
    return with_first_step(embedder, lambda images: images[..., ::-1])


def normalize_twice(embedder):
    return with_first_step(embedder, lambda images: images / 127.5 - 1)


def export_model(embedder, directory, **options):
    return export_saved_model(
        embedder, directory, **{"compare": True, "warmup_batch_sizes": (1, 4), "check": False} | options
    )


def export_without_normalization(embedder, directory, monkeypatch, **options):
    """Exports an embedder whose signatures return the embeddings as the network computes them."""

    def make_embed(embedder, image_size, mirror, freeze):
        @tf.function(input_signature=[tf.TensorSpec((None, *image_size, 3), tf.uint8, "images")])
        def embed(images):
            raw = tf.cast(embedder(images, training=False), tf.float32)
            return {"embedding": raw, "norm": tf.norm(raw, axis=-1)}

        return embed

    with monkeypatch.context() as patch:
        patch.setattr(export, "make_embed", make_embed)
        return export_model(embedder, directory, freeze=False, **options)
