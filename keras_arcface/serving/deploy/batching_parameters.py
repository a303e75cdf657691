"""How a server gathers requests into batches."""

import dataclasses
import itertools
import operator
import os

DEVICES = ("cpu", "gpu")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# Where nothing is known of the load. On a CPU waiting for company gains little: while all threads are busy requests
# gather by themselves, so the timeout is 0. A GPU is worth waiting for, and has room for the activations of a few
# batches only: one is computed while the next are decoded.
_GPU_TIMEOUT, _GPU_THREADS = 2000, 4
_REQUESTS_PER_THREAD = 4  # the server's own default, for each core
_BATCHES_IN_THE_QUEUE = 4  # for each thread: how much longer a request may wait than it takes


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a server gathers requests into batches; one queue for each model, version and signature.

    Args:
        batch_sizes: the sizes in which batches are computed, ascending; what is gathered is filled up to the next of
            them. A request of more images than the last is refused, one of the warm-up too, and with it the model.
        timeout_micros: for how long the first request of a batch waits for others, in microseconds, while there is a
            thread to compute it.
        threads: how many batches are computed at the same time.
        enqueued_batches: how many full batches may wait in a queue; a request beyond that is refused as UNAVAILABLE.

    Raises:
        ValueError: if the sizes do not ascend, or a number is out of range.
    """

    batch_sizes: tuple[int, ...]
    timeout_micros: int
    threads: int
    enqueued_batches: int

    def __post_init__(self):
        sizes = tuple(operator.index(size) for size in self.batch_sizes)
        if not sizes or sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
            raise ValueError(f"batch_sizes must ascend, from 1 or more. Received: batch_sizes={self.batch_sizes}")
        object.__setattr__(self, "batch_sizes", sizes)
        for name, smallest in (("timeout_micros", 0), ("threads", 1), ("enqueued_batches", 1)):
            if operator.index(getattr(self, name)) < smallest:
                raise ValueError(f"{name} must be at least {smallest}. Received: {name}={getattr(self, name)}")

    @classmethod
    def for_device(cls, device: str = "cpu", cores: int | None = None, batch_sizes=BATCH_SIZES) -> "Batching":
        """Values to start with, which the load to be served may well improve on.

        Args:
            device: "cpu" or "gpu", on which the model is computed.
            cores: of the host; None for as many as this one has.
            batch_sizes: those that the model was warmed up with, so that no request meets a size for the first time.
        """
        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}. Received: device={device!r}")
        cores = (os.cpu_count() or 1) if cores is None else operator.index(cores)
        if cores < 1:
            raise ValueError(f"cores must be at least 1. Received: cores={cores}")
        threads = cores if device == "cpu" else min(cores, _GPU_THREADS)
        return cls(
            batch_sizes=batch_sizes,
            timeout_micros=0 if device == "cpu" else _GPU_TIMEOUT,
            threads=threads,
            enqueued_batches=_BATCHES_IN_THE_QUEUE * threads,
        )

    def lines(self) -> list[str]:
        """BatchingParameters as text."""
        values = {
            "max_batch_size": self.batch_sizes[-1],
            "batch_timeout_micros": self.timeout_micros,
            "max_enqueued_batches": self.enqueued_batches,
            "num_batch_threads": self.threads,
        }
        lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
        return [*lines, *(f"allowed_batch_sizes: {size}" for size in self.batch_sizes)]

    def requests_at_once(self) -> int:
        """How many requests the server must take at once, for its largest batches to fill up with single images."""
        return max(2 * self.batch_sizes[-1], _REQUESTS_PER_THREAD * self.threads)
