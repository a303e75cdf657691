"""Writes a source as a directory of TFRecord shards with a `dataset.json`.

Every shard is a function of the source, the seed and its number, so it does not matter which process writes it, nor
whether a run was interrupted: what is finished stays, and the rest is written as it would have been.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import operator
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import encoded_images
from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.alignment import check_alignment
from keras_arcface.data.conversion import conversion_of
from keras_arcface.data.conversion import use_again
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.info import Conversion
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.info import sync_directory
from keras_arcface.data.info import write_atomically
from keras_arcface.data.lock import Lock
from keras_arcface.data.selection import Selection
from keras_arcface.data.selection import with_at_least
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source

UNFINISHED = "unfinished.json"
_SHARDS = "*-of-*.tfrecord"
_TEMPORARY = (f"{_SHARDS}.tmp", ".*.report.json.tmp", f"{FILE_NAME}.tmp")
_BLOCK = 256  # images that are checked, hashed and written at a time

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
) -> DatasetInfo:
    """Writes a source as TFRecords.

    JPEG and PNG files pass through untouched, except those that EXIF data turns. Those, and all other formats, become
    PNG files of the pixels that `cv2.imread` shows. Each image is decoded once to check it, and all must have one size.
    Examples are shuffled over all shards, so that a shard is not one person after the other. Labels are made
    contiguous: classes without an image, or with fewer than `min_images`, are left out, and
    `DatasetInfo.source_labels` says what each was in the source.

    Every shard is written under a temporary name, flushed to disk and renamed; `dataset.json` comes last, so a
    directory that has one is complete. A run that was stopped, by whatever, goes on where it was when it is started
    again, and the result is the same to the byte. A directory that already holds the dataset of the same source and
    arguments is left as it is: nothing is read but the source's labels and fingerprint.

    Args:
        source: a sequence of `(encoded image, label, name)` with `num_classes`, such as `ImageFolder`, `ImageList` or
            `RecordIO`.
        directory: where to write; created if it does not exist. A dataset in it is used again if it is the one that
            this call would write, and is never overwritten.
        examples_per_shard: how many images a shard holds.
        seed: of the shuffle; the same source and seed give the same bytes.
        processes: how many to write with. With more than one, a script needs `if __name__ == "__main__":`, as always
            in Python's multiprocessing.
        check: whether to decode every image.
        damaged: what to do with an image that cannot be read or decoded, has another size or a label outside
            `[0, num_classes)`: "raise", or "skip", log it, and list it in `DatasetInfo.skipped`. Classes are counted
            before that: one whose images are all skipped keeps its label. A run that raised can go on with "skip".
        min_images: leave out classes that have fewer.
        alignment: how the faces are aligned, to be recorded in `dataset.json`: "five_points" for faces as `align` gives
            them, "none" for faces that are not aligned. None leaves it unstated: nothing guesses it from the images.
            A dataset that is used again takes a statement that it does not have yet.

    Returns:
        What is in `dataset.json`.

    Raises:
        FileExistsError: if the directory holds a dataset, finished or not, of another source or other arguments; it
            says what differs. Also if the source has no `fingerprint()`, by which it could be recognized.
        BlockingIOError: if another run is writing to the directory.
        OSError: if the disk is full, or the like; what is finished stays.
        ValueError: naming the record, for one that is damaged; also for an empty source, and for one whose
            `image_size` is not that of its images.
        RuntimeError: if a process died.

    >>> info = write_dataset(ImageFolder("faces"), "faces_tfrecord")
    """
    check_alignment(alignment)
    if damaged not in ("raise", "skip"):
        raise ValueError(f'damaged expects "raise" or "skip". Received: {damaged!r}')
    for name, number in (("examples_per_shard", examples_per_shard), ("processes", processes)):
        if number < 1:
            raise ValueError(f"{name} expects 1 or more. Received: {number}")
    seed, directory = operator.index(seed), Path(directory)
    if len(source) == 0:
        raise ValueError(f"{source} holds no images: there is nothing to write")
    selection = with_at_least(source, min_images)
    conversion = conversion_of(source, selection, examples_per_shard, seed, check, min_images)
    if (directory / FILE_NAME).exists() and not (directory / UNFINISHED).exists():
        return use_again(directory, source, conversion, damaged, alignment)
    if selection.num_classes == 1:
        _log.warning("%s has one class. A network needs two or more to learn to tell them apart", source)
    directory.mkdir(parents=True, exist_ok=True)
    with Lock(directory / UNFINISHED) as lock:
        if not _agree(lock, directory, source, conversion):  # another run wrote it while this one waited
            return use_again(directory, source, conversion, damaged, alignment)
        was_finished = (directory / FILE_NAME).exists()  # stopped while it tidied up
        if not was_finished:
            expected = _expected_size(source, selection, damaged)
            check_alignment(alignment, expected)
            order = np.random.default_rng(seed % 2**63).permutation(len(selection))
            parts = np.array_split(order, -(-len(order) // examples_per_shard))
            job = _Job(selection, directory, len(parts), tuple(expected), check, damaged)
            with tqdm(total=len(order), desc="writing", unit="image", dynamic_ncols=True) as progress:
                reports = _write(job, parts, processes, lock, progress)
            info = dataclasses.replace(_conclude(job, reports, source, conversion), alignment=alignment)
            info.save(directory)
        for pattern in (".*.report.json", *_TEMPORARY):
            for leftover in directory.glob(pattern):
                leftover.unlink()
        lock.remove()
    return use_again(directory, source, conversion, damaged, alignment) if was_finished else info


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every process needs to know."""

    source: Selection
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
class _Report:
    """A finished shard."""

    num_examples: int
    num_bytes: int
    sha256: str
    image_size: list[int]
    skipped: list[str]


