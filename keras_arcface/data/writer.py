"""Conversion of a source to a directory of TFRecord shards with a `dataset.json`."""

import collections
import dataclasses
import json
import logging
import operator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface._alignment import check_alignment
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._files import temporary_path
from keras_arcface._files import write_atomically
from keras_arcface._json import parse_object
from keras_arcface._locks import FileLock
from keras_arcface._messages import short
from keras_arcface._regular_files import read_regular
from keras_arcface._shard_runner import JOB_FILE
from keras_arcface._shard_runner import ShardRunner
from keras_arcface._shard_runner import write_shards as write_by_runner
from keras_arcface._worker_processes import write_shards
from keras_arcface.data import encoded_images
from keras_arcface.data import schema
from keras_arcface.data.existing_dataset import describe_conversion
from keras_arcface.data.existing_dataset import reuse_dataset
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.info import Conversion
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.shard_writer import REPORT_PATTERN
from keras_arcface.data.shard_writer import SHARD_PATTERN
from keras_arcface.data.shard_writer import ShardJob
from keras_arcface.data.shard_writer import ShardReport
from keras_arcface.data.shard_writer import read_record
from keras_arcface.data.shard_writer import read_report
from keras_arcface.data.shard_writer import write_shard
from keras_arcface.data.sources import Source
from keras_arcface.data.subsets import ClassSubset
from keras_arcface.data.subsets import drop_small_classes

LOCK = ".lock"
UNFINISHED = "unfinished.json"  # description of a run, which exists as long as the run is not finished
_FILES = (SHARD_PATTERN, REPORT_PATTERN, FILE_NAME, UNFINISHED, JOB_FILE)
_TEMPORARY_FILES = [JOB_FILE, *(temporary_path(Path(name)).name for name in _FILES)]
_LOCK_TIMEOUT = 10.0  # seconds, because the worker processes of a killed run need some time to exit
_NUM_SAMPLES = 101  # number of images that are decoded to determine the image size

_log = logging.getLogger(__name__)


