"""Reads a dataset directory back as batches."""

from pathlib import Path

import tensorflow as tf

from keras_arcface.data import augment
from keras_arcface.data import images
from keras_arcface.data import schema
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info


def load_dataset(
    directory,
    batch_size: int,
    training: bool = False,
    seed: int = 0,
    start_step: int = 0,
    num_classes: int | None = None,
    augmentation=augment.flip,
    shuffle_buffer: int = 10_000,
) -> tf.data.Dataset:
    """Gives batches of `(images, labels)`: uint8 `(batch, height, width, 3)` in 0..255 and int64 `(batch,)`.

    For training the dataset is endless and reads every image once per pass, in an order that differs from pass to
    pass; give `fit` a `steps_per_epoch`. What a step sees depends on nothing but `(seed, step)`, so a run that stopped
    after N steps goes on with `start_step=N`. Otherwise it is one pass in the order of the files, and its last batch
    may be smaller.

    Args:
        directory: made by `write_dataset`.
        batch_size: images per batch, over all replicas.
        training: whether to shuffle, augment and repeat.
        seed: of order and augmentation.
        start_step: the first batch to give, counted from 0; only for training.
        num_classes: what the model expects, to have it compared with the data.
        augmentation: function `(images, seed)` -> images, for training; None for none.
        shuffle_buffer: how many encoded images are held to draw from. The files are shuffled already.

    Raises:
        FileNotFoundError: if the directory holds no dataset.
        ValueError: if it is damaged, if its classes are not `num_classes`, or for a `start_step` without training.

    While reading, a label outside `[0, num_classes)`, an image of another size and a damaged record raise
    `tf.errors.InvalidArgumentError` or `tf.errors.DataLossError`.
    """
    info = load_info(directory)
    if num_classes is not None and num_classes != info.num_classes:
        raise ValueError(
            f"{directory} holds {info.num_classes} classes. Expected: num_classes={num_classes}, as the model has"
        )
    if start_step and not training:
        raise ValueError(f"start_step goes with training=True. Received: start_step={start_step}, training=False")
    files = [str(Path(directory) / shard.file) for shard in info.shards]
    records = _endless(files, info, seed, start_step * batch_size, shuffle_buffer) if training else _one_pass(files)

    def decode(step, serialized):
        encoded, labels, names = schema.parse(serialized)
        with tf.control_dependencies([_check_labels(labels, names, info)]):
            pixels = images.decode_batch(encoded, names, info.image_size)
        if training and augmentation is not None:
            pixels = augmentation(pixels, tf.stack([tf.constant(seed, tf.int64), step]))
        return pixels, labels

    return (
        # Batching comes before parsing and decoding: one call for a batch costs less than one for every image.
        records.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE, drop_remainder=training)
        .enumerate(start_step)
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _one_pass(files: list[str]) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(files)


def _endless(files: list[str], info: DatasetInfo, seed: int, skip: int, shuffle_buffer: int) -> tf.data.Dataset:
    """Serialised records, pass after pass; batches may span two passes, so every image counts alike."""

    def one_epoch(epoch):
        def stream(purpose):  # a seed of its own for each shuffle of each pass
            return tf.random.stateless_uniform(
                (), tf.stack([tf.constant(seed, tf.int64), 2 * epoch + purpose]), 0, tf.int64.max, tf.int64
            )

        tf.random.set_seed(1)  # of this function's graph only: Dataset.shuffle mixes in the program's seed otherwise
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .shuffle(len(files), seed=stream(0), reshuffle_each_iteration=False)
            .interleave(tf.data.TFRecordDataset, cycle_length=min(16, len(files)))
            .shuffle(min(shuffle_buffer, info.num_examples), seed=stream(1), reshuffle_each_iteration=False)
        )

    first_epoch, skipped = divmod(skip, info.num_examples)
    endless = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(skipped)
    return endless.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def _check_labels(labels, names, info: DatasetInfo):
    wrong = tf.logical_or(labels < 0, labels >= info.num_classes)
    return tf.debugging.Assert(
        tf.logical_not(tf.reduce_any(wrong)),
        [
            f"labels outside [0, {info.num_classes}) in the records",
            tf.boolean_mask(names, wrong),
            "with the labels",
            tf.boolean_mask(labels, wrong),
        ],
    )
