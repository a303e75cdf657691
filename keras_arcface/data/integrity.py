"""Comparison of the shards of a dataset directory with its `dataset.json`."""

import concurrent.futures
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface.data import schema
from keras_arcface.data import tfrecord
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.info import load_info

_RECORDS_PER_BLOCK = 256  # records that are parsed together
_MAX_ERRORS = 100  # in one shard


def check_dataset(directory) -> DatasetInfo:
    """Reads every shard and compares its content with `dataset.json`.

    Use it after a dataset was copied. It checks the size and the sha256 of every shard, the number of its records,
    their checksums, fields and labels, and that every class has an image, except for skipped images. It does not decode
    images, which `load_dataset` does.

    Args:
        directory: path of a directory that `write_dataset` wrote.

    Returns:
        The `DatasetInfo` of the directory.

    Raises:
        FileNotFoundError: if the directory contains no dataset.
        ValueError: if `dataset.json` is invalid, or a shard is missing, damaged or does not match it. The message names
            all such shards, and the offsets of damaged records.

    Examples:
        >>> check_dataset("faces").num_examples
        8
        >>> import os
        >>> os.truncate("faces/00000-of-00001.tfrecord", 1000)  # an incomplete copy
        >>> check_dataset("faces")
        Traceback (most recent call last):
        ValueError: faces must contain undamaged shards. Received:
        faces/00000-of-00001.tfrecord is damaged. Expected: ... bytes. Received: ... bytes
    """
    directory = Path(directory)
    info = load_info(directory)
    errors: list[str] = []
    classes: set[int] = set()
    with (
        tqdm(total=sum(s.num_bytes for s in info.shards), desc="checking", unit="B", unit_scale=True) as progress,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,  # reading and hashing release the GIL
    ):
        checked = pool.map(lambda shard: _check_shard(directory, info, shard), info.shards)
        for shard, (errors_in_shard, classes_in_shard) in zip(info.shards, checked, strict=True):
            errors += errors_in_shard
            classes |= classes_in_shard
            progress.update(shard.num_bytes)
    if errors:
        raise ValueError(f"{directory} must contain undamaged shards. Received:\n" + "\n".join(errors))
    if len(classes) + len(info.skipped) < info.num_classes:
        raise ValueError(
            f"{directory / FILE_NAME} must have images of all classes, except for skipped images. Received: "
            f"images of {len(classes)} classes and {len(info.skipped)} skipped images, num_classes={info.num_classes}"
        )
    return info


def check_sizes(directory, info: DatasetInfo) -> None:
    """Compares the sizes of all shards with `dataset.json`, without reading them.

    Raises:
        ValueError: if a shard is missing or has another size. The message names the shard.
    """
    for shard in info.shards:
        error = _size_error(Path(directory) / shard.file, shard)
        if error is not None:
            raise ValueError(error)


def _size_error(path: Path, shard: Shard) -> str | None:
    size = path.stat().st_size if path.is_file() else None
    received = "no such file" if size is None else f"{size} bytes"
    return _damaged(path, f"{shard.num_bytes} bytes", received) if size != shard.num_bytes else None


def _damaged(path: Path, expected: str, received: object) -> str:
    return f"{path} is damaged. Expected: {expected}. Received: {received}"


def _check_shard(directory: Path, info: DatasetInfo, shard: Shard) -> tuple[list[str], set[int]]:
    """Returns the errors in a shard, and its labels."""
    path = directory / shard.file
    errors: list[str] = []
    labels: set[int] = set()
    size_error = _size_error(path, shard)
    if size_error is not None:
        errors.append(size_error)
        if not path.is_file():
            return errors, labels
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != shard.sha256:
        errors.append(_damaged(path, f"sha256 {shard.sha256}", sha256))
    num_records = 0
    records = tfrecord.read_records(path, lambda error: errors.append(str(error)))
    while block := list(itertools.islice(records, _RECORDS_PER_BLOCK)):
        num_records += len(block)
        try:
            labels |= _labels([record for _, record in block], info.num_classes)
        except ValueError as error:
            errors.append(f"{path}: damaged record between offsets {block[0][0]} and {block[-1][0]}: {error}")
        if len(errors) > _MAX_ERRORS:
            return [*errors[:_MAX_ERRORS], f"{path}: more errors"], labels
    if not errors and num_records != shard.num_examples:
        errors.append(f"{path} must have {shard.num_examples} records, as in {FILE_NAME}. Received: {num_records}")
    return errors, labels


def _labels(records: list[bytes], num_classes: int) -> set[int]:
    labels = schema.read_labels(records)
    is_wrong = (labels < 0) | (labels >= num_classes)
    if is_wrong.any():
        raise ValueError(f"expected a label in [0, {num_classes}). Received: label={labels[is_wrong][0]}")
    return set(np.unique(labels).tolist())
