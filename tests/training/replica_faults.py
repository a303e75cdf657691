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
class SumsTwice(keras.optimizers.SGD):
    """Applies the sum of the replicas' gradients to each replica, and sums again."""

    def apply(self, grads, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        super().apply(context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads)), trainable_variables)


@keras.saving.register_keras_serializable()
class LosesOne(keras.optimizers.SGD):
    """Loses the gradient of the second replica."""

    def apply(self, grads, trainable_variables=None):
        mine = tf.where(replica() == 1, 0.0, 1.0)
        super().apply([gradient * mine for gradient in grads], trainable_variables)


def make_model(head=ArcFace, optimizer=lambda: training.CoupledSGD(0.01, use_ema=True)):
    parts = [Damage(), keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = RecognitionModel(keras.Sequential([keras.Input((8,)), *parts, keras.layers.Dense(4)]), head(3))
    model.compile(optimizer())
    return model


def warm_up(optimizer):
    """An optimizer that changes no weight in its first three steps."""
    rate = training.CosineSchedule(0.1, total=100, warmup=10)
    return training.WholeBatchOptimizer(optimizer(rate), accumulation_steps=2)


def state(model):
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def outcome(strategy, damage=1.0, **choices):
    """What the check returns or raises, and whether the model is as it was."""
    keras.utils.set_random_seed(0)
    Damage.factor = damage
    with strategy.scope():
        model = make_model(**choices)
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
        "center loss": outcome(strategy, head=lambda n: layers.WithCenterLoss(ArcFace(n))),
        "random margins": outcome(strategy, head=layers.ElasticFace),
        "warm-up, accumulated, one lost": outcome(strategy, optimizer=lambda: warm_up(LosesOne)),
        "damaged images": outcome(strategy, damage=1.5),
        "NaN": outcome(strategy, damage=np.nan),
        "summed twice": outcome(strategy, optimizer=lambda: SumsTwice(0.01)),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
