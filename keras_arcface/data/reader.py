"""Reads a dataset directory back as batches."""

import dataclasses
import functools
import itertools
import operator
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_arcface.data import augment
from keras_arcface.data import encoded_images
from keras_arcface.data import order
from keras_arcface.data import schema
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.stores import Decoded
from keras_arcface.data.stores import Encoded
from keras_arcface.data.stores import Files


def load_dataset(
    directory,
    batch_size: int,
    training: bool = False,
    seed: int = 0,
    start_step: int = 0,
    num_classes: int | None = None,
    augmentation=augment.flip,
    shuffle_buffer: int = 10_000,
    images_per_class: int | None = None,
    cache: str | None = None,
    host: int = 0,
    num_hosts: int = 1,
    damaged: str = "raise",
    deterministic: bool = True,
    names: bool = False,
) -> tf.data.Dataset:
    """Gives batches of `(images, labels)`: uint8 `(batch, height, width, 3)` in 0..255 and int64 `(batch,)`.

    For training the dataset is endless and reads every image once per pass, in an order that differs from pass to
    pass; give `fit` a `steps_per_epoch`. With the same arguments, what a step sees depends on nothing but
    `(seed, step)`, so a run that stopped after N steps goes on with `start_step=N`; what lies before is skipped
    undecoded. Otherwise it is one pass in the order of the files, and its last batch may be smaller.

    Args:
        directory: made by `write_dataset`.
        batch_size: images per batch on this host, over all its replicas.
        training: whether to shuffle, augment and repeat.
        seed: of order and augmentation.
        start_step: the first batch to give, counted from 0; only for training.
        num_classes: what the model expects, to have it compared with the data.
        augmentation: function `(images, seed)` -> images, for training, such as those of `keras_arcface.data.augment`;
            None for none.
        shuffle_buffer: how many encoded images are held to draw from. The files are shuffled already.
        images_per_class: for training: make every batch of `batch_size / images_per_class` different classes with so
            many images of each (P x K), for losses that compare images within a batch. A class is then as frequent as
            any other, however many images it has. The labels are read once at the start, and images one by one.
        cache: for a dataset that fits in memory: "encoded" to hold the files as they are, "decoded" to hold the pixels
            (height x width x 3 bytes each) and never decode again; shuffles perfectly and starts anywhere at once.
        host, num_hosts: which share of every batch to give, where several hosts train together with the same seed. The
            shares are disjoint, and together the images that one host would see with `num_hosts` times the batch size
            (augmented by other draws).
        damaged: what to do with a record whose checksum does not hold: "raise", or "skip". To skip, all files are read
            once at the start, and every damaged place is logged, and their number.
        deterministic: whether batches come in the order of their steps; False lets a batch overtake a slower one.
        names: whether to give where each image came from, as a third element, strings `(batch,)`; to look at what a
            step saw, not for `fit`.

    Raises:
        FileNotFoundError: if the directory holds no dataset, or a shard is missing.
        ValueError: if it is damaged, if its classes are not `num_classes`, or for arguments that do not fit together.

    While reading, a label outside `[0, num_classes)`, an image of another size and a damaged record raise
    `tf.errors.InvalidArgumentError`; it names the image, or the file and offset.
    """
    seed = operator.index(seed)
    _check_arguments(
        batch_size, training, start_step, shuffle_buffer, images_per_class, cache, host, num_hosts, damaged
    )
    info = load_info(directory)
    if num_classes is not None and num_classes != info.num_classes:
        raise ValueError(
            f"{directory} holds {info.num_classes} classes. Expected: num_classes={num_classes}, as the model has"
        )
    files = Files(directory, info, skip_damaged=damaged == "skip")
    share = _Share(batch_size, host, num_hosts)
    decode = functools.partial(_decode, info)

    # What a batch is taken from, how it is turned into images and labels, and which part of it each step takes.
    if cache is None and images_per_class is None:
        kind, fetch = tf.string, decode
        if training:
            batches = functools.partial(_streamed, files, share, seed, start_step, shuffle_buffer)
        else:
            batches = functools.partial(share.one_pass, files)
    else:
        store = {None: lambda: files, "encoded": lambda: Encoded(files), "decoded": lambda: Decoded(files, decode)}
        store = store[cache]()
        kind = tf.int64
        fetch = store.fetch if cache == "decoded" else lambda rows: decode(store.fetch(rows))
        if images_per_class is not None:
            balance = order.ClassBalance(store.labels, share.across_hosts // images_per_class, images_per_class, seed)
            batches = functools.partial(_balanced, balance, share, start_step)
        elif training:
            batches = functools.partial(_shuffled, store.num_examples, share, seed, start_step)
        else:
            batches = functools.partial(share.one_pass, range(store.num_examples))

    def prepare(step, batch):
        pixels, labels, came_from = fetch(batch)
        if training and augmentation is not None:
            pixels = augmentation(pixels, tf.stack([tf.constant(seed, tf.int64), step * num_hosts + host]))
        return (pixels, labels, came_from) if names else (pixels, labels)

    dataset = tf.data.Dataset.from_generator(
        lambda: zip(itertools.count(start_step), batches(), strict=False),
        output_signature=(
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((batch_size if training else None,), kind),
        ),
    )
    num_batches = tf.data.INFINITE_CARDINALITY if training else share.batches_in(files.num_examples)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    # A batch is parsed and decoded in one call, which costs less than one for every image. One call more than there are
    # cores, and batches read ahead, keep the cores busy; many more calls would drive each other out of the caches.
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), 16)
    dataset = dataset.prefetch(4).map(prepare, num_parallel_calls=cores + 1, deterministic=deterministic)
    return dataset.prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class _Share:
    """What this host takes of a stream: every `num_hosts`-th of it, in batches."""

    batch_size: int
    host: int
    num_hosts: int

    @property
    def across_hosts(self) -> int:
        return self.batch_size * self.num_hosts

    def batches_in(self, num_examples: int) -> int:
        """Batches in one pass."""
        return len(range(self.host, num_examples, self.across_hosts))

    def rows(self, step: int) -> np.ndarray:
        """Where in an endless stream the rows of a step stand."""
        return step * self.across_hosts + self.host + self.num_hosts * np.arange(self.batch_size)

    def batches(self, stream: Iterator) -> Iterator[list]:
        """The batches of a stream; the last may be smaller."""
        mine = itertools.islice(stream, self.host, None, self.num_hosts)
        while batch := list(itertools.islice(mine, self.batch_size)):
            yield batch

    def one_pass(self, stream: Iterable) -> Iterator[list]:
        return self.batches(iter(stream))


