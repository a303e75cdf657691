"""Embeddings of many images, stored in Parquet files."""

import operator
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface.evaluation import embedding_files


class StoredEmbeddings:
    """Embeddings that `write_embeddings` stored, with the names and labels of their images.

    The files are read when they are needed, and `batches` reads them in bounded memory. Other programs read them as
    Parquet files with the columns `name`, `label`, `embedding` (L2-normalized) and `norm`, and `scale` for int8.

    Args:
        directory: path of a directory that `write_embeddings` or `keras-arcface embed` wrote.

    Attributes:
        directory: the path.
        dim: dimension of the embeddings.
        dtype: type of the stored numbers, "float32" or "int8".
        flip: whether the embeddings contain those of mirror images.
        embedder_sha256: checksum of the embedder.
        source: readable description of the images.
        class_names: name of the class of each label, or None if the source has no names.
        skipped: one message per image that could not be embedded, with the reason.

    Raises:
        FileNotFoundError: if the directory has no complete embeddings.
        ModuleNotFoundError: if pyarrow is not installed, the extra `parquet`.
        ValueError: if a file is damaged. The message names it.

    Examples:
        >>> stored = write_embeddings(data.ImageFolder("photos"), "embeddings", embedder, "a" * 64, progress=False)
        >>> stored
        <StoredEmbeddings('embeddings'): 8 of 8 dimensions, float32>
        >>> stored.embeddings().shape, stored.labels()
        ((8, 8), array([0, 0, 0, 0, 1, 1, 1, 1]))
        >>> result = retrieve(stored.embeddings(), stored.labels(), progress=False)
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        job, self._shards, self.class_names = embedding_files.load_description(self.directory)
        self.dim = self._shards[0].dim
        self.dtype, self.flip, self.source = job.dtype, job.flip, job.source
        self.embedder_sha256 = job.embedder_sha256
        self.skipped = tuple(message for shard in self._shards for message in shard.skipped)

    def __len__(self) -> int:
        return sum(shard.num_images for shard in self._shards)

    def __repr__(self) -> str:
        return f"<StoredEmbeddings({str(self.directory)!r}): {len(self):,} of {self.dim} dimensions, {self.dtype}>"

    def batches(self, batch_size: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        """Yields the embeddings, labels and names of at most `batch_size` images at a time, in the order of the source.

        Args:
            batch_size: largest number of images of a batch.

        Yields:
            `(embeddings, labels, names)`: `(n, dim)` float32, not normalized; `(n,)` int64; n texts.
        """
        check_integer("batch_size", batch_size, 1)
        for columns in self._read(["embedding", "norm", "label", "name"], operator.index(batch_size)):
            yield _embeddings(columns), columns["label"], columns["name"]

    def embeddings(self) -> np.ndarray:
        """Returns all embeddings, `(n, dim)` float32, not normalized."""
        rows = np.empty((len(self), self.dim), np.float32)
        start = 0
        for columns in self._read(["embedding", "norm"]):
            rows[start : (start := start + len(columns["norm"]))] = _embeddings(columns)
        return rows

    def labels(self) -> np.ndarray:
        """Returns the labels of all images, `(n,)` int64."""
        parts = [columns["label"] for columns in self._read(["label"])]
        return np.concatenate([*parts, np.empty(0, np.int64)])

    def names(self) -> list[str]:
        """Returns the names of all images."""
        return [name for columns in self._read(["name"]) for name in columns["name"]]

    def _read(self, columns: list[str], batch_size: int = 4096) -> Iterator[dict]:
        for shard in self._shards:
            path = self.directory / shard.file
            yield from embedding_files.read_batches(path, self.dim, shard.num_images, columns, batch_size)


def _embeddings(columns: dict) -> np.ndarray:
    scales = columns["norm"] * columns["scale"] if "scale" in columns else columns["norm"]
    return columns["embedding"] * scales[:, np.newaxis].astype(np.float32)
