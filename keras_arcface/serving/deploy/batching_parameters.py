"""Batching parameters of a server."""

import dataclasses
import itertools
import operator
import os
from collections.abc import Iterable

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer

DEVICES = ("cpu", "gpu")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# Defaults for an unknown load. On a CPU the timeout is 0: requests collect while all threads are busy, and waiting
# longer gains little. On a GPU waiting pays off, but its memory holds the activations of a few batches only, so that
# one batch is computed while the next ones are decoded.
_GPU_TIMEOUT, _GPU_THREADS = 2000, 4
_REQUESTS_PER_THREAD = 4  # default of the server, per core
_ENQUEUED_BATCHES_PER_THREAD = 4  # limits the waiting time to about four times the computing time


@dataclasses.dataclass(frozen=True)
class Batching:
    """Batching parameters of a server. Each model, version and signature has its own queue.

    Args:
        batch_sizes: sizes of the computed batches, ascending. A batch is padded to the next size. A request with more
            images than the last size is refused; if it is a warm-up request, the server does not load the model.
        timeout_micros: time that the first request of a batch waits for others while a thread is free, in microseconds.
        threads: number of batches that are computed at the same time.
        enqueued_batches: number of full batches that may wait in a queue. Further requests fail with UNAVAILABLE.

    Raises:
        ValueError: if the sizes do not ascend, or a number is out of range.
    """

    batch_sizes: tuple[int, ...]
    timeout_micros: int
    threads: int
    enqueued_batches: int

    def __post_init__(self):
        sizes = tuple(operator.index(size) for size in self.batch_sizes)
        ascending = bool(sizes) and sizes[0] >= 1 and all(a < b for a, b in itertools.pairwise(sizes))
        check("batch_sizes", self.batch_sizes, ascending, "ascending integers of at least 1")
        object.__setattr__(self, "batch_sizes", sizes)
        for name, minimum in (("timeout_micros", 0), ("threads", 1), ("enqueued_batches", 1)):
            check_integer(name, getattr(self, name), minimum)

    @classmethod
    def for_device(
        cls, device: str = "cpu", cores: int | None = None, batch_sizes: Iterable[int] = BATCH_SIZES
    ) -> "Batching":
        """Returns parameters to start with. Measurements under the real load may lead to better ones.

        Args:
            device: "cpu" or "gpu", the device that computes the model.
            cores: number of cores of the server's host. None: those of this host.
            batch_sizes: batch sizes of the model's warm-up requests, so that the server knows every size from the
                start.
        """
        check_choice("device", device, DEVICES)
        if cores is None:
            cores = os.cpu_count() or 1
        check_integer("cores", cores, 1)
        threads = cores if device == "cpu" else min(cores, _GPU_THREADS)
        return cls(
            batch_sizes=tuple(batch_sizes),
            timeout_micros=0 if device == "cpu" else _GPU_TIMEOUT,
            threads=threads,
            enqueued_batches=_ENQUEUED_BATCHES_PER_THREAD * threads,
        )

    def to_text_proto(self) -> list[str]:
        """Returns the lines of the protocol buffer BatchingParameters."""
        values = {
            "max_batch_size": self.batch_sizes[-1],
            "batch_timeout_micros": self.timeout_micros,
            "max_enqueued_batches": self.enqueued_batches,
            "num_batch_threads": self.threads,
        }
        lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
        return [*lines, *(f"allowed_batch_sizes: {size}" for size in self.batch_sizes)]

    def concurrent_requests(self) -> int:
        """Returns the number of requests that the server must accept at once to fill its largest batches."""
        return max(2 * self.batch_sizes[-1], _REQUESTS_PER_THREAD * self.threads)
