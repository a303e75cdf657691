"""Trains every head with classes, and triplets, on one device and on two, and prints how far the weights differ."""

import contextlib
import json
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import RecognitionModel
from keras_arcface.layers import EmbeddingHead
from keras_arcface.losses import TripletLoss

sys.path.append(str(Path(__file__).parents[1]))
from every_head import WITH_CLASSES

CLASSES = 8


def problem():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 44).astype("int32")  # the last batch is not full
    return (generator.normal(size=(44, 6)) + np.eye(CLASSES, 6)[labels]).astype("float32"), labels


def model_of(head, strategy=None):
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = RecognitionModel(keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)]), head())
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
        model.build((None, 6))
    return model


def train(head, strategy=None):
    model = model_of(head, strategy)
    inputs, labels = problem()
    model.fit(inputs, labels, batch_size=16, shuffle=False, epochs=3, verbose=0)
    return [np.array(weight) for weight in (*model.embedder.weights, *model.head.weights)]


def triplet_losses(strategy):
    """The loss of 16 examples in one, on two replicas, and the mean of those of its two halves."""
    inputs, labels = (array[:16] for array in problem())

    def loss(model, part=slice(None), size=16):
        return model.evaluate(inputs[part], labels[part], batch_size=size, verbose=0, return_dict=True)["loss"]

    one, two = (model_of(lambda: EmbeddingHead(TripletLoss()), where) for where in (None, strategy))
    return loss(one), loss(two), (loss(one, slice(8)) + loss(one, slice(8, 16))) / 2


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    differences = {}
    for name, make in WITH_CLASSES.items():
        pairs = zip(train(partial(make, CLASSES)), train(partial(make, CLASSES), strategy), strict=True)
        differences[name] = max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)) for a, b in pairs)
    one, two, halves = triplet_losses(strategy)
    print(
        json.dumps(
            {
                "two against one": differences,
                "triplets, two against halves": abs(two - halves),
                "triplets, halves against whole": abs(halves - one),
            }
        )
    )


if __name__ == "__main__":
    main()
