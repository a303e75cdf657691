"""What fits where, before anything is bought or started: the memory, the wires and the time of a head.

    python -m keras_arcface.plan --classes 10e6 --dim 512 --batch 1024 --devices 8 --gpu-memory 80G
    python -m keras_arcface.plan --classes 10e6 --batch 1024 --devices 8 --sample-rate 0.1

The figures are of the head alone: centers, their gradient and the optimizer's slots, what a step needs beside them, and
what crosses the wires for it. The network before it is the same whatever the head; `--other-memory` makes room for it.
"""

import argparse
import dataclasses
import math
import sys

# Bytes of a number.
_FLOAT = 4

# What a step of Keras' SGD holds for a moment, as parts of the weight: TensorFlow's, and where XLA compiles the update.
UPDATE_TEMPORARIES = {"tensorflow": 2.0, "xla": 0.125}

# What the usual way holds at its worst moment: copies of the logits (one-hot labels, cosines, angles, logits, their
# softmax, gradients), and arrays of the centers' size beside centers, gradient and slots (normalized centers, casts,
# gradients on their way). These numbers explain the published memory of arcface_torch, tests/test_plan.py.
USUAL_LOGITS, USUAL_ROWS = 6.7, 4.0

# Where cosines are kept, up to so many classes are one block.
LARGEST_ONLY_BLOCK = 2**17


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be trained, and on what.

    Attributes:
        classes: number of classes.
        batch: images of a step, on all devices together.
        dim: length of an embedding.
        devices: how many share the work.
        sub_centers: centers of a class.
        slots: what the optimizer keeps for a weight: 1 for SGD with momentum, 2 for Adam.
        sample_rate: share of the classes that a sampled step looks at.
        logits_memory: the head's `logits_memory`, in bytes.
        block_bytes: how large the cosines of a block are at most. On a CPU 32 MiB.
        block_classes: how many classes a block has at most. On a CPU 4096.
        update: "tensorflow" or "xla", how the optimizer is run.
        tflops: of matrix products, for one device.
        memory_bandwidth: bytes a second of one device.
        link_bandwidth: bytes a second that a device sends, and receives.
    """

    classes: int
    batch: int
    dim: int = 512
    devices: int = 1
    sub_centers: int = 1
    slots: int = 1
    sample_rate: float = 0.1
    logits_memory: float = 2**28
    block_bytes: float = 2**27
    block_classes: int = 2**15
    update: str = "xla"
    tflops: float = 50.0
    memory_bandwidth: float = 1.5e12
    link_bandwidth: float = 5e10


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to train a head: bytes on each device, bytes over the wires of each in a step, and seconds of a step.

    Attributes:
        name: of the way.
        weights: the centers that a device holds.
        gradient: of those.
        slots: the optimizer's.
        update: what the update needs for a moment.
        activations: what the loss needs beside.
        wires: what a device sends in a step.
        seconds: an estimate, from the task's speeds.
    """

    name: str
    weights: float
    gradient: float
    slots: float
    update: float
    activations: float
    wires: float
    seconds: float

    @property
    def memory(self) -> float:
        """At the worst moment: the loss' own memory is free again when the update runs."""
        return self.weights + self.gradient + self.slots + max(self.update, self.activations)


def plans(task: Task) -> list[Plan]:
    """Every way to train the head.

    Raises:
        ValueError: for numbers out of range.
    """
    for name in ("classes", "batch", "dim", "devices", "sub_centers"):
        if getattr(task, name) < 1:
            raise ValueError(f"{name} must be at least 1. Received: {name}={getattr(task, name)}")
    if not 0 < task.sample_rate <= 1:
        raise ValueError(f"sample_rate must be in (0, 1]. Received: sample_rate={task.sample_rate}")
    if task.update not in UPDATE_TEMPORARIES:
        raise ValueError(f"update must be one of {', '.join(UPDATE_TEMPORARIES)}. Received: update={task.update!r}")
    alone, shards = math.ceil(task.batch / task.devices), task.devices
    sample = max(math.ceil(task.sample_rate * task.classes), min(task.batch, task.classes))
    shared = f"sampled ({task.sample_rate:g})"
    found = [
        _plan(task, "usual", alone, task.classes, usual=True),
        _plan(task, "blocks", alone, task.classes),
        _plan(task, shared, alone, task.classes, sample),
    ]
    if shards > 1:
        part, sample = math.ceil(task.classes / shards), math.ceil(sample / shards)
        found += [
            _plan(task, "usual, class parallel", task.batch, part, usual=True),
            _plan(task, "class parallel", task.batch, part),
            _plan(task, f"usual, {shared}, class parallel", task.batch, part, sample, usual=True),
            _plan(task, f"{shared}, class parallel", task.batch, part, sample),
        ]
    return found


def cheapest(found: list[Plan], memory: float) -> Plan | None:
    """The quickest way whose memory is within so many bytes, the usual ones apart: None if there is none."""
    fitting = [plan for plan in found if plan.memory <= memory and not plan.name.startswith("usual")]
    return min(fitting, key=lambda plan: plan.seconds, default=None)


def _rows(task, classes):
    return classes * task.sub_centers * task.dim * _FLOAT


def _others_share(task):
    return (task.devices - 1) / task.devices


def _all_reduced(task, size):
    """What a device sends for the sum over all devices, in a ring."""
    return 2 * _others_share(task) * size


