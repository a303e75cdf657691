"""Verifies a dataset directory against the checksums in its `dataset.json`."""

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
    """Reads every shard and compares its sha256.

    Args:
        directory: made by `write_dataset`.

    Returns:
        What is in `dataset.json`, all of which holds.

    Raises:
        FileNotFoundError: if the directory holds no dataset.
        ValueError: naming every shard that is missing or damaged, and the places in it.
    """
    directory = Path(directory)
    info = load_info(directory)
    damages = []
    with (
        tqdm(total=sum(s.num_bytes for s in info.shards), desc="checking", unit="B", unit_scale=True) as progress,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,  # reading and hashing leave Python's lock
    ):
        for shard, found in zip(
            info.shards, pool.map(lambda shard: _damages(directory, shard), info.shards), strict=True
        ):
            damages += found
            progress.update(shard.num_bytes)
    if damages:
        raise ValueError(f"{directory} is damaged:\n" + "\n".join(damages))
    return info


def check_sizes(directory, info: DatasetInfo) -> None:
    """Compares the sizes of all shards, which costs next to nothing.

    Raises:
        ValueError: naming a shard that is missing, or longer or shorter than it was.
    """
    for shard in info.shards:
        path = Path(directory) / shard.file
        size = path.stat().st_size if path.is_file() else None
        if size != shard.num_bytes:
            received = "no such file" if size is None else f"{size} bytes"
            raise ValueError(f"{path} is damaged. Expected: {shard.num_bytes} bytes. Received: {received}")


def _damages(directory: Path, shard: Shard) -> list[str]:
    path = directory / shard.file
    if not path.is_file():
        return [f"{path} is missing"]
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 == shard.sha256:
        return []
    places = []
    for _ in tfrecord.read_records(path, places.append):
        pass
    return [f"{path}: expected sha256 {shard.sha256}, received {sha256}", *map(str, places)]
