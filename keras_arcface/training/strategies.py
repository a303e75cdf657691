"""Where a model is placed."""

import logging

import tensorflow as tf

_log = logging.getLogger(__name__)


def all_gpus_strategy() -> tf.distribute.Strategy:
    """Gives a strategy that trains on every GPU of this machine, or on its CPU if it has none.

    With two GPUs or more it is a `MirroredStrategy`, which splits each batch between them. Create the model within
    `strategy.scope()`.

    >>> with all_gpus_strategy().scope():
    ...     model = RecognitionModel(embedder, head)
    """
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    _log.info("training on %s", ", ".join(gpus) or "the CPU")
    return tf.distribute.MirroredStrategy(gpus) if len(gpus) > 1 else tf.distribute.get_strategy()
