"""Embedders whose weights are random and differ from the initial weights of every layer."""

import keras
import numpy as np

from keras_arcface.models import make_embedder


def layers_of(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)
        else:
            yield layer


def trained(backbone):
    """Returns an embedder whose statistics and slopes are random, so that a converter that skips a layer fails."""
    keras.utils.set_random_seed(1)
    embedder = make_embedder(backbone, dim=16)
    generator = np.random.default_rng(0)
    for layer in layers_of(embedder):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
            layer.beta.assign(generator.normal(0, 0.3, layer.beta.shape))
        if isinstance(layer, keras.layers.PReLU):
            layer.alpha.assign(generator.uniform(-0.2, 1.2, layer.alpha.shape))
    return embedder
