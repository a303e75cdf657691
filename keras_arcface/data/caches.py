"""Caches of a whole dataset in memory, as encoded or decoded images."""

from collections.abc import Callable

import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data.shards import ShardReader


class EncodedCache:
    """Cache of all records in memory, serialized as in the shards.

    Args:
        shards: reader of the shards.

    Attributes:
        num_examples: number of records.
        labels: labels of all records, `(num_examples,)` int64 array.
    """

    def __init__(self, shards: ShardReader):
        records = list(shards)
        self.num_examples, self.labels = len(records), shards.labels
        self._records = tf.constant(records)

    def fetch(self, indices):
        """Returns the serialized records `(n,)` at int64 indices `(n,)`, as a string tensor."""
        return tf.gather(self._records, indices)


class DecodedCache:
    """Cache of all decoded images, labels and names in memory.

    Args:
        shards: reader of the shards.
        decode: function that maps serialized records `(n,)` to images, labels and names.

    Attributes:
        num_examples: number of records.
        labels: labels of all records, `(num_examples,)` int64 array.
    """

    def __init__(self, shards: ShardReader, decode: Callable):
        batches = tf.data.Dataset.from_generator(lambda: shards, output_signature=tf.TensorSpec((), tf.string))
        batches = batches.batch(256).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        progress = tqdm(batches, desc="decoding", unit="batch", delay=1, dynamic_ncols=True)
        self._images, self._labels, self._names = (tf.concat(parts, axis=0) for parts in zip(*progress, strict=True))
        self.labels = self._labels.numpy()
        self.num_examples = len(self.labels)

    def fetch(self, indices):
        """Returns images `(n, height, width, 3)`, labels `(n,)` and names `(n,)` at int64 indices `(n,)`."""
        return tuple(tf.gather(values, indices) for values in (self._images, self._labels, self._names))
