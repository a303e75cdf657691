"""Where the records of a dataset are while it is read: in its files, or in memory."""

import functools
import logging
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.checking import check_sizes
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.sources import Record

_log = logging.getLogger(__name__)


class Files:
    """The shards on disk: read in order, or record by record.

    Args:
        directory: of the dataset.
        info: its `dataset.json`.
        skip_damaged: whether damaged records are logged, counted and left out, or raise when they are read.

    Attributes:
        paths: of the shards.
        num_examples: how many records can be read.

    Raises:
        ValueError: naming a shard that has another size than it should, unless damaged records are skipped; also if
            none is left.
    """

    def __init__(self, directory, info: DatasetInfo, skip_damaged: bool):
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
            _log.warning("%s: %d of %d records are damaged, and skipped", directory, lost, info.num_examples)
        if self.num_examples == 0:
            raise ValueError(f"{directory} holds no record that can be read")
        self._on_damage = lambda error: None

    def read(self, path) -> Iterator[bytes]:
        """The records of a shard, in order."""
        return (record for _, record in tfrecord.read_records(path, self._on_damage))

    def __iter__(self) -> Iterator[bytes]:
        return (record for path in self.paths for record in self.read(path))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The label of every record, `(num_examples,)`."""
        return self._places[0]

    def fetch(self, rows):
        """Serialized records: int64 tensor `(n,)` -> string tensor `(n,)`."""
        records = tf.numpy_function(self._fetch, [rows], tf.string)
        return tf.ensure_shape(records, rows.shape)

    def record(self, row: int) -> bytes:
        """A serialized record."""
        _, shards, offsets, lengths = self._places
        path = self.paths[shards.item(row)]
        with open(path, "rb", buffering=0) as file:
            return tfrecord.read_record(file.fileno(), offsets.item(row), lengths.item(row), path)

    def _fetch(self, rows: np.ndarray) -> np.ndarray:
        records = np.empty(len(rows), object)
        for place, row in enumerate(rows.tolist()):
            records[place] = self.record(row)
        return records

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Label, shard, offset and length of every record."""
        fields = [("label", np.int64), ("shard", np.int32), ("offset", np.int64), ("length", np.int64)]
        places = np.fromiter(self._walk(), fields, self.num_examples)
        return tuple(np.ascontiguousarray(places[name]) for name, _ in fields)

    def _walk(self):
        progress = tqdm(self.paths, desc="reading labels", unit="file", delay=1, dynamic_ncols=True)
        for shard, path in enumerate(progress):
            if self._on_damage is None:
                records = tfrecord.read_places(path, schema.LABEL_WITHIN)
            else:
                records = (
                    (offset, len(record), record[: schema.LABEL_WITHIN])
                    for offset, record in tfrecord.read_records(path, self._on_damage)
                )
            for offset, length, start in records:
                try:
                    yield schema.label_of(start), shard, offset, length
                except ValueError as error:
                    raise ValueError(f"{path}: the record at offset {offset} has {error}") from error


class TFRecords:
    """What `write_dataset` wrote, as a source: to choose from, to relabel, and to write again.

    Its records are in the order of the files, in which `load_dataset(training=False)` gives them too.

    Args:
        directory: of the dataset.

    Attributes:
        num_classes: number of classes.
        class_names: of each, or None.
        labels: `(len,)` int64 array.
        image_size: `(height, width)`.

    Raises:
        FileNotFoundError: if the directory holds no dataset, or a shard is missing.
        ValueError: if it is damaged.

    >>> faces = TFRecords("faces_tfrecord")
    >>> image, label, name = faces[0]
    """

    def __init__(self, directory):
        self._info = load_info(directory)
        self._files = Files(directory, self._info, skip_damaged=False)
        self._directory = directory
        self.num_classes, self.image_size = self._info.num_classes, self._info.image_size
        self.class_names = self._info.class_names

    @property
    def labels(self) -> np.ndarray:
        return self._files.labels

    def __len__(self) -> int:
        return self._info.num_examples

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        image, label, name = schema.parse(tf.constant([self._files.record(index)]))
        return Record(image[0].numpy(), int(label[0]), name[0].numpy().decode())

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return str(self._directory)

    def __repr__(self) -> str:
        return f"<TFRecords({str(self._directory)!r}): {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Changes when the files do."""
        return " ".join(shard.sha256 for shard in self._info.shards)


class Encoded:
    """All records in memory, as they are in the files."""

    def __init__(self, files: Files):
        records = list(files)
        self.num_examples = len(records)
        self.labels = np.array([schema.label_of(record[: schema.LABEL_WITHIN]) for record in records], np.int64)
        self._records = tf.constant(records)

    def fetch(self, rows):
        """Serialized records: int64 tensor `(n,)` -> string tensor `(n,)`."""
        return tf.gather(self._records, rows)


class Decoded:
    """All images, labels and names in memory, decoded.

    Args:
        files: to read.
        decode: serialized records `(n,)` -> images, labels and names.
    """

    def __init__(self, files: Files, decode: Callable):
        batches = tf.data.Dataset.from_generator(lambda: files, output_signature=tf.TensorSpec((), tf.string))
        batches = batches.batch(256).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        progress = tqdm(batches, desc="decoding", unit="batch", delay=1, dynamic_ncols=True)
        self._images, self._labels, self._names = (tf.concat(parts, axis=0) for parts in zip(*progress, strict=True))
        self.labels = self._labels.numpy()
        self.num_examples = len(self.labels)

    def fetch(self, rows):
        """Images, labels and names: int64 tensor `(n,)` -> `(n, height, width, 3)`, `(n,)` and `(n,)`."""
        return tuple(tf.gather(whole, rows) for whole in (self._images, self._labels, self._names))
