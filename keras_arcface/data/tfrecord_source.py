"""Source that reads a dataset directory."""

import functools

import numpy as np

from keras_arcface.data import schema
from keras_arcface.data.info import load_info
from keras_arcface.data.shards import ShardReader
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source


class TFRecords(Source):
    """Source that reads a dataset directory, to select classes, change labels, or write it again.

    Use `load_dataset` for training, which is much faster. Records are in the order of the files, as in
    `load_dataset(training=False)`.

    Args:
        directory: path of a directory that `write_dataset` wrote.

    Attributes:
        num_classes: number of classes.
        class_names: name of each class, or None.
        labels: labels of all images, `(len,)` int64 array.
        image_size: `(height, width)` of every image, in pixels.

    Raises:
        FileNotFoundError: if the directory contains no dataset.
        ValueError: if a file is damaged or a shard is missing. The message names the file.

    Examples:
        >>> faces = TFRecords("faces")
        >>> faces
        <TFRecords('faces'): 8 images of 2 classes>
        >>> image, label, name = faces[0]
        >>> faces.class_names[label] == name.split("/")[0]  # the name is that of the original file
        True
        >>> info = write_dataset(ClassSubset(faces, classes=[1]), "bob")
        >>> info.num_examples
        4
    """

    def __init__(self, directory):
        self._info = load_info(directory)
        self._shards = ShardReader(directory, self._info, skip_damaged=False)
        self._directory = directory
        self.num_classes, self.image_size = self._info.num_classes, self._info.image_size
        self.class_names = self._info.class_names

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self._shards.labels

    def __len__(self) -> int:
        return self._info.num_examples

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        serialized = self._shards.read_record(index)
        try:
            return Record(*schema.parse_one(serialized))
        except ValueError as error:
            raise ValueError(f"{self}: record {index}: {error}") from error

    def __str__(self) -> str:
        return str(self._directory)

    def __repr__(self) -> str:
        return f"<TFRecords({str(self._directory)!r}): {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Returns the checksums of all shards."""
        return " ".join(shard.sha256 for shard in self._info.shards)
