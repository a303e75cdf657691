"""Computation of the embeddings of many images, stored in Parquet files."""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._choices import EMBEDDING_DTYPES
from keras_arcface._files import temporary_path
from keras_arcface._locks import FileLock
from keras_arcface._optional import require
from keras_arcface._shard_runner import JOB_FILE
from keras_arcface._shard_runner import ShardRunner
from keras_arcface._shard_runner import write_shards as write_by_runner
from keras_arcface._worker_processes import write_shards
from keras_arcface.data import Record
from keras_arcface.data import Source
from keras_arcface.evaluation import embedding_files
from keras_arcface.evaluation.embedding import embed_images
from keras_arcface.evaluation.embedding_files import EmbeddingJob
from keras_arcface.evaluation.embedding_files import EmbeddingShard
from keras_arcface.evaluation.stored_embeddings import StoredEmbeddings

_LOCK = ".lock"
_LOCK_TIMEOUT = 10.0  # seconds, because the worker processes of a killed run need some time to exit
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    """Images, embedder and options for the process that writes a shard."""

    job: EmbeddingJob
    directory: Path
    source: Source
    embedder: Callable
    size: tuple[int, int] | None
    damaged: str


def write_embeddings(
    source: Source,
    directory,
    embedder: Callable,
    embedder_sha256: str,
    dtype: str = "float32",
    flip: bool = True,
    images_per_shard: int = 100_000,
    batch_size: int = 64,
    processes: int = 1,
    size: tuple[int, int] | None = None,
    damaged: str = "raise",
    progress: bool = True,
    runner: ShardRunner | None = None,
) -> StoredEmbeddings:
    """Computes the embeddings of all images of a source, and stores them as Parquet files.

    A file is written under a temporary name, flushed to the disk and renamed. `embeddings.json` is written last, so a
    directory with this file is complete. After any interruption, the same call continues with the missing files. If the
    directory already contains the embeddings of the same source, embedder and options, they are returned.

    Args:
        source: `Source` of the images, such as `data.TFRecords` or `data.ImageFolder`.
        directory: path of the directory to write to. It is created if it does not exist.
        embedder: a Keras model, or a function from images to embeddings, as for `embed_images`. For several processes
            it must support pickling, as a Keras model does.
        embedder_sha256: checksum of the embedder, 64 hexadecimal digits, such as `FacePipeline.embedder_sha256`. Those
            who read the embeddings compare it with theirs.
        dtype: "float32", or "int8" for a quarter of the size. The cosine of two embeddings then differs by about 0.002
            with 512 dimensions.
        flip: if true, adds the embedding of the mirrored image, before any normalization.
        images_per_shard: largest number of images in a file.
        batch_size: number of images per call of the embedder.
        processes: number of processes, which share the cores. With more than one, a script requires
            `if __name__ == "__main__":`.
        size: `(height, width)` to which images are resized. None for images of the same size, which are not resized.
        damaged: treatment of images that cannot be read, decoded or embedded. "raise" raises an error. "skip" logs them
            and lists them in `StoredEmbeddings.skipped`. A run that raised an error can continue with "skip".
        progress: if true, shows a progress bar.
        runner: what writes the files instead of this process and `processes`, such as `beam.BeamRunner`. The embedder
            must support pickling.

    Returns:
        The `StoredEmbeddings` of the directory.

    Raises:
        BlockingIOError: if another run is writing to the directory.
        FileExistsError: if the directory contains embeddings of another source or embedder, or with other options. The
            message names the difference.
        ModuleNotFoundError: if pyarrow is not installed, the extra `parquet`.
        OSError: if a file cannot be written.
        RuntimeError: if a process died, or `runner` failed.
        ValueError: if an argument or an image is not valid. The message names it.

    Examples:
        >>> photos = data.ImageFolder("photos")
        >>> stored = write_embeddings(photos, "embeddings", embedder, "a" * 64, progress=False)
        >>> len(stored), stored.names()[:2]
        (8, ['ann/0.jpg', 'ann/1.jpg'])
        >>> for embeddings, labels, names in stored.batches(batch_size=4):
        ...     print(embeddings.shape, labels)
        (4, 8) [0 0 0 0]
        (4, 8) [1 1 1 1]
    """
    require("pyarrow", "parquet", "write_embeddings")
    for name, value in (("images_per_shard", images_per_shard), ("batch_size", batch_size), ("processes", processes)):
        check_integer(name, value, 1)
    check_choice("dtype", dtype, EMBEDDING_DTYPES)
    check_choice("damaged", damaged, ("raise", "skip"))
    is_sha256 = isinstance(embedder_sha256, str) and _SHA256.fullmatch(embedder_sha256) is not None
    check("embedder_sha256", embedder_sha256, is_sha256, "64 hexadecimal digits in lower case")
    if len(source) == 0:
        raise ValueError(f"source must contain an image. Received: source={source}, which is empty")
    directory = Path(directory)
    job = EmbeddingJob(
        source=str(source),
        fingerprint=hashlib.sha256((source.fingerprint() or "").encode()).hexdigest(),
        num_images=len(source),
        embedder_sha256=embedder_sha256,
        dtype=dtype,
        flip=bool(flip),
        images_per_shard=int(images_per_shard),
        batch_size=int(batch_size),
        size=[] if size is None else [int(side) for side in size],
    )
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / _LOCK, _LOCK_TIMEOUT) as lock:
        is_finished = (directory / embedding_files.FILE_NAME).exists()
        if not is_finished:
            task = _Task(job, directory, source, embedder, size, damaged)
            bar_options = {} if progress else {"disable": True}  # False would override TQDM_DISABLE
            with tqdm(total=len(source), desc="embedding", unit="image", dynamic_ncols=True, **bar_options) as bar:
                shards = _write_unfinished(task, processes, runner, lock, bar)
            embedding_files.save_description(directory, job, shards, source.class_names)
    if is_finished:
        _check_is_same(directory, job, damaged, has_fingerprint=source.fingerprint() is not None)
    return StoredEmbeddings(directory)


