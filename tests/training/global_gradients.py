"""Trains a small network with several kinds of clipping and accumulation, on one device and on several, and prints the
differences of the weights.

    python global_gradients.py 2     # or 4: a process can hold replica groups of one size only
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface.training import CoupledSGD
from keras_arcface.training import GradientAccumulationOptimizer
from keras_arcface.training import SyncedLossScaleOptimizer

CLIP_NORM = 0.05  # far below the norm of the gradients, so that every step is clipped


def with_head_optimizer():
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(CoupledSGD(0.1), {".*head/.*": CoupledSGD(0.01)})
    )


OPTIMIZERS = {
    "clipped": lambda: GradientAccumulationOptimizer(CoupledSGD(0.1), clip_norm=CLIP_NORM),
    "body clipped": lambda: GradientAccumulationOptimizer(CoupledSGD(0.1), clip_norm=CLIP_NORM, clip="body/"),
    "accumulated, clipped": lambda: GradientAccumulationOptimizer(
        CoupledSGD(0.1), accumulation_steps=4, clip_norm=CLIP_NORM
    ),
    "accumulated, averaged": lambda: GradientAccumulationOptimizer(
        CoupledSGD(0.1, use_ema=True, ema_momentum=0.9), accumulation_steps=4
    ),
    "accumulated, separate head": lambda: GradientAccumulationOptimizer(with_head_optimizer(), accumulation_steps=4),
    "mixed_float16": lambda: SyncedLossScaleOptimizer(GradientAccumulationOptimizer(CoupledSGD(0.1), 4, CLIP_NORM)),
    "Keras' own, clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=CLIP_NORM),
}


def train(make_optimizer, strategy=None, policy="float32", batch_size=16):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    with strategy.scope() if strategy else contextlib.nullcontext():
        layers = [
            keras.layers.Dense(16, activation="relu", name="body"),
            keras.layers.Dense(4, dtype="float32", name="head"),
        ]
        model = keras.Sequential([keras.Input((8,)), *layers])
        model.compile(make_optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(size=(128, 8)).astype(np.float32), generator.integers(0, 4, 128)
    model.fit(inputs, labels, batch_size=batch_size, shuffle=False, epochs=3, verbose=0)
    return np.concatenate([np.ravel(weights) for weights in model.get_weights()])


def after_overflow(strategy, optimizer_class, replica_with_overflow):
    """Returns the weight and the loss scale after a step in which the gradient of one replica is infinite."""
    with strategy.scope():
        optimizer = optimizer_class(keras.optimizers.SGD(0.1), initial_scale=2.0)
        weight = keras.Variable([1.0])
        optimizer.build([weight])

    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply([tf.where(replica == replica_with_overflow, [np.inf], [1.0])], [weight])

    tf.function(lambda: strategy.run(step))()
    return [float(weight.numpy()[0]), float(optimizer.dynamic_scale.numpy())]


def warmup_state(strategy):
    """Returns the head's step counter and margin strength on every replica after six of ten warm-up steps."""
    with strategy.scope():
        embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model = RecognitionModel(embedder, ArcFace(3, warmup_steps=10, initial_scale=4.0))
        model.compile("sgd")
    inputs = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    model.fit(inputs, np.arange(48) % 3, batch_size=8, shuffle=False, verbose=0)
    variables = (model.head.steps.value, model.head.strength.value)
    return [[float(value) for value in strategy.experimental_local_results(variable)] for variable in variables]


def main():
    devices = int(sys.argv[1])
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{device}" for device in range(devices)])
    report = {}
    for name, make_optimizer in OPTIMIZERS.items():
        policy = name if name == "mixed_float16" else "float32"
        one, several = train(make_optimizer, policy=policy), train(make_optimizer, strategy, policy)
        report[name] = float(np.abs(one - several).max())
    accumulated = train(OPTIMIZERS["accumulated, clipped"], batch_size=16)
    at_once = train(OPTIMIZERS["clipped"], batch_size=64)
    report["4 x 16 against 64"] = float(np.abs(accumulated - at_once).max())
    report["warm-up"] = warmup_state(strategy)
    for replica in range(devices):
        report[f"overflow on replica {replica}"] = after_overflow(strategy, SyncedLossScaleOptimizer, replica)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
