"""Damages training on two logical devices in the ways that are known from GPUs, and prints what the check says of each.

python replica_faults.py
"""

import json

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import layers
from keras_arcface import training

IMAGES, LABELS = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32), np.arange(12) % 3


def replica():
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


@keras.saving.register_keras_serializable()
class Damage(keras.layers.Layer):
    """Scales what the second replica receives, as a faulty transfer between GPUs does."""

    factor = 1.0

    def call(self, inputs):
        return inputs * ops.cast(tf.where(replica() == 1, self.factor, 1.0), inputs.dtype)


@keras.saving.register_keras_serializable()
class LosesGradient(keras.layers.Layer):
    """Loses the gradient of the second replica, or counts it more than once."""

    times = 1.0

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: upstream * tf.where(replica() == 1, self.times, 1.0)

        return identity(inputs)


def make_model(head, optimizer):
    parts = [Damage(), keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    parts += [keras.layers.Dense(4), LosesGradient()]
    model = RecognitionModel(keras.Sequential([keras.Input((8,)), *parts]), head(3))
    model.compile(optimizer)
    return model


def state(model):
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def outcome(strategy, damage=1.0, times=1.0, head=ArcFace, optimizer="adam"):
    """What the check returns or raises, and whether the model is as it was."""
    keras.utils.set_random_seed(0)
    Damage.factor, LosesGradient.times = damage, times
    with strategy.scope():
        model = make_model(head, optimizer)
        model.build((None, 8))
        model.optimizer.build(model.trainable_variables)
        before = state(model)
        try:
            said = training.check_replicas(model, [(IMAGES, LABELS)])
        except RuntimeError as error:
            said = str(error)
    unchanged = all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
    return {"said": said, "unchanged": unchanged}


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    report = {
        "sound": outcome(strategy),
        "rounding": outcome(strategy, damage=1 + 1e-6),
        "center loss": outcome(strategy, head=lambda n: layers.WithCenterLoss(ArcFace(n))),
        "random margins": outcome(strategy, head=layers.ElasticFace),
        "sampled": outcome(strategy, head=lambda n: ArcFace(n, sample_rate=0.5)),
        "damaged images": outcome(strategy, damage=1.5),
        "NaN": outcome(strategy, damage=np.nan),
        "counted twice": outcome(strategy, times=2.0),
        "lost": outcome(strategy, times=0.0),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
