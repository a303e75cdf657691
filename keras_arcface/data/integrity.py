"""Comparison of the shards of a dataset directory with the sizes and checksums in its `dataset.json`."""

import concurrent.futures
import hashlib
import os
from pathlib import Path

from tqdm import tqdm

from keras_arcface.data import tfrecord
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.info import load_info


def check_dataset(directory) -> DatasetInfo:
    """Reads every shard and compares its sha256 with `dataset.json`.

    Args:
        directory: path of a directory that `write_dataset` wrote.

    Returns:
        The `DatasetInfo` of the directory.

    Raises:
        FileNotFoundError: if the directory contains no dataset.
        ValueError: if a shard is missing or damaged. The message names all such shards, and the offsets of damaged
            records.

    >>> check_dataset("faces").num_examples
    8
    """
    directory = Path(directory)
    info = load_info(directory)
    errors = []
    with (
        tqdm(total=sum(s.num_bytes for s in info.shards), desc="checking", unit="B", unit_scale=True) as progress,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,  # reading and hashing release the GIL
    ):
        checked = pool.map(lambda shard: _find_damage(directory, shard), info.shards)
        for shard, errors_in_shard in zip(info.shards, checked, strict=True):
            errors += errors_in_shard
            progress.update(shard.num_bytes)
    if errors:
        raise ValueError(f"{directory} must contain undamaged shards. Received:\n" + "\n".join(errors))
    return info


def check_sizes(directory, info: DatasetInfo) -> None:
    """Compares the sizes of all shards with `dataset.json`, without reading them.

    Raises:
        ValueError: if a shard is missing or has another size. The message names the shard.
    """
    for shard in info.shards:
        path = Path(directory) / shard.file
        size = path.stat().st_size if path.is_file() else None
        if size != shard.num_bytes:
            received = "no such file" if size is None else f"{size} bytes"
            raise ValueError(f"{path} is damaged. Expected: {shard.num_bytes} bytes. Received: {received}")


def _find_damage(directory: Path, shard: Shard) -> list[str]:
    path = directory / shard.file
    if not path.is_file():
        return [f"{path} is damaged. Expected: {shard.num_bytes} bytes. Received: no such file"]
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 == shard.sha256:
        return []
    damaged_records: list[tfrecord.DamagedRecordError] = []
    for _ in tfrecord.read_records(path, damaged_records.append):
        pass
    return [f"{path} is damaged. Expected: sha256 {shard.sha256}. Received: {sha256}", *map(str, damaged_records)]
