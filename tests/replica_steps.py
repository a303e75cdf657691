"""Trains 300 steps on one device and on several, and prints, as JSON, the differences of logs, statistics and weights.

    python replica_steps.py 4

Up to Keras 3.9, metrics under MirroredStrategy were multiplied by the number of replicas in each step and so became NaN
after 64 steps on 4 replicas (https://github.com/keras-team/keras/pull/21072). All steps are in one epoch, as an epoch
resets metrics. To tell how much rounding explains, one device also trains from weights that differ by a rounding error.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.backbones import IResNet
from keras_arcface.models import make_embedder
from keras_arcface.training import GradientAccumulationOptimizer

STEPS, BATCH, CLASSES, SHAPE = 300, 16, 6, (16, 16, 3)


def make_dataset():
    """Makes 300 batches. The last one is short, so that local batches are unequal."""
    generator = np.random.default_rng(0)
    count = STEPS * BATCH - 3
    labels = generator.integers(0, CLASSES, count).astype(np.int32)
    prototypes = generator.integers(0, 256, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + generator.normal(0, 40, (count, *SHAPE)), 0, 255).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append({name: float(value) for name, value in logs.items()})


def train(strategy, perturbation=0.0):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        backbone = IResNet((1,), width=16, input_shape=SHAPE, synchronized=True)
        head = ArcFace(CLASSES, centers_regularizer=keras.regularizers.L2(1e-3))
        model = RecognitionModel(make_embedder(backbone, dim=8, dropout=0.0, synchronized=True), head)
        model.compile(GradientAccumulationOptimizer(keras.optimizers.SGD(1e-4, momentum=0.9)))
        model.build((None, *SHAPE))
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(weight.numpy() * (1 + perturbation * generator.choice([-1, 1], weight.shape)))
    start, logs = weights_of(model), Logs()
    history = model.fit(make_dataset(), shuffle=False, verbose=0, callbacks=[logs]).history
    return start, weights_of(model), [*logs.steps, {name: values[0] for name, values in history.items()}]


def weights_of(model):
    return {
        "trained weights": [weight.numpy() for weight in model.trainable_weights],
        "moving statistics": [weight.numpy() for weight in model.non_trainable_weights if "moving" in weight.path],
    }


def largest(first, second, relative=False):
    def difference(a, b):
        return float(np.abs(a - b).max() / (np.abs(a).max() if relative else 1))

    return {kind: max(difference(a, b) for a, b in zip(first[kind], second[kind], strict=True)) for kind in first}


def log_differences(first, second):
    """Returns the largest relative difference of each metric over all steps and the epoch."""
    return {
        name: max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-3) for a, b in zip(first, second, strict=True))
        for name in first[0]
    }


def main():
    devices = [f"CPU:{number}" for number in range(int(sys.argv[1]))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(devices))
    one_device = tf.distribute.OneDeviceStrategy(devices[0])
    start, one, one_logs = train(one_device)
    _, several, several_logs = train(tf.distribute.MirroredStrategy(devices))
    _, rounded, rounded_logs = train(one_device, perturbation=2.0**-24)
    report = {
        "steps": len(one_logs) - 1,
        "finite": bool(np.isfinite([list(logs.values()) for logs in several_logs]).all()),
        "logs, several devices against one": log_differences(one_logs, several_logs),
        "logs, one device, start perturbed": log_differences(one_logs, rounded_logs),
        "several devices against one": largest(one, several),
        "one device, start perturbed": largest(one, rounded),
        "change by training": largest(one, start),
        "epoch of one": one_logs[-1],
        "epoch of several": several_logs[-1],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