def _streamed(files: Files, share: _Share, seed: int, start_step: int, shuffle_buffer: int) -> Iterator[list[bytes]]:
    """Pass after pass; batches may span two, so every image counts alike."""
    first, skipped = divmod(start_step * share.across_hosts, files.num_examples)
    passes = (
        order.streamed_pass(files.paths, files.read, seed, number, shuffle_buffer) for number in itertools.count(first)
    )
    return share.batches(itertools.islice(itertools.chain.from_iterable(passes), skipped, None))


def _shuffled(num_examples: int, share: _Share, seed: int, start_step: int) -> Iterator[np.ndarray]:
    return (order.shuffled_rows(num_examples, seed, share.rows(step)) for step in itertools.count(start_step))


def _balanced(balance: Callable, share: _Share, start_step: int) -> Iterator[np.ndarray]:
    mine = slice(share.host * share.batch_size, (share.host + 1) * share.batch_size)
    return (balance(step)[mine] for step in itertools.count(start_step))


def _decode(info: DatasetInfo, serialized):
    encoded, labels, names = schema.parse(serialized)
    wrong = tf.logical_or(labels < 0, labels >= info.num_classes)
    complaint = [
        f"labels outside [0, {info.num_classes}) in the records",
        tf.boolean_mask(names, wrong),
        "with the labels",
        tf.boolean_mask(labels, wrong),
    ]
    with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), complaint)]):
        return encoded_images.decode_batch(encoded, names, info.image_size), labels, names


def _check_arguments(
    batch_size, training, start_step, shuffle_buffer, images_per_class, cache, host, num_hosts, damaged
) -> None:
    for name, number in (("batch_size", batch_size), ("shuffle_buffer", shuffle_buffer)):
        if number < 1:
            raise ValueError(f"{name} expects 1 or more. Received: {number}")
    for name, value, without in (("start_step", start_step, 0), ("images_per_class", images_per_class, None)):
        if value != without and not training:
            raise ValueError(f"{name} goes with training=True. Received: {name}={value}, training=False")
    if start_step < 0:
        raise ValueError(f"start_step expects 0 or more. Received: {start_step}")
    if images_per_class is not None and (images_per_class < 1 or batch_size % images_per_class):
        raise ValueError(f"images_per_class expects a divisor of batch_size={batch_size}. Received: {images_per_class}")
    if cache not in (None, "encoded", "decoded"):
        raise ValueError(f'cache expects None, "encoded" or "decoded". Received: {cache!r}')
    if damaged not in ("raise", "skip"):
        raise ValueError(f'damaged expects "raise" or "skip". Received: {damaged!r}')
    if not 0 <= host < num_hosts:
        raise ValueError(f"host expects a number in [0, num_hosts={num_hosts}). Received: {host}")