def _activations(task, batch, classes):
    """Of the loss in blocks, and whether cosines are kept. Factors as in benchmarks/results/head_step_2_cores.md."""
    logits, embeddings = batch * classes * task.sub_centers * _FLOAT, 6 * batch * task.dim * _FLOAT
    kept = logits <= task.logits_memory
    if kept and classes <= LARGEST_ONLY_BLOCK:
        return 2.3 * logits + 1.4 * _rows(task, classes) + embeddings, kept
    size = min(classes, max(1024, min(task.block_bytes / (batch * task.sub_centers * _FLOAT), task.block_classes)))
    block = 3 * size * task.sub_centers * (batch + task.dim) * _FLOAT
    return (logits if kept else 0) + block + embeddings, kept


def _plan(task, name, batch, classes, sample=None, usual=False):
    """A way in which a device has so many images and classes, and looks at a sample of those or all."""
    looked_at = sample or classes
    weights, rows = _rows(task, classes), _rows(task, looked_at)
    if sample:
        weights += rows
    if usual:
        logits = batch * looked_at * task.sub_centers * _FLOAT
        activations, products = USUAL_LOGITS * logits + USUAL_ROWS * rows, 3
        passes = 4 * USUAL_LOGITS * logits
    else:
        activations, kept = _activations(task, batch, looked_at)
        products, passes = 3 if kept else 4, 0
    if classes < task.classes:  # each device has its own: embeddings go to all others, and their gradient comes back
        wires = 2 * _others_share(task) * task.batch * task.dim * _FLOAT
        wires += _all_reduced(task, 4 * task.batch * _FLOAT)
        wires += _others_share(task) * task.devices * sample * _FLOAT if sample else 0  # which classes were drawn
    else:
        wires = _all_reduced(task, rows)
        activations += rows if usual and task.devices > 1 else 0  # gradients are put together to be sent
    # Centers, gradient and slots are read and written by the update; those of a sample are taken and returned too.
    passes += (5 + 4 * task.slots if sample else 3 + 2 * task.slots) * rows
    work = 2 * products * batch * looked_at * task.sub_centers * task.dim / (task.tflops * 1e12)
    return Plan(
        name,
        weights,
        gradient=rows,
        slots=task.slots * weights,
        update=UPDATE_TEMPORARIES[task.update] * rows + (rows if sample else 0),
        activations=activations,
        wires=wires,
        seconds=work + passes / task.memory_bandwidth + wires / task.link_bandwidth,
    )


def table(task: Task, found: list[Plan], memory: float | None = None) -> str:
    """The ways as a table in GiB and ms."""
    width = max(len(plan.name) for plan in found)
    lines = [f"{'':{width}}{'GiB':>9}{'weights':>9}{'gradient':>10}{'slots':>8}{'step':>8}{'wires, MiB':>12}{'ms':>9}"]
    for plan in found:
        parts = (plan.memory, plan.weights, plan.gradient, plan.slots, max(plan.update, plan.activations))
        gib = [part / 2**30 for part in parts]
        line = f"{plan.name:{width}}{gib[0]:9.2f}{gib[1]:9.2f}{gib[2]:10.2f}{gib[3]:8.2f}{gib[4]:8.2f}"
        line += f"{plan.wires / 2**20:12.1f}{1e3 * plan.seconds:9.1f}"
        if memory is not None and plan.memory > memory:
            line += "  does not fit"
        lines.append(line)
    return "\n".join(lines)


def parse_size(text: str) -> float:
    """`80G`, `512M`, `1.5T` -> bytes, of 1024 each."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 1)
    return float(number) * unit


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m keras_arcface.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole = {"type": lambda text: int(float(text))}
    parser.add_argument("--classes", required=True, help="number of classes, such as 10e6", **whole)
    parser.add_argument("--batch", default=1024, help="images of a step, on all devices together", **whole)
    parser.add_argument("--dim", default=512, help="length of an embedding", **whole)
    parser.add_argument("--devices", default=1, **whole)
    parser.add_argument("--gpu-memory", type=parse_size, help="of one device, such as 80G")
    parser.add_argument("--other-memory", type=parse_size, default=0.0, help="of it, what the network needs")
    parser.add_argument("--sample-rate", type=float, default=0.1)
    parser.add_argument("--sub-centers", default=1, **whole)
    parser.add_argument("--slots", default=1, help="1 for SGD with momentum, 2 for Adam", **whole)
    parser.add_argument("--logits-memory", type=parse_size, default=2**28, help="the head's; default 256M")
    parser.add_argument("--update", choices=UPDATE_TEMPORARIES, default="xla", help="what runs the optimizer")
    parser.add_argument("--tflops", type=float, default=50.0, help="of matrix products, for one device")
    parser.add_argument("--memory-bandwidth", type=parse_size, default=1.5e12, help="bytes a second")
    parser.add_argument("--link-bandwidth", type=parse_size, default=5e10, help="bytes a second that a device sends")
    chosen = vars(parser.parse_args(arguments))
    memory, other = chosen.pop("gpu_memory"), chosen.pop("other_memory")
    task = Task(**chosen)
    try:
        found = plans(task)
    except ValueError as error:
        parser.error(str(error))
    room = None if memory is None else memory - other
    what = f"{task.classes:,} classes of {task.dim}, batches of {task.batch:,} on {task.devices} device(s)"
    lines = [f"{what}; for each device:", table(task, found, room), ""]
    lines.append(f"ms: estimated with {task.tflops:g} TFLOP/s, and {task.link_bandwidth / 1e9:g} GB/s over the wires")
    if room is not None:
        best = cheapest(found, room)
        lines.append("Nothing of this fits." if best is None else f"Cheapest that fits: {best.name}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
