"""Writer of one shard of a dataset and of a report that proves that the shard is complete.

The content of a shard depends only on the source, the seed and its number, not on the process that writes it.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_arcface._files import replacing
from keras_arcface._files import write_all
from keras_arcface._files import write_atomically
from keras_arcface._json import parse_object
from keras_arcface._regular_files import read_regular
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
    """Description of a dataset to write, common to all shards.

    Attributes:
        source: classes to write.
        directory: path of the dataset directory.
        num_shards: number of shards.
        image_size: `(height, width)` of every image.
        check: whether to decode every image to check it.
        damaged: treatment of damaged images, "raise" or "skip".
    """

    source: ClassSubset
    directory: Path
    num_shards: int
    image_size: tuple[int, int]
    check: bool
    damaged: str

    def path(self, number: int) -> Path:
        """Returns the path of a shard."""
        return self.directory / f"{number:05d}-of-{self.num_shards:05d}.tfrecord"

    def report_path(self, number: int) -> Path:
        """Returns the path of the report of a shard."""
        return self.directory / f".{number:05d}.report.json"


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """Description of the content of a complete shard.

    Attributes:
        num_examples: number of images in the shard.
        num_bytes: size of the shard.
        sha256: checksum of the shard.
        image_size: height and width of every image.
        skipped: one message per skipped image, with the reason.
    """

    num_examples: int
    num_bytes: int
    sha256: str
    image_size: list[int]
    skipped: list[str]


def read_report(job: ShardJob, number: int) -> ShardReport | None:
    """Reads the report of a shard. Returns None if the shard must be written.

    This is the case if the shard or its report is incomplete, or if it has another image size than the job.
    """
    try:
        report = ShardReport(**parse_object(read_regular(job.report_path(number))))
        is_complete = job.path(number).stat().st_size == report.num_bytes
        return report if is_complete and tuple(report.image_size) == job.image_size else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_shard(job: ShardJob, number: int, indices: np.ndarray, progress: Callable[[int], object]) -> ShardReport:
    """Writes a shard and its report.

    Args:
        job: description of the dataset.
        number: number of the shard.
        indices: indices of the records of `job.source` to write, in order.
        progress: function that is called after each block with its number of images.

    Returns:
        The report of the shard.

    Raises:
        OSError: if the shard cannot be written. The message names the shard.
        ValueError: if a record is damaged and `job.damaged` is "raise". The message names the record.
    """
    path = job.path(number)
    skipped: list[str] = []
    sha256, num_examples, num_bytes = hashlib.sha256(), 0, 0
    with replacing(path, buffering=0) as file:
        for start in range(0, len(indices), _IMAGES_PER_BLOCK):
            block = indices[start : start + _IMAGES_PER_BLOCK].tolist()
            records = _usable_records(job, block, skipped)
            data = b"".join(piece for record in records for piece in tfrecord.frame(*schema.encode(*record)))
            sha256.update(data)
            write_all(file, data)
            num_examples += len(records)
            num_bytes += len(data)
            progress(len(block))
        report = ShardReport(num_examples, num_bytes, sha256.hexdigest(), list(job.image_size), skipped)
        # The report is written before the shard is renamed, so that every shard with a final name has a report.
        write_atomically(job.report_path(number), json.dumps(dataclasses.asdict(report)))
    return report


def read_record(source: ClassSubset, index: int) -> Record:
    """Reads a record, and converts its image to a JPEG or PNG that TensorFlow and OpenCV decode to the same pixels.

    Raises:
        ValueError: if the record cannot be read.
    """
    try:
        record = source[index]
    except OSError as error:  # callers treat an OSError as a failure to write
        raise ValueError(
            f"record {index} of {source} must be readable. Received: {type(error).__name__}: {error}"
        ) from error
    image = encoded_images.to_jpeg_or_png(record.image, record.name)
    return record if image is record.image else record._replace(image=image)


def _usable_records(job: ShardJob, indices: Iterable[int], skipped: list[str]) -> list[Record]:
    """Reads and checks the records of a block, and appends a message to `skipped` for each skipped record."""
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
