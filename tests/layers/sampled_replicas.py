"""Trains a sampled head on one device and on two, and prints how far the weights differ."""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import CoupledSGD


def train(strategy=None):
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(92, 6)).astype("float32")  # the last batch is not full
    labels = generator.integers(0, 40, 92).astype("int32")
    with strategy.scope() if strategy else contextlib.nullcontext():
        embedder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)])
        model = RecognitionModel(embedder, ArcFace(40, scale=16.0, sample_rate=0.4))
        model.compile(CoupledSGD(0.1))
        model.build((None, 6))
    model.fit(inputs, labels, batch_size=16, shuffle=False, epochs=2, verbose=0)
    head = model.head
    return [np.array(v) for v in (*model.embedder.weights, head.centers, *head.partial_fc.slots)], np.array(
        head.partial_fc.sampled_ids
    )


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    weights, drawn = train()
    shared, drawn_by_two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    differences = [np.abs(a - b).max() / np.abs(a).max() for a, b in zip(weights, shared, strict=True)]
    print(
        json.dumps({"drawn alike": bool((drawn == drawn_by_two).all()), "largest difference": float(max(differences))})
    )


if __name__ == "__main__":
    main()
