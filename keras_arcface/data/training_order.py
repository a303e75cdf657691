"""Random orders of training records, as functions of the seed and the step.

An order can be continued after an interruption if the dataset and the arguments of `load_dataset` are unchanged.
"""

import functools
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# The purpose of a random number is part of its seed, so that the orders of files, records, classes and images are
# independent.
_FILES, _RECORDS, _CLASSES, _IMAGES = range(4)
_INTERLEAVED_FILES = 16
_BLOCK_SIZE = 1024  # records that are drawn from the shuffle buffer with one call of the generator


def shuffled_epoch(
    files: Sequence, read: Callable[..., Iterable[T]], seed: int, epoch: int, shuffle_buffer: int
) -> Iterator[T]:
    """Iterates once over the records of all files in a random order.

    The files are permuted, 16 of them are interleaved, and the records are drawn from a shuffle buffer.

    Args:
        files: files with the records, passed to `read`.
        read: function that returns the records of a file, in order.
        seed: seed of the order.
        epoch: index of the epoch. Every epoch has another order.
        shuffle_buffer: number of records in the buffer.

    Returns:
        An iterator over the records.
    """
    order = _generator(seed, epoch, _FILES).permutation(len(files))
    records = _interleave((read(files[index]) for index in order), min(_INTERLEAVED_FILES, len(files)))
    return _shuffle_with_buffer(records, _generator(seed, epoch, _RECORDS), shuffle_buffer)


def shuffled_indices(num_examples: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Returns the indices of the records at given positions of an endless stream of random epochs.

    Args:
        num_examples: number of records. Every epoch is a permutation of all records.
        seed: seed of the order.
        positions: positions in the stream, in ascending order, `(n,)` integers.

    Returns:
        Indices of the records, `(n,)` array.
    """
    epochs, offsets = np.divmod(positions, num_examples)
    return np.concatenate(
        [_permutation(num_examples, seed, epoch, _RECORDS)[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
    )


class ClassBalancedBatches:
    """Sampler of batches of P classes with K images each, for losses that compare images within a batch.

    An epoch contains every class once, in an order that differs per epoch, except for a remainder of fewer than P
    classes. The K images are distinct if their class has at least K images. Otherwise the numbers of repetitions of its
    images differ by at most 1.

    Args:
        labels: label of every record, `(num_examples,)` array.
        classes_per_batch: number P of classes per batch.
        images_per_class: number K of images per class.
        seed: seed of the choice of classes and images.

    Raises:
        ValueError: if the dataset has fewer than P classes.
    """

    def __init__(self, labels: np.ndarray, classes_per_batch: int, images_per_class: int, seed: int):
        self._records = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(labels[self._records], return_index=True, return_counts=True)
        if len(self._counts) < classes_per_batch:
            raise ValueError(
                f"The dataset must have at least {classes_per_batch} classes for batches with {images_per_class} "
                f"images per class. Received: {len(self._counts)} classes with images"
            )
        self._classes_per_batch, self._images_per_class, self._seed = classes_per_batch, images_per_class, seed

    def __call__(self, step: int) -> np.ndarray:
        """Returns the indices `(P * K,)` of the records in the batch of a step, grouped by class."""
        epoch, batch = divmod(step, len(self._counts) // self._classes_per_batch)
        first = batch * self._classes_per_batch
        classes = _permutation(len(self._counts), self._seed, epoch, _CLASSES)[first : first + self._classes_per_batch]
        generator = _generator(self._seed, step, _IMAGES)
        chosen = []
        for start, count in zip(self._starts[classes].tolist(), self._counts[classes].tolist(), strict=True):
            repeats, rest = divmod(self._images_per_class, count)
            images = np.append(np.tile(np.arange(count), repeats), generator.choice(count, rest, replace=False))
            chosen.append(self._records[start + images])
        return np.concatenate(chosen)


def _generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, number, purpose])


@functools.lru_cache(maxsize=4)
def _permutation(length: int, seed: int, number: int, purpose: int) -> np.ndarray:
    return _generator(seed, number, purpose).permutation(length)


def _interleave(sequences: Iterator[Iterable[T]], num_open: int) -> Iterator[T]:
    """Yields one record of each open sequence in turn. When a sequence ends, the next non-empty one replaces it."""
    active = [iter(sequence) for sequence in itertools.islice(sequences, num_open)]
    while active:
        ended = set()
        for position, sequence in enumerate(active):
            for record in sequence:
                yield record
                break
            else:
                ended.add(position)
                for replacement in map(iter, sequences):
                    first = list(itertools.islice(replacement, 1))
                    if first:
                        active[position] = replacement
                        ended.remove(position)
                        yield from first
                        break
        active = [sequence for position, sequence in enumerate(active) if position not in ended]


def _shuffle_with_buffer(records: Iterator[T], generator: np.random.Generator, size: int) -> Iterator[T]:
    buffer = list(itertools.islice(records, size))
    while True:
        block = list(itertools.islice(records, _BLOCK_SIZE))
        if not block:
            break
        for position, record in zip(generator.integers(len(buffer), size=len(block)).tolist(), block, strict=True):
            yield buffer[position]
            buffer[position] = record
    for position in generator.permutation(len(buffer)).tolist():
        yield buffer[position]
