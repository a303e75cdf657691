"""Writes one shard of a dataset, with a report that shows that it is complete.

A shard is a function of the source, the seed and its number. It does not matter which process writes it.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from keras_arcface._files import replacing
from keras_arcface._files import write_atomically
from keras_arcface.data import encoded_images
from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.sources import Record
from keras_arcface.data.subsets import ClassSubset

SHARD_PATTERN = "*-of-*.tfrecord"
REPORT_PATTERN = ".*.report.json"
_IMAGES_PER_BLOCK = 256  # images that are checked, hashed and written together

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What is the same for all shards of a dataset.

    Attributes:
        source: the classes to write.
        directory: the dataset directory.
        num_shards: the number of shards.
        image_size: the `(height, width)` of every image.
        check: whether to decode every image.
        damaged: "raise" or "skip".
    """

    source: ClassSubset
    directory: Path
    num_shards: int
    image_size: tuple[int, int]
    check: bool
    damaged: str

    def path(self, number: int) -> Path:
        return self.directory / f"{number:05d}-of-{self.num_shards:05d}.tfrecord"

    def report_path(self, number: int) -> Path:
        return self.directory / f".{number:05d}.report.json"


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What was written to a complete shard."""

    num_examples: int
    num_bytes: int
    sha256: str
    image_size: list[int]
    skipped: list[str]


def read_report(job: ShardJob, number: int) -> ShardReport | None:
    """Returns the report of a shard if it is complete and has the job's image size, otherwise None."""
    try:
        report = ShardReport(**json.loads(job.report_path(number).read_text("utf-8")))
        is_complete = job.path(number).stat().st_size == report.num_bytes
        return report if is_complete and tuple(report.image_size) == job.image_size else None
    except FileNotFoundError:
        return None


def write_shard(job: ShardJob, number: int, indices: np.ndarray, progress: Callable[[int], object]) -> ShardReport:
    """Writes a shard and its report.

    Args:
        job: the dataset to write.
        number: the number of the shard.
        indices: the records of `job.source` to write, in order.
        progress: function that is called with the number of images after each block.

    Returns:
        The report.

    Raises:
        OSError: naming the shard, if it cannot be written.
        ValueError: naming the record, if one is damaged and `job.damaged` is "raise".
    """
    path = job.path(number)
    skipped: list[str] = []
    sha256, num_examples, num_bytes = hashlib.sha256(), 0, 0
    try:
        with replacing(path, buffering=0) as file:
            for start in range(0, len(indices), _IMAGES_PER_BLOCK):
                block = indices[start : start + _IMAGES_PER_BLOCK].tolist()
                records = _usable_records(job, block, skipped)
                data = b"".join(piece for record in records for piece in tfrecord.frame(*schema.encode(*record)))
                sha256.update(data)
                _write_all(file, data)
                num_examples += len(records)
                num_bytes += len(data)
                progress(len(block))
            report = ShardReport(num_examples, num_bytes, sha256.hexdigest(), list(job.image_size), skipped)
            # The report is on the disk before the shard gets its name, so that a named shard always has one.
            write_atomically(job.report_path(number), json.dumps(dataclasses.asdict(report)))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, while writing", str(path)) from error
    return report


def read_record(source: ClassSubset, index: int) -> Record:
    """Returns a record whose image is a JPEG or PNG that TensorFlow decodes as OpenCV does.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        record = source[index]
    except OSError as error:  # an OSError would be mistaken for a problem of the disk that is written to
        raise ValueError(f"record {index} of {source} cannot be read: {type(error).__name__}: {error}") from error
    image = encoded_images.to_jpeg_or_png(record.image, record.name)
    return record if image is record.image else record._replace(image=image)


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _usable_records(job: ShardJob, indices: Iterable[int], skipped: list[str]) -> list[Record]:
    """Reads and checks the records of a block. Appends a message to `skipped` for each that is left out."""
    records = []
    for index in indices:
        try:
            record = read_record(job.source, index)
            if not 0 <= record.label < job.source.num_classes:
                raise ValueError(
                    f"{record.name} must have a label in [0, {job.source.source.num_classes}). "
                    f"Received: label={record.label}"
                )
            records.append(record)
        except ValueError as error:
            _skip_or_raise(job, error, skipped)
    if not job.check or encoded_images.can_all_be_decoded([record.image for record in records], job.image_size):
        return records
    usable = []
    for record in records:
        try:
            _check_image(record, job.image_size)
            usable.append(record)
        except ValueError as error:
            _skip_or_raise(job, error, skipped)
    return usable


def _check_image(record: Record, image_size: tuple[int, int]) -> None:
    size = encoded_images.decoded_size(record.image, record.name)
    if size != image_size:
        raise ValueError(
            f"{record.name} must have the size of the other images, {image_size[0]} x {image_size[1]} (height x "
            f"width). Align or resize the images first. Received: {size[0]} x {size[1]}"
        )


def _skip_or_raise(job: ShardJob, error: Exception, skipped: list[str]) -> None:
    if job.damaged == "raise":
        raise error
    skipped.append(str(error))
    _log.warning("skipped: %s", error)
