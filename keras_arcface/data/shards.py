"""Reads the shards of a dataset directory, in order or at random."""

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.integrity import check_sizes

_log = logging.getLogger(__name__)


class _RecordIndex(NamedTuple):
    """Label, shard, offset and length of every record, each `(num_examples,)`."""

    labels: np.ndarray
    shards: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


class ShardReader:
    """The serialized records of a dataset directory.

    Args:
        directory: the dataset directory.
        info: the `DatasetInfo` of the directory.
        skip_damaged: if true, reads all shards once, logs and counts damaged records, and leaves them out. If false, a
            damaged record raises when it is read.

    Attributes:
        info: the `DatasetInfo` of the directory.
        paths: the shards.
        num_examples: the number of records, without those that are left out.

    Raises:
        ValueError: naming the shard, if one has a wrong size and `skip_damaged` is false; also if no record remains.
    """

    def __init__(self, directory, info: DatasetInfo, skip_damaged: bool):
        self.info = info
        self.paths = [Path(directory) / shard.file for shard in info.shards]
        self.num_examples = info.num_examples
        self._on_damage = None
        if not skip_damaged:
            check_sizes(directory, info)
            return
        progress = tqdm(self.paths, desc="looking for damage", unit="file", delay=1, dynamic_ncols=True)
        self.num_examples = sum(1 for path in progress for _ in tfrecord.read_records(path, _log.warning))
        lost = info.num_examples - self.num_examples
        if lost:
            _log.warning("%s: skipped %d of %d records that are damaged", directory, lost, info.num_examples)
        if self.num_examples == 0:
            raise ValueError(f"{directory} contains no readable record")
        self._on_damage = lambda error: None

    def read_shard(self, path) -> Iterator[bytes]:
        """Iterates over the records of a shard, in order."""
        return (record for _, record in tfrecord.read_records(path, self._on_damage))

    def __iter__(self) -> Iterator[bytes]:
        return (record for path in self.paths for record in self.read_shard(path))

    @property
    def labels(self) -> np.ndarray:
        """The label of every record, `(num_examples,)`."""
        return self._index.labels

    def fetch(self, indices):
        """Returns serialized records: int64 tensor `(n,)` -> string tensor `(n,)`."""
        records = tf.numpy_function(self._fetch, [indices], tf.string)
        return tf.ensure_shape(records, indices.shape)

    def record(self, index: int) -> bytes:
        """Returns one serialized record."""
        path = self.paths[self._index.shards.item(index)]
        with open(path, "rb", buffering=0) as file:
            offset, length = self._index.offsets.item(index), self._index.lengths.item(index)
            return tfrecord.read_record(file.fileno(), offset, length, path)

    def _fetch(self, indices: np.ndarray) -> np.ndarray:
        records = np.empty(len(indices), object)
        for position, index in enumerate(indices.tolist()):
            records[position] = self.record(index)
        return records

    @functools.cached_property
    def _index(self) -> _RecordIndex:
        fields = [("label", np.int64), ("shard", np.int32), ("offset", np.int64), ("length", np.int64)]
        table = np.fromiter(self._scan(), np.dtype(fields), self.num_examples)
        return _RecordIndex(*(np.ascontiguousarray(table[name]) for name, _ in fields))

    def _scan(self) -> Iterator[tuple[int, int, int, int]]:
        progress = tqdm(self.paths, desc="reading labels", unit="file", delay=1, dynamic_ncols=True)
        for shard, path in enumerate(progress):
            for offset, length, prefix in self._prefixes(path):
                try:
                    yield schema.read_label(prefix), shard, offset, length
                except ValueError as error:
                    raise ValueError(f"{path}: the record at offset {offset} has {error}") from error

    def _prefixes(self, path: Path) -> Iterator[tuple[int, int, bytes]]:
        if self._on_damage is None:
            return tfrecord.read_prefixes(path, schema.LABEL_PREFIX_BYTES)
        return (
            (offset, len(record), record[: schema.LABEL_PREFIX_BYTES])
            for offset, record in tfrecord.read_records(path, self._on_damage)
        )
