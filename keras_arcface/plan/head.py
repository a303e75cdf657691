"""Estimates of the memory, communication and time of a classification head, before training.

The estimates include only the head: class centers, their gradient, the slots of the optimizer, the temporary memory of
a step, and the bytes that a step sends between devices. `--other-memory` reserves memory for the network.
"""

import dataclasses
import math
from collections.abc import Iterator

from keras_arcface import _arguments

_FLOAT_BYTES = 4

# Temporary memory of an SGD update in Keras as a multiple of the weight, run by TensorFlow or compiled by XLA.
UPDATE_TEMPORARIES = {"tensorflow": 2.0, "xla": 0.125}

# Peak memory of a loss that computes all logits at once. The first factor multiplies the size of the logits (one-hot
# labels, cosines, angles, logits, softmax, gradients). The second factor multiplies the size of the centers (normalized
# centers, casts, intermediate gradients), in addition to centers, gradient and slots. Both are fitted to the memory
# that arcface_torch published (tests/plan/test_head.py).
FULL_LOGITS_COPIES, FULL_LOGITS_CENTERS = 6.7, 4.0

# Largest number of classes in a single chunk with cached cosines.
MAX_SINGLE_CHUNK = 2**17


@dataclasses.dataclass(frozen=True)
class Setup:
    """Configuration of the head and the hardware for an estimate.

    The speeds are those that a training reaches, which are below those of a data sheet.

    Args:
        classes: number of classes.
        batch: number of images per step, on all devices together.
        dim: dimension of the embeddings.
        devices: number of devices.
        sub_centers: number of centers per class.
        slots: number of optimizer slots per weight, 1 for SGD with momentum and 2 for Adam.
        sample_rate: fraction of the classes that a step with sampling uses, in (0, 1].
        max_cache_bytes: argument `max_cache_bytes` of the head, in bytes.
        chunk_bytes: maximum size of the cosines of a chunk in bytes, 32 MiB on a CPU.
        chunk_classes: maximum number of classes in a chunk, 4096 on a CPU.
        update: implementation of the optimizer update, "tensorflow" or "xla".
        tflops: speed of matrix products, in TFLOP/s per device.
        memory_bandwidth: memory bandwidth of a device, in bytes per second.
        link_bandwidth: bandwidth at which a device sends, and at the same time receives, in bytes per second.

    Examples:
        Ten million classes on eight devices:

        >>> setup = Setup(classes=10_000_000, batch=1024, devices=8)
        >>> print(fastest(estimate(setup), memory=80 * 2**30).name)
        chunked, sampled (0.1), class parallel
    """

    classes: int
    batch: int
    dim: int = 512
    devices: int = 1
    sub_centers: int = 1
    slots: int = 1
    sample_rate: float = 0.1
    max_cache_bytes: float = 2**28
    chunk_bytes: float = 2**27
    chunk_classes: int = 2**15
    update: str = "xla"
    tflops: float = 50.0
    memory_bandwidth: float = 1.5e12
    link_bandwidth: float = 5e10


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimate of memory, communication and time for one training method. All sizes are in bytes per device.

    Attributes:
        name: name of the method, such as "chunked, class parallel".
        weights: size of the class centers.
        gradient: size of the gradient of the centers.
        slots: size of the slots of the optimizer.
        update: temporary memory of the optimizer update.
        activations: temporary memory of the loss.
        sent: number of bytes that a device sends in a step.
        seconds: time of a step.

    Examples:
        >>> found = estimate(Setup(classes=1_000_000, batch=1024))[1]
        >>> print(f"{found.name}: {found.weights / 2**30:.1f} of {found.memory / 2**30:.1f} GiB are class centers")
        chunked: 1.9 of 6.3 GiB are class centers
    """

    name: str
    weights: float
    gradient: float
    slots: float
    update: float
    activations: float
    sent: float
    seconds: float

    @property
    def memory(self) -> float:
        """Peak memory in bytes. The temporary memory of the loss is released before the update."""
        return self.weights + self.gradient + self.slots + max(self.update, self.activations)


def estimate(setup: Setup) -> list[Estimate]:
    """Estimates memory, communication and time of a head for all training methods.

    "full logits" computes the logits of all classes at once, as most implementations do. "chunked" is the loss of this
    package. "sampled" uses a random sample of the classes in each step. "class parallel" splits the centers over the
    devices. Without it, each device has all centers and a part of the batch.

    Args:
        setup: configuration of the head and the hardware.

    Returns:
        A list with one `Estimate` per method. Methods with "class parallel" require several devices.

    Raises:
        ValueError: if a number of the setup is out of its range.

    Examples:
        >>> for found in estimate(Setup(classes=1_000_000, batch=1024)):
        ...     print(f"{found.name}: {found.memory / 2**30:.1f} GiB")
        full logits: 38.9 GiB
        chunked: 6.3 GiB
        chunked, sampled (0.1): 5.0 GiB
    """
    for name in ("classes", "batch", "dim", "devices", "sub_centers"):
        _arguments.check_integer(name, getattr(setup, name), minimum=1)
    _arguments.check_integer("slots", setup.slots, minimum=0)
    _arguments.check_number("sample_rate", setup.sample_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
    _arguments.check_number(
        "max_cache_bytes", setup.max_cache_bytes, lambda size: 0 <= size < math.inf, "finite and at least 0"
    )
    for name in ("chunk_bytes", "chunk_classes", "tflops", "memory_bandwidth", "link_bandwidth"):
        _arguments.check_number(name, getattr(setup, name), lambda value: 0 < value < math.inf, "finite and above 0")
    _arguments.check_choice("update", setup.update, UPDATE_TEMPORARIES)

    batch_share, shards = math.ceil(setup.batch / setup.devices), setup.devices
    sample = max(math.ceil(setup.sample_rate * setup.classes), min(setup.batch, setup.classes))
    sampled = f"sampled ({setup.sample_rate:g})"
    found = [
        _estimate(setup, "full logits", batch_share, setup.classes),
        _estimate(setup, "chunked", batch_share, setup.classes),
        _estimate(setup, f"chunked, {sampled}", batch_share, setup.classes, sample),
    ]
    if shards > 1:
        shard, sample = math.ceil(setup.classes / shards), math.ceil(sample / shards)
        found += [
            _estimate(setup, "full logits, class parallel", setup.batch, shard),
            _estimate(setup, "chunked, class parallel", setup.batch, shard),
            _estimate(setup, f"full logits, {sampled}, class parallel", setup.batch, shard, sample),
            _estimate(setup, f"chunked, {sampled}, class parallel", setup.batch, shard, sample),
        ]
    return found


def fastest(estimates: list[Estimate], memory: float) -> Estimate | None:
    """Returns the fastest chunked method that fits in the memory of a device.

    Args:
        estimates: result of `estimate`.
        memory: memory of a device for the head, in bytes.

    Returns:
        The `Estimate` with the shortest step among those whose peak memory is at most `memory`, or None if all need
        more.

    Examples:
        >>> estimates = estimate(Setup(classes=1_000_000, batch=1024))
        >>> fastest(estimates, memory=24 * 2**30).name
        'chunked, sampled (0.1)'
        >>> fastest(estimates, memory=2**30) is None
        True
    """
    fitting = [found for found in estimates if found.memory <= memory and not _has_full_logits(found.name)]
    return min(fitting, key=lambda found: found.seconds, default=None)


def _has_full_logits(name):
    return name.startswith("full logits")


def _estimate(setup, name, batch, classes, sample=None):
    """Returns the estimate for a device with `batch` images and `classes` centers.

    A step uses a sample of `sample` classes, or all classes if `sample` is None.
    """
    used = sample or classes
    weights, rows = _center_bytes(setup, classes), _center_bytes(setup, used)
    if sample:
        weights += rows
    if _has_full_logits(name):
        logits = batch * used * setup.sub_centers * _FLOAT_BYTES
        activations, products = FULL_LOGITS_COPIES * logits + FULL_LOGITS_CENTERS * rows, 3
        moved = 4 * FULL_LOGITS_COPIES * logits
        if setup.devices > 1 and classes == setup.classes:
            activations += rows  # the gradient is copied into one array before it is sent
    else:
        activations, are_cached = _chunked_activations(setup, batch, used)
        products, moved = 3 if are_cached else 4, 0
    # The update reads and writes centers, gradient and slots. A sample is also gathered and scattered.
    moved += (5 + 4 * setup.slots if sample else 3 + 2 * setup.slots) * rows
    flops = 2 * products * batch * used * setup.sub_centers * setup.dim
    sent = _sent_bytes(setup, classes, sample, rows)
    return Estimate(
        name,
        weights,
        gradient=rows,
        slots=setup.slots * weights,
        update=UPDATE_TEMPORARIES[setup.update] * rows + (rows if sample else 0),
        activations=activations,
        sent=sent,
        seconds=flops / (setup.tflops * 1e12) + moved / setup.memory_bandwidth + sent / setup.link_bandwidth,
    )


def _center_bytes(setup, classes):
    return classes * setup.sub_centers * setup.dim * _FLOAT_BYTES


def _chunked_activations(setup, batch, classes):
    """Returns the temporary memory of the chunked loss, and whether cosines are cached for the backward pass.

    The factors are fitted to benchmarks/results/head_step_2_cores.md.
    """
    cosines = batch * classes * setup.sub_centers * _FLOAT_BYTES
    embeddings = 6 * batch * setup.dim * _FLOAT_BYTES
    are_cached = cosines <= setup.max_cache_bytes
    if are_cached and classes <= MAX_SINGLE_CHUNK:
        return 2.3 * cosines + 1.4 * _center_bytes(setup, classes) + embeddings, are_cached
    fitting = min(setup.chunk_bytes / (batch * setup.sub_centers * _FLOAT_BYTES), setup.chunk_classes)
    size = min(classes, max(1024, fitting))
    chunk = 3 * size * setup.sub_centers * (batch + setup.dim) * _FLOAT_BYTES
    return (cosines if are_cached else 0) + chunk + embeddings, are_cached


def _sent_bytes(setup, classes, sample, rows):
    others = (setup.devices - 1) / setup.devices
    if classes == setup.classes:  # a ring all-reduce sums the gradients of all classes
        return 2 * others * rows
    # All devices exchange embeddings and their gradients, and sum four numbers per example.
    sent = 2 * others * setup.batch * setup.dim * _FLOAT_BYTES + 2 * others * 4 * setup.batch * _FLOAT_BYTES
    if sample:
        sent += others * setup.devices * sample * _FLOAT_BYTES  # the ids of the sampled classes
    return sent


def format_table(estimates: list[Estimate], memory: float | None = None) -> str:
    """Formats estimates as a table in GiB, MiB and ms.

    Args:
        estimates: estimates to format, at least one.
        memory: memory of a device in bytes. Estimates with a larger peak memory are marked. None marks none.

    Returns:
        A heading and one line per estimate, without a line break at the end.

    Raises:
        ValueError: if `estimates` is empty.

    Examples:
        >>> print(format_table(estimate(Setup(classes=1_000_000, batch=1024)), memory=24 * 2**30))
                                    GiB  weights  gradient   slots    step   sent, MiB       ms
        full logits               38.91     1.91      1.91    1.91   33.19         0.0    142.9  does not fit
        chunked                    6.30     1.91      1.91    1.91    0.57         0.0     90.7
        chunked, sampled (0.1)     4.96     2.10      0.19    2.10    0.57         0.0      9.6
    """
    width = max(len(found.name) for found in estimates)
    head = f"{'':{width}}{'GiB':>9}{'weights':>9}{'gradient':>10}{'slots':>8}{'step':>8}{'sent, MiB':>12}{'ms':>9}"
    return "\n".join([head, *_table_rows(estimates, width, memory)])


def _table_rows(estimates, width, memory) -> Iterator[str]:
    for found in estimates:
        parts = (found.memory, found.weights, found.gradient, found.slots, max(found.update, found.activations))
        gib = [part / 2**30 for part in parts]
        row = f"{found.name:{width}}{gib[0]:9.2f}{gib[1]:9.2f}{gib[2]:10.2f}{gib[3]:8.2f}{gib[4]:8.2f}"
        row += f"{found.sent / 2**20:12.1f}{1e3 * found.seconds:9.1f}"
        yield f"{row}  does not fit" if memory is not None and found.memory > memory else row