def _agree(lock: Lock, directory: Path, source: Source, conversion: Conversion) -> bool:
    """Writes down what this run is, or makes sure that the run to be continued was the same.

    Returns:
        False if there is nothing to continue, as the directory holds a finished dataset.
    """
    description = {"source": str(source), **dataclasses.asdict(conversion), "schema_version": schema.VERSION}
    path = directory / UNFINISHED
    has_shards = any(directory.glob(_SHARDS))
    try:
        former = json.loads(path.read_text("utf-8"))
    except ValueError:  # empty: the file was made just now; or torn, and then nothing was written after it
        former = None
        if (directory / FILE_NAME).exists() or has_shards:
            lock.remove()
            if (directory / FILE_NAME).exists():
                return False
            raise FileExistsError(
                f"{directory} holds shards that belong to no conversion: their {UNFINISHED} is gone. Expected: a new "
                "or empty directory"
            ) from None
    if former is not None and has_shards:
        for key, value in description.items():
            if former.get(key) != value:
                of_what = {"fingerprint": "files", "labels": "labels or names of classes"}.get(key, key)
                raise FileExistsError(
                    f"{directory} holds an unfinished dataset with other {of_what}. Expected, to go on with it: "
                    f"{former.get(key)!r}. Received: {value!r}. To start over, remove the directory"
                )
        return True
    with open(path, "w", encoding="utf-8") as file:
        json.dump(description, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return True


def _expected_size(source: Source, selection: Selection, damaged: str) -> tuple[int, int]:
    """The size that the source says; else that of the first image or, where damaged ones are skipped, of most."""
    told = getattr(source, "image_size", None)
    tried = np.unique(np.linspace(0, len(selection) - 1, 101, dtype=int)).tolist()
    sizes = collections.Counter()
    for index in tried if told or damaged == "skip" else [0]:
        try:
            record = _read(selection, index)
            sizes[encoded_images.decoded_size(record.image, record.name)] += 1
        except ValueError:
            if damaged == "raise" and not told:
                raise
    commonest = sizes.most_common(1)[0][0] if sizes else None
    if told:
        told = tuple(told)
        if sizes and told not in sizes:
            raise ValueError(
                f"{source} says that its images are {told[0]} x {told[1]} (height x width), but of {sizes.total()} "
                f"that were tried none is, and most are {commonest[0]} x {commonest[1]}. Expected: the size of the "
                "images as `image_size`; for RecordIO, in the file `property` beside it"
            )
        return told
    if commonest is None:
        raise ValueError(f"{source} holds no image that can be read, of {len(tried)} that were tried")
    return commonest


def _write(job: _Job, parts: list[np.ndarray], processes: int, lock: Lock, progress: tqdm) -> list[_Report]:
    reports = {}
    for number, indices in enumerate(parts):
        report = _finished(job, number)
        if report is not None:
            if report.skipped and job.damaged == "raise":
                raise ValueError(f"skipped by the run that is to be continued: {report.skipped[0]}")
            reports[number] = report
            progress.initial += len(indices)
            progress.update(len(indices))
    for pattern in _TEMPORARY:
        for leftover in job.directory.glob(pattern):
            leftover.unlink()
    todo = [(number, indices) for number, indices in enumerate(parts) if number not in reports]
    try:
        if min(processes, len(todo)) <= 1:
            for number, indices in todo:
                reports[number] = _write_shard(job, number, indices, progress.update)
        else:
            lock.share()
            reports.update(_write_with(processes, job, todo, progress))
    except OSError as error:
        finished = sum(_finished(job, number) is not None for number in range(len(parts)))
        error.add_note(
            f"{finished} of {len(parts)} shards in {job.directory} are finished and stay. "
            "The same call goes on from there"
        )
        raise
    return [reports[number] for number in range(len(parts))]


def _finished(job: _Job, number: int) -> _Report | None:
    try:
        report = _Report(**json.loads(job.report_path(number).read_text("utf-8")))
        is_whole = job.path(number).stat().st_size == report.num_bytes
        return report if is_whole and tuple(report.image_size) == job.image_size else None
    except FileNotFoundError:
        return None


def _write_shard(job: _Job, number: int, indices: np.ndarray, progress) -> _Report:
    path, skipped = job.path(number), []
    unfinished = path.with_name(f"{path.name}.tmp")
    sha256, num_examples, num_bytes = hashlib.sha256(), 0, 0
    try:
        with open(unfinished, "wb", buffering=0) as file:
            for start in range(0, len(indices), _BLOCK):
                block = indices[start : start + _BLOCK].tolist()
                records = list(_usable(job, block, skipped))
                pieces = (piece for record in records for piece in tfrecord.frame(*schema.encode_parts(*record)))
                data = b"".join(pieces)
                sha256.update(data)
                _write_all(file, data)
                num_examples += len(records)
                num_bytes += len(data)
                progress(len(block))
            os.fsync(file.fileno())
        report = _Report(num_examples, num_bytes, sha256.hexdigest(), list(job.image_size), skipped)
        write_atomically(job.report_path(number), json.dumps(dataclasses.asdict(report)))
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, f"{error.strerror}, while writing", str(path)) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)
    sync_directory(job.directory)
    return report


