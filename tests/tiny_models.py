"""Small models and images that the tests of ordinary Keras usage share."""

import keras
import numpy as np

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.models import make_embedder

CLASSES = 4
SHAPE = (8, 8, 3)
# A few eager steps take less time than tracing one, but only on TensorFlow.
EAGER_IF_FASTER = {"run_eagerly": keras.backend.backend() == "tensorflow"}
METRICS = {"loss", "accuracy", "target_angle", "target_angle_std", "embedding_norm"}


def make_images():
    """Returns 24 uint8 images and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 24).astype("int32")
    classes = generator.integers(0, 256, (CLASSES, *SHAPE))
    images = classes[labels] + generator.normal(0, 20, (24, *SHAPE))
    return np.clip(images, 0, 255).astype("uint8"), labels


def make_small_embedder(dropout=0.0):
    backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 4, strides=4, activation="relu")])
    return make_embedder(backbone, dim=8, dropout=dropout)


def make_model(seed=3, dropout=0.0, **compile_options):
    """Returns a compiled model, which is the same for the same seed."""
    keras.utils.set_random_seed(seed)
    model = RecognitionModel(make_small_embedder(dropout), ArcFace(CLASSES, scale=16.0, warmup_steps=8))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), **compile_options)
    return model


def fit(model, images=None, labels=None, **options):
    """Returns the history of a training with batches of 8 in the order of the arrays."""
    if images is None:
        images, labels = make_images()
    if labels is not None:
        options["batch_size"] = 8
    return model.fit(images, labels, **{"shuffle": False, "verbose": 0, **options}).history


def make_functional(scale=16.0):
    """Returns a compiled functional model of an embedder and a head, which takes images and labels."""
    images, labels = keras.Input(SHAPE), keras.Input((), dtype="int32")
    logits = ArcFace(CLASSES, scale=scale)(make_small_embedder()(images), labels)
    model = keras.Model([images, labels], logits)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def assert_same_weights(first, second):
    """Checks that the variables of two layers, models or optimizers are equal."""
    for ours, theirs in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
