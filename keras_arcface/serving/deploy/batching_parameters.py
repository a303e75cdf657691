"""Batching parameters of a TensorFlow Serving server."""

import dataclasses
import itertools
import operator
import os
from collections.abc import Iterable

from keras_arcface._arguments import check
from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._choices import BATCH_SIZES
from keras_arcface._choices import DEVICES

# Defaults for an unknown load. On a CPU the timeout is 0: requests collect while all threads are busy, and a longer
# wait hardly improves the throughput. On a GPU a wait improves it. A few threads suffice to decode images while another
# batch is computed, and the activations of more batches may exceed the GPU memory.
_GPU_TIMEOUT, _GPU_THREADS = 2000, 4
_REQUESTS_PER_THREAD = 4  # default of the server
_ENQUEUED_BATCHES_PER_THREAD = 4  # limits the waiting time to about four times the computing time


@dataclasses.dataclass(frozen=True)
class Batching:
    """Batching parameters of a server, which has one queue for each model, version and signature.

    `Batching.for_device` returns defaults; `write_configuration` writes them to the server's files.

    Args:
        batch_sizes: allowed batch sizes, in images and in ascending order. The server pads each batch to the next size.
            It refuses requests with more images than the last size, and does not load a model with such a warm-up
            request.
        timeout_micros: time in microseconds that the first request of a batch waits for other requests while a thread
            is free.
        threads: number of batches that are computed at the same time.
        enqueued_batches: maximum number of full batches in a queue. Further requests fail with UNAVAILABLE.

    Raises:
        TypeError: if a batch size is not an integer.
        ValueError: if the sizes are not in ascending order, or a number is out of range.

    Examples:
        >>> Batching(batch_sizes=(1, 8, 32), timeout_micros=1000, threads=4, enqueued_batches=16)
        Batching(batch_sizes=(1, 8, 32), timeout_micros=1000, threads=4, enqueued_batches=16)

        Defaults of a server with 8 CPU cores, with fewer batch sizes:

        >>> Batching.for_device("cpu", cores=8, batch_sizes=(1, 8, 32))
        Batching(batch_sizes=(1, 8, 32), timeout_micros=0, threads=8, enqueued_batches=32)
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
        """Returns default parameters for a device. Tune them under the real load.

        Args:
            device: device that computes the model, "cpu" or "gpu".
            cores: number of CPU cores of the server's host. None: number of cores of this host.
            batch_sizes: allowed batch sizes. Use the batch sizes of the model's warm-up requests, so that the first
                real request of each size is fast.

        Returns:
            The parameters.

        Raises:
            TypeError: if a batch size is not an integer.
            ValueError: if the device is unknown, `cores` is below 1, or the sizes are not in ascending order.
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
        """Returns the number of concurrent requests that the server must accept to fill its largest batches."""
        return max(2 * self.batch_sizes[-1], _REQUESTS_PER_THREAD * self.threads)
