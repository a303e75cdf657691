"""Reader of a dataset directory as batches of images and labels."""

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

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface.data import augment
from keras_arcface.data import encoded_images
from keras_arcface.data import schema
from keras_arcface.data import teacher_embeddings
from keras_arcface.data import training_order
from keras_arcface.data.caches import DecodedCache
from keras_arcface.data.caches import EncodedCache
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.shards import ShardReader


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
    teacher: teacher_embeddings.TeacherEmbeddings | None = None,
) -> tf.data.Dataset:
    """Returns a dataset of batches `(images, labels)`, for `fit`.

    Images are uint8 `(batch, height, width, 3)`, RGB in 0..255, and labels are int64 `(batch,)`.

    With `training=True` the dataset is endless, so `fit` requires `steps_per_epoch`. It contains every image once per
    epoch, in an order that differs per epoch. The batch of a step depends only on the arguments, including `seed`, and
    the step. A run that stopped after N steps therefore continues with `start_step=N`. Earlier images are skipped
    without decoding. With `training=False` the dataset has one epoch in the order of the files, and the last batch may
    be smaller.

    Args:
        directory: path of a directory that `write_dataset` wrote.
        batch_size: number of images per batch on this host, over all its replicas.
        training: whether to shuffle, augment and repeat the images.
        seed: seed of the order and the augmentation.
        start_step: index of the first batch. Requires `training=True` unless 0.
        num_classes: number of classes that the model expects. A dataset with another number raises an error. None
            accepts any number.
        augmentation: function `(images, seed) -> images`, such as those of `keras_arcface.data.augment`, or None. It
            is only applied with `training=True`. Among several hosts, a function of your own receives the same seed on
            all hosts.
        shuffle_buffer: number of encoded images in the buffer from which the next image is drawn. The files are also
            permuted and interleaved.
        images_per_class: number of images per class in a training batch, for losses that compare images within a batch.
            A batch then has `batch_size / images_per_class` different classes (P x K sampling), and all classes are
            equally frequent. The labels are read once at the start, and images one by one. None disables it.
        cache: cache in memory: "encoded" for the encoded images, "decoded" for the pixels (height x width x 3 bytes per
            image), which are then decoded only once, or None. A cached dataset is shuffled uniformly and starts at any
            step without delay.
        host: index of this host among several hosts that train together with the same seed, in [0, num_hosts). Each
            host reads another part of every global batch. The concatenation of the parts is the batch that a single
            host would read with `num_hosts` times the batch size, including the augmentations of `augment`, so that a
            run can continue on another number of hosts.
        num_hosts: number of hosts.
        damaged: treatment of records with a wrong checksum. "raise" raises an error. "skip" skips them. All files are
            then read once at the start, and every damaged section is logged.
        deterministic: whether batches are in the order of their steps. If false, a batch may overtake a slower one.
        names: whether to add the names of the images as a third element, strings `(batch,)`. `fit` does not accept it.
        teacher: embeddings of a teacher for this dataset, from `write_teacher_embeddings`, or None. With them, the
            labels are pairs `(labels, teacher_embeddings)` for a head with distillation, where the embeddings are
            float32 `(batch, dim)`. They are those of the images before the augmentation, but an image that
            `augment.flip` has mirrored, also as a part of other functions of `augment`, has the embedding of the
            mirror image. An augmentation that mirrors in another way is not recognized. Cannot be combined with
            `damaged="skip"`.

    Returns:
        A `tf.data.Dataset`. Iterating over it raises a `tf.errors.InvalidArgumentError` for a label outside
        `[0, num_classes)`, an image of another size, or a damaged record. The message names the image, or the file and
        offset.

    Raises:
        FileNotFoundError: if the directory contains no dataset.
        ValueError: if a file is damaged or missing, the number of classes is not `num_classes`, or arguments are
            invalid or cannot be combined.

    Examples:
        Batches for training:

        >>> dataset = load_dataset("faces", batch_size=4, training=True, seed=1)
        >>> images, labels = next(iter(dataset))
        >>> images.shape, images.dtype, labels.shape
        (TensorShape([4, 32, 32, 3]), tf.uint8, TensorShape([4]))

        The same order from the third step, as an interrupted training continues:

        >>> resumed = load_dataset("faces", batch_size=4, training=True, seed=1, start_step=2)

        All images once, with their names:

        >>> for images, labels, names in load_dataset("faces", batch_size=5, names=True):
        ...     print(images.shape, sorted(names.numpy())[0])
        (5, 32, 32, 3) b'ann/...
        (3, 32, 32, 3) b'ann/...
    """
    seed = operator.index(seed)
    _check_sampling_arguments(batch_size, training, start_step, shuffle_buffer, images_per_class)
    check("cache", cache, cache in (None, "encoded", "decoded"), 'None, "encoded" or "decoded"')
    check_choice("damaged", damaged, ("raise", "skip"))
    check("host", host, 0 <= host < num_hosts, f"in [0, num_hosts={num_hosts})")
    info = load_info(directory)
    if num_classes is not None and num_classes != info.num_classes:
        raise ValueError(
            f"num_classes must be {info.num_classes}, the number of classes in {directory}. "
            f"Received: num_classes={num_classes}"
        )
    if teacher is not None:
        look_up = teacher_embeddings.make_lookup(teacher, directory)
        if damaged == "skip":  # the index of a record behind a skipped one is unknown
            raise ValueError('damaged must be "raise" with a teacher. Received: damaged="skip"')
    shards = ShardReader(directory, info, skip_damaged=damaged == "skip")
    host_batches = _HostBatches(batch_size, host, num_hosts)
    if cache is None and images_per_class is None:
        inputs = _record_batches(shards, host_batches, training, seed, start_step, shuffle_buffer)
    else:
        inputs = _index_batches(shards, cache, host_batches, training, seed, start_step, images_per_class)

    # AutoGraph would parse the source of these functions. It is kept for an augmentation of the user.
    fetch = tf.autograph.experimental.do_not_convert(inputs.fetch)

    def prepare(step, indices, batch):
        images, labels, origins = fetch(batch)
        is_mirrored = tf.zeros_like(indices, tf.bool)
        if training and augmentation is not None:
            step_seed = tf.stack([tf.constant(seed, tf.int64), step])
            images, is_mirrored = augment.apply_to_part(
                augmentation, images, step_seed, host_batches.host * batch_size, host_batches.global_size
            )
        if teacher is not None:
            labels = labels, look_up(indices, is_mirrored)
        return (images, labels, origins) if names else (images, labels)

    num_rows = batch_size if training else None
    dataset = tf.data.Dataset.from_generator(
        lambda: ((step, *batch) for step, batch in zip(itertools.count(start_step), inputs.batches(), strict=False)),
        output_signature=(
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((num_rows,), tf.int64),
            tf.TensorSpec((num_rows,), inputs.dtype),
        ),
    )
    num_batches = tf.data.INFINITE_CARDINALITY if training else host_batches.num_per_epoch(shards.num_examples)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    # One call that parses and decodes a whole batch is faster than one call per image. Prefetching, and one parallel
    # call more than there are cores, keep all cores busy. With many more calls, the CPU caches would be too small.
    dataset = dataset.prefetch(4).map(prepare, num_parallel_calls=_num_cores() + 1, deterministic=deterministic)
    return dataset.prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class _HostBatches:
    """Selection of the batches of one host from a stream of elements that all hosts share.

    A global batch is the concatenation of the batches of all hosts. Hosts share a smaller last batch evenly.
    """

    batch_size: int
    host: int
    num_hosts: int

    @property
    def global_size(self) -> int:
        return self.batch_size * self.num_hosts

    def part(self, size: int) -> slice:
        """Returns the part of a global batch with `size` elements for this host."""
        return slice(size * self.host // self.num_hosts, size * (self.host + 1) // self.num_hosts)

    def num_per_epoch(self, num_examples: int) -> int:
        """Returns the number of batches per epoch."""
        complete, rest = divmod(num_examples, self.global_size)
        last = self.part(rest)
        return complete + (last.start < last.stop)

    def positions(self, step: int) -> np.ndarray:
        """Returns the positions in the stream of the elements of a step."""
        return step * self.global_size + np.arange(self.global_size)[self.part(self.global_size)]

    def from_stream(self, stream: Iterable) -> Iterator[list]:
        """Iterates over the batches of this host in a stream. The last batch may be smaller."""
        elements = iter(stream)
        while batch := list(itertools.islice(elements, self.global_size)):
            if part := batch[self.part(len(batch))]:
                yield part


@dataclasses.dataclass(frozen=True)
class _BatchInputs:
    """Batches of serialized records or of record indices, and the function that decodes them.

    Attributes:
        batches: function without arguments that returns an iterator over the batches, pairs of the indices of the
            records and of what `fetch` reads. The indices are wrong if damaged records are skipped.
        dtype: type of the elements that `fetch` reads.
        fetch: function that maps the elements of a batch to images, labels and names.
    """

    batches: Callable[[], Iterator]
    dtype: tf.DType
    fetch: Callable


def _record_batches(
    shards: ShardReader, host_batches: _HostBatches, training: bool, seed: int, start_step: int, shuffle_buffer: int
) -> _BatchInputs:
    """Returns batches of serialized records, which are streamed from the files."""

    def records():
        if not training:
            return itertools.chain.from_iterable(map(shards.read_indexed, shards.paths))
        # Batches may span two epochs, so that all images are equally frequent.
        first_epoch, skipped = divmod(start_step * host_batches.global_size, shards.num_examples)
        epochs = (
            training_order.shuffled_epoch(shards.paths, shards.read_indexed, seed, epoch, shuffle_buffer)
            for epoch in itertools.count(first_epoch)
        )
        return itertools.islice(itertools.chain.from_iterable(epochs), skipped, None)

    def batches():
        return (tuple(zip(*batch, strict=True)) for batch in host_batches.from_stream(records()))

    return _BatchInputs(batches, tf.string, functools.partial(_decode, shards.info))


def _index_batches(
    shards: ShardReader,
    cache: str | None,
    host_batches: _HostBatches,
    training: bool,
    seed: int,
    start_step: int,
    images_per_class: int | None,
) -> _BatchInputs:
    """Returns batches of indices of records, which are read from memory or from the files."""
    decode = functools.partial(_decode, shards.info)
    store: ShardReader | EncodedCache | DecodedCache
    if cache == "decoded":
        store = DecodedCache(shards, decode)
        fetch = store.fetch
    else:
        store = EncodedCache(shards) if cache == "encoded" else shards
        fetch = functools.partial(_fetch_and_decode, store, decode)
    num_examples = store.num_examples
    if images_per_class is not None:
        classes_per_batch = host_batches.global_size // images_per_class
        balanced = training_order.ClassBalancedBatches(store.labels, classes_per_batch, images_per_class, seed)

        def indices(step: int) -> np.ndarray:
            return balanced(step)[host_batches.part(host_batches.global_size)]
    else:

        def indices(step: int) -> np.ndarray:
            return training_order.shuffled_indices(num_examples, seed, host_batches.positions(step))

    def batches():
        in_order = host_batches.from_stream(range(num_examples))
        shuffled = map(indices, itertools.count(start_step))
        return ((batch, batch) for batch in (shuffled if training else in_order))

    return _BatchInputs(batches, tf.int64, fetch)


def _fetch_and_decode(store, decode: Callable, indices):
    return decode(store.fetch(indices))


def _decode(info: DatasetInfo, serialized):
    """Parses, checks and decodes serialized records `(n,)`. Returns images, labels and names."""
    encoded, labels, names = schema.parse(serialized)
    is_wrong = tf.logical_or(labels < 0, labels >= info.num_classes)

    def fail():
        bad_names, bad_labels = tf.boolean_mask(names, is_wrong), tf.boolean_mask(labels, is_wrong)
        message = [f"labels must be in [0, {info.num_classes}). Received:", bad_names, "with labels", bad_labels]
        return tf.group(tf.debugging.Assert(False, message))

    with tf.control_dependencies([tf.cond(tf.reduce_any(is_wrong), fail, tf.no_op)]):
        return encoded_images.decode_batch(encoded, names, info.image_size), labels, names


def _num_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)


def _check_sampling_arguments(batch_size, training, start_step, shuffle_buffer, images_per_class) -> None:
    check_integer("batch_size", batch_size, 1)
    check_integer("shuffle_buffer", shuffle_buffer, 1)
    check_integer("start_step", start_step, 0)
    for name, value, default in (("start_step", start_step, 0), ("images_per_class", images_per_class, None)):
        if value != default and not training:
            raise ValueError(f"{name} requires training=True. Received: {name}={value}, training=False")
    if images_per_class is not None:
        is_divisor = images_per_class >= 1 and batch_size % images_per_class == 0
        check("images_per_class", images_per_class, is_divisor, f"a divisor of batch_size={batch_size}")
