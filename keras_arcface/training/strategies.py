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
    gpus = tf.config.list_logical_devices("GPU")
    strategy = (
        tf.distribute.MirroredStrategy([gpu.name for gpu in gpus]) if len(gpus) > 1 else tf.distribute.get_strategy()
    )
    _log.info("training on %s", ", ".join(gpu.name for gpu in gpus) or "the CPU")
    return strategy
