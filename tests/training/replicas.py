"""Trains MobileFaceNet on the same batches on one device and on several, and prints how far the weights differ.

    python replicas.py 2

Float32 sums come out differently on two devices, and a fresh network of many BatchNorms magnifies that from step to
step. How much of the difference that explains is measured too: one device again, from weights that are moved by a
rounding error. And one device that accumulates gradients, whose BatchNorm sees the parts of a batch only.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface.models import make_embedder
from keras_arcface.training import WholeBatchOptimizer

STEPS, BATCH, CLASSES, SHAPE, RATE = 10, 16, 6, (32, 32, 3), 1e-5
PARTS = 4
ROUNDING = 2.0**-24


def make_dataset(batch_size=BATCH):
    """Ten batches, the last one of them not full."""
    generator = np.random.default_rng(0)
    count = STEPS * BATCH - 4
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    prototypes = generator.integers(0, 256, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + generator.normal(0, 40, (count, *SHAPE)), 0, 255).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)


def train(strategy, moved_by=0.0, parts=1):
    """Returns the weights at the start and at the end, and the history."""
    with strategy.scope():
        keras.utils.set_random_seed(1)
        backbone = backbones.MobileFaceNet(input_shape=SHAPE, synchronized=True)
        head = ArcFace(CLASSES, centers_regularizer=keras.regularizers.L2(1e-3))
        model = RecognitionModel(make_embedder(backbone, dim=32, dropout=0.0, synchronized=True), head)
        model.compile(WholeBatchOptimizer(keras.optimizers.SGD(RATE, momentum=0.9), accumulation_steps=parts))
        model.build((None, *SHAPE))
        generator = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(np.array(weight) * (1 + moved_by * generator.choice([-1, 1], weight.shape)))
    start = weights_of(model)
    history = model.fit(make_dataset(BATCH // parts), shuffle=False, verbose=0).history
    return start, weights_of(model), {name: values[0] for name, values in history.items()}


def weights_of(model):
    statistics = [weight for weight in model.non_trainable_weights if "moving" in weight.path]
    return {
        "trainable weights": [np.array(weight) for weight in model.trainable_weights],
        "moving statistics": [np.array(weight) for weight in statistics],
    }


def difference(first, second):
    return {
        kind: max(float(np.abs(a - b).max()) for a, b in zip(first[kind], second[kind], strict=True)) for kind in first
    }


def main():
    devices = [f"CPU:{number}" for number in range(int(sys.argv[1]))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(devices))
    one_device = tf.distribute.OneDeviceStrategy(devices[0])
    start, one, one_history = train(one_device)
    _, several, several_history = train(tf.distribute.MirroredStrategy(devices))
    _, rounded, _ = train(one_device, moved_by=ROUNDING)
    _, accumulated, _ = train(one_device, parts=PARTS)
    report = {
        "several devices against one": difference(one, several),
        f"one device, {PARTS} x {BATCH // PARTS} against {BATCH}": difference(one, accumulated),
        "one device, start moved by rounding": difference(one, rounded),
        "what training moved": difference(one, start),
        "history of one": one_history,
        "history of several": several_history,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
