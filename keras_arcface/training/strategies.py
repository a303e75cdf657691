"""Strategies that select the devices of a model."""

import contextlib
import logging

import keras
import tensorflow as tf

from keras_arcface import _arguments
from keras_arcface._choices import STRATEGIES

_log = logging.getLogger(__name__)


def all_gpus_strategy() -> tf.distribute.Strategy:
    """Returns a strategy that trains on all GPUs of this machine, or on the CPU without a GPU. TensorFlow backend only.

    With two or more GPUs, the strategy is a `MirroredStrategy`, which splits each batch over them. Create the model
    inside `strategy.scope()`. `device_scope` has more choices.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        RuntimeError: on another backend, on which the strategy would have no effect.

    Examples:
        >>> strategy = all_gpus_strategy()
        >>> with strategy.scope():
        ...     model = RecognitionModel(embedder, ArcFace(num_classes=2))
        >>> strategy.num_replicas_in_sync  # 1 without a GPU
        1
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "all_gpus_strategy requires the tensorflow backend: set KERAS_BACKEND=tensorflow before importing Keras, "
            f"or use device_scope. Received: backend={keras.backend.backend()!r}"
        )
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    _log.info("Training on %s", ", ".join(gpus) or "the CPU")
    return tf.distribute.MirroredStrategy(gpus) if len(gpus) > 1 else tf.distribute.get_strategy()


def device_scope(strategy: str = "auto") -> contextlib.AbstractContextManager:
    """Returns a context in which models are created, compiled and trained on the chosen devices.

    TensorFlow selects the devices when a model is created; JAX also selects them when it is trained. The batch of a
    step is split over the devices.

    Args:
        strategy: "auto" for all GPUs of this machine, or its CPU; "mirrored" for `MirroredStrategy` over all logical
            GPUs, or over all logical CPUs without a GPU; "one-device" for the first GPU, or the CPU; "jax" for data
            parallelism over all devices of JAX with `keras.distribution`.

    Returns:
        A context manager, for one `with` statement.

    Raises:
        ValueError: if the strategy is unknown, or the Keras backend does not support it.

    Examples:
        >>> with device_scope("auto"):
        ...     model = RecognitionModel(embedder, ArcFace(num_classes=2))
        ...     model.compile("sgd")
        ...     history = model.fit(images, labels, verbose=0)
        >>> device_scope("two")
        Traceback (most recent call last):
        ValueError: strategy must be one of auto, mirrored, one-device, jax. Received: strategy='two'
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
