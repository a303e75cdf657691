"""Writes a source as a directory of TFRecord shards with a `dataset.json`."""

import hashlib
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface.data import images
from keras_arcface.data import schema
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import Shard
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source


def write_dataset(source: Source, directory, examples_per_shard: int = 10_000, seed: int = 0) -> DatasetInfo:
    """Writes a source as TFRecords.

    Encoded images pass through untouched. Each is decoded once to check it, and all must have one size. Examples are
    shuffled over all shards, so that a shard is not one person after the other. Every shard is written under a
    temporary name, flushed to disk and renamed; `dataset.json` comes last, so a directory that has one is complete.

    Args:
        source: a sequence of `(encoded image, label, name)` with `num_classes`, such as `ImageFolder`.
        directory: where to write; made if it does not exist, and it must not hold a dataset yet.
        examples_per_shard: how many images a shard holds.
        seed: of the shuffle; the same source and seed give the same bytes.

    Returns:
        What is in `dataset.json`.

    Raises:
        FileExistsError: if the directory holds a dataset.
        ValueError: naming the record, for an image that cannot be decoded or has another size than the rest, and for
            a label outside `[0, num_classes)`; also for an empty source.

    >>> info = write_dataset(ImageFolder("faces"), "faces_tfrecord")
    """
    directory = Path(directory)
    if (directory / FILE_NAME).exists():
        raise FileExistsError(f"{directory} holds a dataset already. Expected: a new or empty directory")
    if len(source) == 0:
        raise ValueError(f"{source} holds no images: there is nothing to write")
    directory.mkdir(parents=True, exist_ok=True)
    image_size = images.size_of(source[0].image, source[0].name)
    order = np.random.default_rng(seed).permutation(len(source))
    parts = np.array_split(order, -(-len(source) // examples_per_shard))
    shards = []
    with tqdm(total=len(source), desc="writing TFRecords", unit="image", dynamic_ncols=True) as progress:
        for number, indices in enumerate(parts):
            examples = (_checked(source[int(index)], source.num_classes, image_size) for index in indices)
            path = directory / f"{number:05d}-of-{len(parts):05d}.tfrecord"
            shards.append(_write_shard(path, examples, progress))
    class_names = getattr(source, "class_names", None)
    info = DatasetInfo(
        num_classes=source.num_classes,
        num_examples=len(source),
        image_size=image_size,
        shards=tuple(shards),
        source=str(source),
        class_names=None if class_names is None else tuple(class_names),
    )
    info.save(directory)
    return info


def _checked(record: Record, num_classes: int, image_size: tuple[int, int]) -> Record:
    if not 0 <= record.label < num_classes:
        raise ValueError(f"{record.name} has a label outside [0, {num_classes}). Received: label {record.label}")
    size = images.size_of(record.image, record.name)
    if size != image_size:
        raise ValueError(
            f"{record.name} has another size than the images before it. Expected: {image_size[0]} x {image_size[1]} "
            f"(height x width). Received: {size[0]} x {size[1]}. Align or resize the images first"
        )
    return record


def _write_shard(path: Path, records, progress: tqdm) -> Shard:
    unfinished = path.with_suffix(".tmp")
    num_examples = 0
    with tf.io.TFRecordWriter(str(unfinished)) as writer:
        for record in records:
            writer.write(schema.encode(*record))
            num_examples += 1
            progress.update()
    with open(unfinished, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    num_bytes = unfinished.stat().st_size
    unfinished.replace(path)
    return Shard(path.name, num_examples, num_bytes, sha256)