def write_dataset(
    source: Source,
    directory,
    examples_per_shard: int = 10_000,
    seed: int = 0,
    processes: int = 1,
    check: bool = True,
    damaged: str = "raise",
    min_images: int = 1,
    alignment: str | None = None,
    runner: ShardRunner | None = None,
) -> DatasetInfo:
    """Writes a source as TFRecords, the format from which `load_dataset` reads.

    JPEG and PNG files are stored unchanged, unless EXIF data rotates them. Rotated files and all other formats become
    PNG files with the pixels that `cv2.imread` returns. Every image is decoded once to check it, and all must have the
    same size. Examples are shuffled over all shards. Classes with fewer than `min_images` images are dropped, and the
    others are renumbered from 0. `DatasetInfo.source_labels` has the label of each class in the source.

    A shard is written under a temporary name, flushed to the disk and renamed. `dataset.json` is written last, so a
    directory with this file is complete. After any interruption, the same call continues and writes identical bytes. If
    the directory already contains the dataset of the same source and arguments, the dataset is reused, and only the
    labels and the fingerprint of the source are read.

    Args:
        source: `Source` of the images, such as `ImageFolder`, `ImageList` or `RecordIO`.
        directory: path of the directory to write to. It is created if it does not exist. An existing dataset in it is
            never overwritten. It is reused if it is the same, and otherwise raises an error.
        examples_per_shard: largest number of images in a shard.
        seed: seed of the shuffle. The same source and seed give the same bytes.
        processes: number of processes. With more than one, a script requires `if __name__ == "__main__":`, as always
            with multiprocessing in Python.
        check: whether to decode every image to check it.
        damaged: treatment of images that cannot be read or decoded, have another size, or have a label outside
            `[0, num_classes)`. "raise" raises an error. "skip" logs them and adds them to `DatasetInfo.skipped`. The
            images of a class are counted before images are skipped, so a class keeps its label if all its images are
            skipped. A run that raised an error can continue with "skip".
        min_images: smallest number of images per class. Smaller classes are dropped.
        alignment: alignment of the faces, which is recorded in `dataset.json`: "five_points" for that of `align`,
            "none" for faces that are not aligned, or None to record nothing. It is never inferred from the images. It
            is added to a reused dataset that does not record it yet.
        runner: what writes the shards instead of this process and `processes`, such as `beam.BeamRunner`.

    Returns:
        The `DatasetInfo` of the directory.

    Raises:
        FileExistsError: if the directory contains a finished or unfinished dataset of another source or other
            arguments, or contains a dataset and the source has no fingerprint. The message names the differences.
        BlockingIOError: if another run is writing to the directory.
        OSError: if a file cannot be written, for example on a full disk. Finished shards remain.
        TypeError: if `source` is not a `Source`.
        ValueError: if a record is damaged, the source is empty, its `image_size` is wrong, or an argument is out of its
            range. The message names the record, source or argument.
        RuntimeError: if a process died, or `runner` failed.

    Examples:
        >>> info = write_dataset(ImageFolder("photos"), "photos_tfrecord")
        >>> info.num_examples, info.class_names
        (8, ('ann', 'bob'))
        >>> from pathlib import Path
        >>> sorted(path.name for path in Path("photos_tfrecord").glob("*.*"))
        ['00000-of-00001.tfrecord', 'dataset.json']
        >>> dataset = load_dataset("photos_tfrecord", batch_size=4, training=True)
    """
    check_alignment(alignment)
    check_choice("damaged", damaged, ("raise", "skip"))
    check_integer("examples_per_shard", examples_per_shard, 1)
    check_integer("processes", processes, 1)
    if not isinstance(source, Source):
        raise TypeError(f"source must be a keras_arcface.data.Source. Received: source={source!r}")
    seed, directory = operator.index(seed), Path(directory)
    if len(source) == 0:
        raise ValueError(f"source must contain an image. Received: source={source}, which is empty")
    subset = drop_small_classes(source, min_images)
    conversion = describe_conversion(source, subset, examples_per_shard, seed, check, min_images)
    if (directory / FILE_NAME).exists() and not any((directory / name).exists() for name in (UNFINISHED, LOCK)):
        return reuse_dataset(directory, source, conversion, damaged, alignment)
    if subset.num_classes == 1:
        _log.warning("%s has only one class. Training requires at least two", source)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / LOCK, _LOCK_TIMEOUT) as lock:
        if not _start_or_continue(directory, source, conversion):  # another run finished during the wait for the lock
            return reuse_dataset(directory, source, conversion, damaged, alignment)
        # True if a run was interrupted while it removed temporary files.
        was_finished = (directory / FILE_NAME).exists()
        if not was_finished:
            image_size = _image_size(source, subset, damaged)
            check_alignment(alignment, image_size)
            order = np.random.default_rng(seed % 2**63).permutation(len(subset))
            parts = np.array_split(order, -(-len(order) // examples_per_shard))
            job = ShardJob(subset, directory, len(parts), image_size, check, damaged)
            with tqdm(total=len(order), desc="writing", unit="image", dynamic_ncols=True) as progress:
                reports = _write_unfinished(job, parts, processes, runner, lock, progress)
            info = dataclasses.replace(_make_info(job, reports, source, conversion), alignment=alignment)
            info.save(directory)
        _remove_files(directory, [REPORT_PATTERN, *_TEMPORARY_FILES])
        (directory / UNFINISHED).unlink()
    return reuse_dataset(directory, source, conversion, damaged, alignment) if was_finished else info


def _start_or_continue(directory: Path, source: Source, conversion: Conversion) -> bool:
    """Writes the description of the run, or compares it with that of an interrupted run.

    Returns:
        False if the directory contains a finished dataset, so that no shards must be written. True otherwise.
    """
    description = {"source": str(source), **dataclasses.asdict(conversion), "schema_version": schema.VERSION}
    path = directory / UNFINISHED
    has_shards = any(directory.glob(SHARD_PATTERN))
    former = _read_description(path)
    if former is None and (directory / FILE_NAME).exists():
        path.unlink(missing_ok=True)
        return False
    if former is None and has_shards:
        raise FileExistsError(
            f"{directory} must be a new or empty directory, or contain {UNFINISHED}. Received: shards without a "
            f"readable {UNFINISHED} that describes how they were written"
        )
    if former is not None and has_shards:
        for key, value in description.items():
            if former.get(key) != value:
                changed = {"fingerprint": "files", "labels": "labels or class names"}.get(key, key)
                raise FileExistsError(
                    f"{directory} contains an unfinished dataset with other {changed}. To start over, remove the "
                    f"directory. Expected, to continue: {short(former.get(key))}. Received: {short(value)}"
                )
        return True
    write_atomically(path, json.dumps(description, indent=1))
    return True


def _read_description(path: Path) -> dict | None:
    try:
        return parse_object(read_regular(path))
    except (FileNotFoundError, ValueError):
        return None


def _image_size(source: Source, subset: ClassSubset, damaged: str) -> tuple[int, int]:
    """Returns the image size of the source, of its first image, or the most frequent size if damaged is "skip"."""
    declared = source.image_size
    samples = np.unique(np.linspace(0, len(subset) - 1, _NUM_SAMPLES, dtype=int)).tolist()
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for index in samples if declared or damaged == "skip" else [0]:
        try:
            record = read_record(subset, index)
            sizes[encoded_images.decoded_size(record.image, record.name)] += 1
        except ValueError:
            if damaged == "raise" and not declared:
                raise
    most_frequent = sizes.most_common(1)[0][0] if sizes else None
    if declared is not None:
        height, width = declared
        if most_frequent is not None and (height, width) not in sizes:
            raise ValueError(
                f"image_size of {source} must be the size of its images. RecordIO reads it from the file "
                f"`property`. Received: {height} x {width} (height x width), but none of {sizes.total()} tested images "
                f"has this size, and most are {most_frequent[0]} x {most_frequent[1]}"
            )
        return height, width
    if most_frequent is None:
        raise ValueError(
            f"{source} must contain readable images. Received: {len(samples)} tested images that are not readable"
        )
    return most_frequent


def _write_unfinished(
    job: ShardJob,
    parts: list[np.ndarray],
    processes: int,
    runner: ShardRunner | None,
    lock: FileLock,
    progress: tqdm,
) -> list[ShardReport]:
    """Writes all unfinished shards, and returns the reports of all shards."""
    reports = {}
    for number in range(len(parts)):
        report = read_report(job, number)
        if report is not None:
            if report.skipped and job.damaged == "raise":
                raise ValueError(
                    f"{job.directory} must have no skipped images with damaged='raise'. Use damaged='skip', or remove "
                    f"the directory. Received: a skipped image: {report.skipped[0]}"
                )
            reports[number] = report
    progress.initial = sum(len(parts[number]) for number in reports)
    progress.update(progress.initial)
    _remove_files(job.directory, _TEMPORARY_FILES)
    unfinished = [(number, indices) for number, indices in enumerate(parts) if number not in reports]
    try:
        if runner is not None:
            reports.update(write_by_runner(runner, write_shard, read_report, job, unfinished, progress))
        elif min(processes, len(unfinished)) <= 1:
            for number, indices in unfinished:
                reports[number] = write_shard(job, number, indices, progress.update)
        else:
            lock.share()
            reports.update(write_shards(write_shard, job, unfinished, processes, lock.path, progress))
    except OSError as error:
        finished = sum(read_report(job, number) is not None for number in range(len(parts)))
        error.add_note(
            f"{finished} of {len(parts)} shards in {job.directory} are finished. The same call continues from there"
        )
        raise
    return [reports[number] for number in range(len(parts))]


def _make_info(job: ShardJob, reports: list[ShardReport], source: Source, conversion: Conversion) -> DatasetInfo:
    subset = job.source
    class_names, source_labels = subset.class_names, subset.source_labels
    is_renumbered = not np.array_equal(source_labels, np.arange(subset.num_classes))
    num_examples = sum(report.num_examples for report in reports)
    if num_examples == 0:
        raise ValueError(
            f"{source} must contain undamaged images. Received: {len(subset)} images, all of which were skipped. "
            f"The first: {reports[0].skipped[0]}"
        )
    return DatasetInfo(
        num_classes=subset.num_classes,
        num_examples=num_examples,
        image_size=job.image_size,
        shards=tuple(
            Shard(job.path(number).name, report.num_examples, report.num_bytes, report.sha256)
            for number, report in enumerate(reports)
        ),
        source=str(source),
        class_names=None if class_names is None else tuple(class_names),
        source_labels=tuple(source_labels.tolist()) if is_renumbered else None,
        skipped=tuple(message for report in reports for message in report.skipped),
        conversion=conversion,
    )


def _remove_files(directory: Path, patterns: list[str]) -> None:
    for pattern in patterns:
        for path in directory.glob(pattern):
            path.unlink()
