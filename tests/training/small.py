"""A small dense model and 24 examples, for tests of callbacks and optimizers."""

import keras
import numpy as np

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import CoupledSGD

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8)).astype(np.float32)
LABELS = np.arange(24) % 3
BATCH = 4


def make_model(optimizer=None, dim=4, classes=3, eager=False):
    """Makes a compiled and built model. Eager steps are faster than tracing one, but only on TensorFlow."""
    layers = [keras.layers.Dense(16), keras.layers.Dropout(0.5, seed=7), keras.layers.Dense(dim, dtype="float32")]
    head = ArcFace(classes, warmup_steps=20, name="head")
    model = RecognitionModel(keras.Sequential([keras.Input((8,)), *layers]), head)
    run_eagerly = eager and keras.backend.backend() == "tensorflow"
    model.compile(optimizer or CoupledSGD(0.01, use_ema=True), run_eagerly=run_eagerly)
    model.build((None, 8))
    return model


def train(model, callbacks, epochs=1, images=IMAGES, **kwargs):
    """Trains with six steps per epoch."""
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(images, LABELS, epochs=epochs, callbacks=callbacks, **fit)


def state(model):
    model.optimizer.build(model.trainable_variables)
    return [keras.ops.convert_to_numpy(variable) for variable in (*model.variables, *model.optimizer.variables)]