def _check_is_same(directory: Path, job: EmbeddingJob, damaged: str, has_fingerprint: bool) -> None:
    """Raises a FileExistsError unless a directory contains the embeddings of a job."""
    written, shards, _ = embedding_files.load_description(directory)
    differences = [
        f"{name} was {getattr(written, name)}, now {getattr(job, name)}" for name in job.differences(written)
    ]
    num_skipped = sum(len(shard.skipped) for shard in shards)
    if num_skipped and damaged == "raise":
        differences.append(f'damaged was "skip", which left out {num_skipped} images; now "raise"')
    if not has_fingerprint:
        differences.append(f"{job.source} has no fingerprint() that shows whether its images are the same")
    if differences:
        raise FileExistsError(
            f"{directory} must contain no embeddings, or those of the same images, embedder and options. To write them "
            f"again, remove the directory or choose another. To use them, call StoredEmbeddings. "
            f"Received: {'; '.join(differences)}"
        )


def _write_unfinished(
    task: _Task, processes: int, runner: ShardRunner | None, lock: FileLock, bar: tqdm
) -> list[EmbeddingShard]:
    """Writes all unfinished shards, and returns the descriptions of all shards."""
    job, directory = task.job, task.directory
    shards = {}
    for number in range(job.num_shards):
        shard = read_shard(task, number)
        if shard is not None and shard.skipped and task.damaged == "raise":
            raise ValueError(
                f"{directory} must have no skipped images with damaged='raise'. Use damaged='skip', or remove the "
                f"directory. Received: a skipped image: {shard.skipped[0]}"
            )
        if shard is not None:
            shards[number] = shard
    bar.initial = sum(len(job.rows(number)) for number in shards)
    bar.update(bar.initial)
    for pattern in (JOB_FILE, *(temporary_path(Path(name)).name for name in ("*.parquet", JOB_FILE))):
        for path in directory.glob(pattern):
            path.unlink()
    unfinished = [(number, job.rows(number)) for number in range(job.num_shards) if number not in shards]
    processes = min(processes, len(unfinished))
    if runner is not None:
        shards.update(write_by_runner(runner, write_shard, read_shard, task, unfinished, bar))
    elif processes <= 1:
        for number, rows in unfinished:
            shards[number] = write_shard(task, number, rows, bar.update)
    else:
        lock.share()
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        shards.update(write_shards(write_shard, task, unfinished, processes, lock.path, bar, threads))
    return [shards[number] for number in range(job.num_shards)]


def read_shard(task: _Task, number: int) -> EmbeddingShard | None:
    """Returns the description of a shard that is already written, or None."""
    return embedding_files.read_finished_shard(task.directory, task.job, number)


def write_shard(task: _Task, number: int, rows: Sequence[int], progress: Callable[[int], object]) -> EmbeddingShard:
    """Computes and writes the embeddings of a shard. The content depends only on the job and the number."""
    job = task.job
    embeddings: list[np.ndarray] = []
    labels: list[int] = []
    names: list[str] = []
    skipped: list[str] = []
    for start in range(0, len(rows), job.batch_size):
        batch = _Rows(task.source, rows[start : start + job.batch_size])
        try:
            embeddings.append(_embed(task, batch))
            kept = list(range(len(batch)))
        except (ValueError, OSError):
            if task.damaged == "raise":
                raise
            kept = _embed_one_by_one(task, batch, embeddings, skipped)
        labels += [batch.records[row].label for row in kept]
        names += [batch.records[row].name for row in kept]
        progress(len(batch))
    if not embeddings:
        raise ValueError(
            f"{task.source} must contain images that the embedder accepts. Received: images {rows[0]:,} to "
            f"{rows[-1]:,}, all of which were skipped. The first: {skipped[0]}"
        )
    return embedding_files.write_embedding_shard(
        task.directory, job, number, np.concatenate(embeddings), np.array(labels, np.int64), names, skipped
    )


def _embed(task: _Task, batch: Source) -> np.ndarray:
    return embed_images(task.embedder, batch, task.job.flip, task.job.batch_size, progress=False, size=task.size)


def _embed_one_by_one(task: _Task, batch: "_Rows", embeddings: list[np.ndarray], skipped: list[str]) -> list[int]:
    """Appends the embeddings of the images of a batch that can be embedded, and returns their rows in the batch."""
    kept = []
    for row in range(len(batch)):
        try:
            embeddings.append(_embed(task, _Rows(batch.source, batch.rows[row : row + 1])))
            kept.append(row)
        except (ValueError, OSError) as error:
            skipped.append(str(error))
            _log.warning("skipped: %s", error)
    return kept


class _Rows(Source):
    """Some records of a source, of which labels and names are kept when they are read."""

    def __init__(self, source: Source, rows: Sequence[int]):
        self.source, self.rows = source, rows
        self.records: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        record = self.source[self.rows[index]]
        self.records[index] = record._replace(image=b"")
        return record
