"""Reader of the shards of a dataset directory, for sequential and random access."""

import bisect
import functools
import itertools
import logging
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.integrity import check_sizes

_log = logging.getLogger(__name__)

T = TypeVar("T")


class _ShardIndex(NamedTuple):
    """Arrays `(n,)` with the label, offset and length of every record of a shard."""

    labels: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


class ShardReader:
    """Reader of the serialized records of a dataset directory.

    Args:
        directory: path of the dataset directory.
        info: `DatasetInfo` of the directory.
        skip_damaged: whether to skip damaged records. If true, all shards are read once to count and log them. If
            false, a damaged record raises an error when it is read.

    Attributes:
        info: `DatasetInfo` of the directory.
        paths: paths of the shards.
        num_examples: number of records, without skipped records.

    Raises:
        ValueError: if a shard has a wrong size and `skip_damaged` is false, if a shard is not a regular file, or if no
            record remains. The message names the shard or directory.
    """

    def __init__(self, directory, info: DatasetInfo, skip_damaged: bool):
        self.info = info
        self.paths = [Path(directory) / shard.file for shard in info.shards]
        self.num_examples = info.num_examples
        self._num_records = {path: shard.num_examples for path, shard in zip(self.paths, info.shards, strict=True)}
        self._starts = dict(zip(self.paths, itertools.accumulate(self._num_records.values(), initial=0), strict=False))
        self._on_damage: Callable[[tfrecord.DamagedRecordError], object] | None = None
        self._indices: dict[int, _ShardIndex] = {}
        if not skip_damaged:
            check_sizes(directory, info)
            return
        special = [path for path in self.paths if path.exists() and not path.is_file()]  # reading a FIFO would block
        if special:
            raise ValueError(f"{special[0]} must be a regular file. Received: a directory or a special file")
        progress = tqdm(self.paths, desc="looking for damage", unit="file", delay=1, dynamic_ncols=True)
        self._on_damage = _log.warning
        self.num_examples = sum(1 for path in progress for _ in self.read_shard(path))
        lost = info.num_examples - self.num_examples
        if lost:
            _log.warning("%s: skipped %d of %d records that are damaged", directory, lost, info.num_examples)
        if self.num_examples == 0:
            raise ValueError(f"{directory} must contain undamaged records. Received: {lost} damaged records")
        self._on_damage = lambda error: None

    def read_shard(self, path) -> Iterator[bytes]:
        """Iterates over the records of a shard, in order."""
        return (record for _, record in self._check_number(path, tfrecord.read_records(path, self._on_damage)))

    def read_indexed(self, path) -> Iterator[tuple[int, bytes]]:
        """Iterates over pairs of the index in the dataset and the record, in the order of a shard.

        The indices are wrong if damaged records are skipped.
        """
        return enumerate(self.read_shard(path), self._starts[path])

    def __iter__(self) -> Iterator[bytes]:
        return (record for path in self.paths for record in self.read_shard(path))

    @property
    def labels(self) -> np.ndarray:
        """Labels of all records, `(num_examples,)`."""
        progress = tqdm(range(len(self.paths)), desc="reading labels", unit="file", delay=1, dynamic_ncols=True)
        return np.concatenate([self._index(shard).labels for shard in progress])

    def fetch(self, indices):
        """Returns the serialized records `(n,)` at int64 indices `(n,)`, as a string tensor."""
        records = tf.numpy_function(self._fetch, [indices], tf.string)
        return tf.ensure_shape(records, indices.shape)

    def read_record(self, index: int) -> bytes:
        """Reads one serialized record."""
        # Only this shard is scanned, because each of many processes reads some of the shards.
        shard = bisect.bisect_right(self._first_records, index) - 1
        found, row = self._index(shard), index - self._first_records[shard]
        path = self.paths[shard]
        with open(path, "rb", buffering=0) as file:
            return tfrecord.read_record(file.fileno(), found.offsets.item(row), found.lengths.item(row), path)

    def _fetch(self, indices: np.ndarray) -> np.ndarray:
        records = np.empty(len(indices), object)
        for position, index in enumerate(indices.tolist()):
            records[position] = self.read_record(index)
        return records

    @functools.cached_property
    def _first_records(self) -> list[int]:
        """Index of the first record of each shard, and the number of all records."""
        if self._on_damage is None:
            counts = [shard.num_examples for shard in self.info.shards]
        else:
            counts = [len(self._index(shard).labels) for shard in range(len(self.paths))]
        return list(itertools.accumulate(counts, initial=0))

    def _index(self, shard: int) -> _ShardIndex:
        if shard not in self._indices:
            fields = [("label", np.int64), ("offset", np.int64), ("length", np.int64)]
            table = np.fromiter(self._scan(self.paths[shard]), np.dtype(fields))
            self._indices[shard] = _ShardIndex(*(np.ascontiguousarray(table[name]) for name, _ in fields))
        return self._indices[shard]

    def _scan(self, path: Path) -> Iterator[tuple[int, int, int]]:
        for offset, length, prefix in self._prefixes(path):
            try:
                label = schema.read_label(prefix)
            except ValueError as error:
                raise ValueError(f"{path}: damaged record at offset {offset}: {error}") from error
            if label >= self.info.num_classes:
                raise ValueError(
                    f"{path}: the record at offset {offset} must have a label in [0, {self.info.num_classes}). "
                    f"Received: label={label}"
                )
            yield label, offset, length

    def _check_number(self, path: Path, records: Iterable[T]) -> Iterator[T]:
        """Iterates over the records of a shard. Raises an error if it has another number of records than recorded."""
        expected, number = self._num_records[path], 0
        for number, record in enumerate(records, start=1):
            if number > expected:
                break
            yield record
        if number > expected or (number < expected and self._on_damage is None):
            received = "more records" if number > expected else f"{number} records"
            raise ValueError(f"{path} must have {expected} records, as in {FILE_NAME}. Received: {received}")

    def _prefixes(self, path: Path) -> Iterator[tuple[int, int, bytes]]:
        if self._on_damage is None:
            return self._check_number(path, tfrecord.read_prefixes(path, schema.LABEL_PREFIX_BYTES))
        return (
            (offset, len(record), record[: schema.LABEL_PREFIX_BYTES])
            for offset, record in tfrecord.read_records(path, self._on_damage)
        )
