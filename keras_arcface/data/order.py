"""Which records a step sees: a function of the seed and the step, and of nothing else."""

import functools
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

_FILES, _RECORDS, _CLASSES, _IMAGES = range(4)  # what a random number is for
_FILES_AT_ONCE = 16


def streamed_pass(
    files: Sequence, read: Callable[..., Iterable[bytes]], seed: int, number: int, shuffle_buffer: int
) -> Iterator[bytes]:
    """All records of all files once: files in another order in every pass, 16 in turns, drawn from a buffer.

    Args:
        files: anything that `read` takes.
        read: gives the records of a file, in order.
        seed: of the order.
        number: of the pass, from 0 on.
        shuffle_buffer: how many records are held to draw from.
    """
    order = _generator(seed, number, _FILES).permutation(len(files))
    records = _in_turns((read(files[index]) for index in order), min(_FILES_AT_ONCE, len(files)))
    return _drawn_from_buffer(records, _generator(seed, number, _RECORDS), shuffle_buffer)


def shuffled_rows(num_examples: int, seed: int, rows: np.ndarray) -> np.ndarray:
    """The records at some places of an endless stream that gives each of `num_examples` once per pass.

    Args:
        num_examples: how many records there are; all can be reached at random.
        seed: of the order.
        rows: `(n,)` places in the stream, ascending.

    Returns:
        `(n,)` numbers of records.
    """
    passes, places = np.divmod(rows, num_examples)
    return np.concatenate(
        [_permutation(num_examples, seed, number, _RECORDS)[places[passes == number]] for number in np.unique(passes)]
    )


class ClassBalance:
    """Batches of P classes with K images of each, for losses that compare images within a batch.

    A pass takes every class once, in another order in every pass, but for the fewer than P at its end. Of a class the
    K images differ while it has that many, and repeat as evenly as they can where it has fewer.

    Args:
        labels: `(num_examples,)` label of every record.
        classes_per_batch: P.
        images_per_class: K.
        seed: of classes and images.

    Raises:
        ValueError: if there are fewer than P classes.
    """

    def __init__(self, labels: np.ndarray, classes_per_batch: int, images_per_class: int, seed: int):
        self._records = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(labels[self._records], return_index=True, return_counts=True)
        if len(self._counts) < classes_per_batch:
            raise ValueError(
                f"a batch of {classes_per_batch} classes, with {images_per_class} images of each, does not fit: only "
                f"{len(self._counts)} classes have images"
            )
        self._classes_per_batch, self._images_per_class, self._seed = classes_per_batch, images_per_class, seed

    def __call__(self, step: int) -> np.ndarray:
        """Numbers of the records of a step, class after class: `(P * K,)`."""
        number, place = divmod(step, len(self._counts) // self._classes_per_batch)
        start = place * self._classes_per_batch
        classes = _permutation(len(self._counts), self._seed, number, _CLASSES)[start : start + self._classes_per_batch]
        generator = _generator(self._seed, step, _IMAGES)
        chosen = []
        for start, count in zip(self._starts[classes].tolist(), self._counts[classes].tolist(), strict=True):
            rounds, rest = divmod(self._images_per_class, count)
            picks = np.append(np.tile(np.arange(count), rounds), generator.choice(count, rest, replace=False))
            chosen.append(self._records[start + picks])
        return np.concatenate(chosen)


def _generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, number, purpose])


@functools.lru_cache(maxsize=4)
def _permutation(length: int, seed: int, number: int, purpose: int) -> np.ndarray:
    return _generator(seed, number, purpose).permutation(length)


def _in_turns(sequences: Iterator[Iterable[bytes]], at_once: int) -> Iterator[bytes]:
    """One record of each sequence in turn; where one ends, the next takes its place."""
    active = [iter(sequence) for sequence in itertools.islice(sequences, at_once)]
    while active:
        for place, sequence in enumerate(active):
            for record in sequence:
                yield record
                break
            else:
                active[place] = None
                for following in map(iter, sequences):
                    first = list(itertools.islice(following, 1))
                    if first:
                        active[place] = following
                        yield from first
                        break
        active = [sequence for sequence in active if sequence is not None]


def _drawn_from_buffer(records: Iterator[bytes], generator: np.random.Generator, size: int) -> Iterator[bytes]:
    buffer = list(itertools.islice(records, size))
    while True:
        block = list(itertools.islice(records, 1024))
        if not block:
            break
        for place, record in zip(generator.integers(len(buffer), size=len(block)).tolist(), block, strict=True):
            yield buffer[place]
            buffer[place] = record
    for place in generator.permutation(len(buffer)).tolist():
        yield buffer[place]