def _write_all(file, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _usable(job: _Job, indices: Iterable[int], skipped: list[str]) -> Iterable[Record]:
    """The records of a block, each checked; what cannot be used is skipped, or raises."""
    records = []
    for index in indices:
        try:
            record = _read(job.source, index)
            if not 0 <= record.label < job.source.num_classes:
                raise ValueError(
                    f"{record.name} has a label outside [0, {job.source.source.num_classes}). Received: label "
                    f"{record.label}"
                )
            records.append(record)
        except ValueError as error:
            _skip_or_raise(job, error, skipped)
    if not job.check or encoded_images.can_all_be_decoded([record.image for record in records], job.image_size):
        return records
    good = []
    for record in records:
        try:
            size = encoded_images.decoded_size(record.image, record.name)
            if size != job.image_size:
                raise ValueError(
                    f"{record.name} has another size than the others. Expected: {job.image_size[0]} x "
                    f"{job.image_size[1]} (height x width). Received: {size[0]} x {size[1]}. Align or resize the "
                    "images first"
                )
            good.append(record)
        except ValueError as error:
            _skip_or_raise(job, error, skipped)
    return good


def _read(source: Selection, index: int) -> Record:
    """A record whose image is a JPEG or PNG that TensorFlow shows as OpenCV does."""
    try:
        record = source[index]
    except OSError as error:  # not to be taken for one of the disk that is written to
        raise ValueError(f"record {index} of {source} cannot be read: {type(error).__name__}: {error}") from error
    image = encoded_images.to_jpeg_or_png(record.image, record.name)
    return record if image is record.image else record._replace(image=image)


def _skip_or_raise(job: _Job, error: Exception, skipped: list[str]) -> None:
    if job.damaged == "raise":
        raise error
    skipped.append(str(error))
    _log.warning("skipped: %s", error)


def _conclude(job: _Job, reports: list[_Report], source: Source, conversion: Conversion) -> DatasetInfo:
    selection = job.source
    class_names = selection.class_names
    renumbered = not np.array_equal(selection.source_labels, np.arange(selection.num_classes))
    num_examples = sum(report.num_examples for report in reports)
    if num_examples == 0:
        raise ValueError(f"all {len(selection)} images of {source} were skipped. The first: {reports[0].skipped[0]}")
    return DatasetInfo(
        num_classes=selection.num_classes,
        num_examples=num_examples,
        image_size=job.image_size,
        shards=tuple(
            Shard(job.path(number).name, report.num_examples, report.num_bytes, report.sha256)
            for number, report in enumerate(reports)
        ),
        source=str(source),
        class_names=None if class_names is None else tuple(class_names),
        source_labels=tuple(selection.source_labels.tolist()) if renumbered else None,
        skipped=tuple(reason for report in reports for reason in report.skipped),
        conversion=conversion,
    )


# With several processes. They start from a server that has loaded this module once, not from the caller's process,
# whose threads a fork would tear.


def _write_with(processes: int, job: _Job, todo: list, progress: tqdm) -> dict[int, _Report]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    done = context.Value("q", 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(todo)), context, _start_process, (job, job.directory / UNFINISHED, done)
    )
    shown = 0
    try:
        futures = {executor.submit(_write_shard_in_process, *task): task[0] for task in todo}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_EXCEPTION)
            written = done.get_obj().value  # without its lock, which a process that was killed may hold
            progress.update(written - shown)
            shown = written
            for future in finished:
                future.result()
        return {number: future.result() for future, number in futures.items()}
    except (concurrent.futures.BrokenExecutor, ConnectionError, EOFError) as error:
        raise RuntimeError(
            f"A process that wrote to {job.directory} died: it was killed, or out of memory, or the script lacks "
            '`if __name__ == "__main__":`. The same call goes on from what is finished'
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_job: _Job
_done = None


def _start_process(job: _Job, lock_path: Path, done) -> None:
    global _job, _done
    _job, _done = job, done
    threading.Thread(target=_die_with_parent, daemon=True).start()
    Lock(lock_path).join()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)


def _die_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _write_shard_in_process(number: int, indices: np.ndarray) -> _Report:
    def progress(count):
        with _done.get_lock():
            _done.value += count

    return _write_shard(_job, number, indices, progress)
