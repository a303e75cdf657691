"""Trains MobileFaceNet on the same batches on one device and on two, and prints how far the weights differ.

    python replicas.py

Float32 sums come out differently on two devices, and a fresh network of many BatchNorms magnifies that from step to
step. How much of the difference that explains is measured too: one device again, from weights that are moved by a
rounding error.
"""

import json

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface.models import make_embedder

STEPS, BATCH, CLASSES, SHAPE, RATE = 10, 16, 6, (32, 32, 3), 1e-5
DEVICES = ["CPU:0", "CPU:1"]
ROUNDING = 2.0**-24


def make_dataset():
    """Ten batches, the last one of them not full."""
    generator = np.random.default_rng(0)
    count = STEPS * BATCH - 4
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    prototypes = generator.integers(0, 256, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + generator.normal(0, 40, (count, *SHAPE)), 0, 255).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def train(strategy, moved_by=0.0):
    """Returns the weights at the start and at the end, and the history."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        backbone = backbones.MobileFaceNet(input_shape=SHAPE, synchronized=True)
        head = ArcFace(CLASSES, centers_regularizer=keras.regularizers.L2(1e-3))
        model = RecognitionModel(make_embedder(backbone, dim=32, dropout=0.0, synchronized=True), head)
        model.compile(keras.optimizers.SGD(RATE, momentum=0.9))
        model.build((None, *SHAPE))
        generator = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(np.array(weight) * (1 + moved_by * generator.choice([-1, 1], weight.shape)))
    start = weights_of(model)
    history = model.fit(make_dataset(), shuffle=False, verbose=0).history
    return start, weights_of(model), {name: values[0] for name, values in history.items()}


def weights_of(model):
    return {
        kind: [np.array(w) for w in getattr(model, kind)] for kind in ("trainable_weights", "non_trainable_weights")
    }


def difference(first, second):
    return {
        kind: max(float(np.abs(a - b).max()) for a, b in zip(first[kind], second[kind], strict=True)) for kind in first
    }


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(DEVICES))
    one_device = tf.distribute.OneDeviceStrategy(DEVICES[0])
    start, one, one_history = train(one_device)
    _, two, two_history = train(tf.distribute.MirroredStrategy(DEVICES))
    _, rounded, _ = train(one_device, moved_by=ROUNDING)
    report = {
        "two devices against one": difference(one, two),
        "one device, start moved by rounding": difference(one, rounded),
        "what training moved": difference(one, start),
        "history of one": one_history,
        "history of two": two_history,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
