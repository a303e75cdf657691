"""Strategies that select the devices of a model."""

import contextlib
import logging

import keras
import tensorflow as tf

from keras_arcface import _arguments
from keras_arcface._choices import STRATEGIES

_log = logging.getLogger(__name__)


def all_gpus_strategy() -> tf.distribute.Strategy:
    """Returns a strategy that trains on all GPUs of this machine, or on the CPU without a GPU.

    With two or more GPUs, the strategy is a `MirroredStrategy`, which splits each batch over them. Create the model
    inside `strategy.scope()`:

    >>> with all_gpus_strategy().scope():
    ...     model = RecognitionModel(embedder, ArcFace(num_classes=2))
    """
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    _log.info("Training on %s", ", ".join(gpus) or "the CPU")
    return tf.distribute.MirroredStrategy(gpus) if len(gpus) > 1 else tf.distribute.get_strategy()


def device_scope(strategy: str = "auto") -> contextlib.AbstractContextManager:
    """Returns a context in which models are created, compiled and trained on the chosen devices.

    TensorFlow selects the devices when a model is created; JAX also selects them when it is trained.

    >>> with device_scope("auto"):
    ...     model = RecognitionModel(embedder, ArcFace(num_classes=2))
    ...     model.compile("sgd")
    ...     history = model.fit(images, labels, verbose=0)

    Args:
        strategy: "auto" for all GPUs of this machine, or its CPU; "mirrored" for `MirroredStrategy` over all logical
            GPUs, or over all logical CPUs without a GPU; "one-device" for the first GPU, or the CPU; "jax" for data
            parallelism over all devices of JAX with `keras.distribution`.

    Raises:
        ValueError: if the strategy is unknown, or the Keras backend does not support it.
    """
    _arguments.check_choice("strategy", strategy, STRATEGIES)
    backend = keras.backend.backend()
    if (strategy == "jax" and backend != "jax") or (strategy == "mirrored" and backend != "tensorflow"):
        required = "jax" if strategy == "jax" else "tensorflow"
        raise ValueError(
            f"strategy={strategy!r} requires the {required} backend: set KERAS_BACKEND={required} before importing "
            f"Keras. Received: backend={backend!r}"
        )
    if backend == "jax" and strategy in ("auto", "jax"):
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    if backend != "tensorflow":
        return contextlib.nullcontext()
    if strategy == "auto":
        return all_gpus_strategy().scope()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in devices]
    if strategy == "mirrored":
        return tf.distribute.MirroredStrategy(names).scope()
    return tf.distribute.OneDeviceStrategy(names[0]).scope()
