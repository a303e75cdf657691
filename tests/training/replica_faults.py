"""Injects faults known from GPUs into training on two logical devices, and prints the result of the check for each.

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


def replica_id():
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


@keras.saving.register_keras_serializable()
class ScaleInputs(keras.layers.Layer):
    """Scales the inputs of the second replica, as a faulty transfer between GPUs may do."""

    factor = 1.0

    def call(self, inputs):
        return inputs * ops.cast(tf.where(replica_id() == 1, self.factor, 1.0), inputs.dtype)


@keras.saving.register_keras_serializable()
class ScaleGradient(keras.layers.Layer):
    """Scales the gradient of the second replica: with 0 it is lost, with 2 it is counted twice."""

    factor = 1.0

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: upstream * tf.where(replica_id() == 1, self.factor, 1.0)

        return identity(inputs)


def make_model(head, optimizer):
    parts = [ScaleInputs(), keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    parts += [keras.layers.Dense(4), ScaleGradient()]
    model = RecognitionModel(keras.Sequential([keras.Input((8,)), *parts]), head(3))
    model.compile(optimizer)
    return model


def state(model):
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def outcome(strategy, input_factor=1.0, gradient_factor=1.0, head=ArcFace, optimizer="adam"):
    """Returns what the check returns or raises, and whether the model is unchanged."""
    keras.utils.set_random_seed(0)
    ScaleInputs.factor, ScaleGradient.factor = input_factor, gradient_factor
    with strategy.scope():
        model = make_model(head, optimizer)
        model.build((None, 8))
        model.optimizer.build(model.trainable_variables)
        before = state(model)
        try:
            result = training.check_replicas(model, [(IMAGES, LABELS)])
        except RuntimeError as error:
            result = str(error)
    unchanged = all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
    return {"result": result, "unchanged": unchanged}


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    report = {
        "no fault": outcome(strategy),
        "rounding": outcome(strategy, input_factor=1 + 1e-6),
        "center loss": outcome(strategy, head=lambda n: layers.WithCenterLoss(ArcFace(n))),
        "random margins": outcome(strategy, head=layers.ElasticFace),
        "sampled": outcome(strategy, head=lambda n: ArcFace(n, sample_rate=0.5)),
        "damaged images": outcome(strategy, input_factor=1.5),
        "NaN": outcome(strategy, input_factor=np.nan),
        "counted twice": outcome(strategy, gradient_factor=2.0),
        "lost": outcome(strategy, gradient_factor=0.0),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
