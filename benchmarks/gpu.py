"""Compares heads and training on one GPU with PyTorch, in at most 8 minutes. The Keras backend is JAX.

    pip install "jax[cuda13]" torch && git clone https://github.com/deepinsight/insightface
    python benchmarks/gpu.py --peer insightface/recognition/arcface_torch
    python benchmarks/gpu.py --peer ... --toy                 # tiny sizes, for a machine without a GPU

TensorFlow is not required. The table is written to `benchmarks/results/gpu_<device>.md`:

- the loss and the gradients of a head in each precision of the products, against NumPy in float64, and those of a
  network against the same network on the CPU;
- a step of a head with 100,000, a million and ten million classes: the bare matrix products in JAX and PyTorch, ours,
  and PartialFC of arcface_torch with all classes;
- a training step of IResNet-50 and IResNet-100 with 10,000 classes in bfloat16: ours, and arcface_torch channels-last
  with autocast, also compiled by `torch.compile`.

Each contender runs in a process of its own, one after the other. A contender that would not end within the limit by
its estimate is skipped, and the table names it. The estimates are for an H200, and include the start, the transfer of
the centers, and the compilation.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import head_step
import training
from contenders import machine
from contenders import peak_memory
from contenders import reset_peak_memory

LIMIT = 480  # seconds for all contenders
PRECISIONS = ("bfloat16", "tensorfloat32", "float32")
BATCH, DIM = 512, 512


@dataclasses.dataclass(frozen=True)
class Contender:
    """A contender: its section and row of the table, the Keras backend, its task, and its estimated seconds."""

    section: str
    name: str
    backend: str
    task: dict
    estimate: float


def contenders(arguments) -> list[Contender]:
    """Returns all contenders, the most important first."""
    toy = arguments.toy
    classes = (1_000, 2_000, 3_000) if toy else (100_000, 1_000_000, 10_000_000)
    networks = ("IResNet18", "MobileFaceNet") if toy else ("IResNet50", "IResNet100")
    batch, images = (16, 2) if toy else (BATCH, 128)

    def head(classes, limit_jax, limit_torch, ours, theirs):
        section = f"Head, batch {batch}, {classes:,} classes"
        size = {"batch": batch, "classes": classes, "dim": DIM}
        limit = {"kind": "limit", **size}
        yield Contender(section, "bare products, JAX", "jax", {**limit, "framework": "jax"}, limit_jax)
        yield Contender(section, "bare products, PyTorch", "torch", {**limit, "framework": "torch"}, limit_torch)
        yield Contender(section, "ours", "jax", {"kind": "ours", **size}, ours)
        if arguments.peer:
            task = {"kind": "arcface_torch", "path": arguments.peer, **size}
            yield Contender(section, "arcface_torch, PartialFC", "torch", task, theirs)

    def train(network, ours, theirs):
        section = f"Training, {network}, batch {images}"
        task = {"network": network, "batch": images}
        yield Contender(section, "ours", "jax", {"kind": "train", **task}, ours)
        if arguments.peer:
            yield Contender(section, "arcface_torch", "torch", peer(network, compiled=False), theirs)

    def peer(network, compiled):
        task = {"kind": "peer", "network": network, "batch": images, "path": arguments.peer, "compiled": compiled}
        return {**task, "dtype": "bfloat16", "channels_last": True}

    def train_compiled(network, estimate):
        if arguments.peer and not toy:  # the compilation for a CPU takes minutes
            section = f"Training, {network}, batch {images}"
            yield Contender(section, "arcface_torch, compiled", "torch", peer(network, compiled=True), estimate)

    return [
        Contender("Parity", "head", "jax", {"kind": "parity", "classes": 500 if toy else 10_000}, 15),
        Contender("Parity", "network", "jax", {"kind": "network_parity"}, 25),
        *head(classes[0], 12, 10, 25, 10),
        *train(networks[0], 45, 12),
        *train_compiled(networks[0], 40),
        *head(classes[1], 14, 12, 30, 12),
        *train(networks[1], 60, 15),
        *head(classes[2], 30, 25, 50, 35),
        *train_compiled(networks[1], 60),
    ]


# Each function yields the rows of a contender: its label, and the figures as text.


def step_rows(make, batch, seconds, by_images):
    """Measures a step in each precision. `make` returns a function `steps -> seconds`, or None for no measurement."""
    for precision in PRECISIONS:
        run = make(precision)
        if run is None:
            continue
        reset_peak_memory()
        run(2)
        times = max(2, round(seconds / (run(2) / 2)))
        measured = [run(times) / times for _ in range(3)]
        gib = getattr(run, "gib", None) or peak_memory()
        median = statistics.median(measured)
        figures = {"ms": 1e3 * median, "min": 1e3 * min(measured), "max": 1e3 * max(measured), "GiB": gib}
        if by_images:
            figures["images/s"] = batch / median
        yield precision, {name: f"{value:,.2f}" for name, value in figures.items()}
        del run


def head_rows(kind, seconds, **task):
    def make(precision):
        if kind == "ours":
            return head_step.ours(**task, matmul_dtype=precision)
        if kind == "limit":
            return head_step.limit(**task, dtype=precision)
        if precision == "bfloat16":
            return None  # PartialFC computes in float32 unless its network is in float16
        import torch

        torch.set_float32_matmul_precision("high" if precision == "tensorfloat32" else "highest")
        torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")  # initializes the centers there
        return head_step.arcface_torch(**task)

    return step_rows(make, task["batch"], seconds, by_images=False)


def training_rows(kind, seconds, **task):
    def make(precision):
        if precision != "bfloat16":
            return None
        return training.ours(precision="mixed_bfloat16", **task) if kind == "train" else training.peer(**task)

    return step_rows(make, task["batch"], seconds, by_images=True)


def parity_rows(kind, seconds, classes):
    """Compares the loss and gradients of ArcFace with NumPy in float64."""
    import jax
    import keras

    from keras_arcface import ArcFace

    batch = 64
    x, centers, labels = head_step.problem(batch, classes, DIM)
    expected = reference(x.astype("float64"), centers.astype("float64"), labels)
    for precision in PRECISIONS:
        head = ArcFace(classes, margin=head_step.MARGIN, scale=head_step.SCALE, matmul_dtype=precision)
        head.build((None, DIM))

        def loss_of(x, centers, head=head):
            with keras.StatelessScope(state_mapping=[(head.centers, centers)]):
                return keras.ops.mean(head.loss(labels, x))

        loss, gradients = jax.jit(jax.value_and_grad(loss_of, (0, 1)))(x, centers)
        yield precision, errors(("loss", "by embeddings", "by centers"), (loss, *gradients), expected)


def network_rows(kind, seconds):
    """Compares the gradients of a small IResNet on the device with those on the CPU, in float32."""
    import jax
    import keras
    import numpy as np

    from keras_arcface import ArcFace
    from keras_arcface import backbones
    from keras_arcface import models

    keras.utils.set_random_seed(0)
    embedder = models.make_embedder(backbones.IResNet((1, 1, 1, 1), width=16), dim=64)
    head = ArcFace(100)
    head.build((None, 64))
    images, labels = training.batch_of(8)
    state = [variable.value for variable in embedder.non_trainable_variables]
    weights = [variable.value for variable in (*embedder.trainable_variables, head.centers)]

    def loss_of(weights):
        *trained, centers = weights
        embeddings, _ = embedder.stateless_call(trained, state, images, training=True)
        with keras.StatelessScope(state_mapping=[(head.centers, centers)]):
            return keras.ops.mean(head.loss(labels % 100, embeddings))

    found = {}
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            loss, gradients = jax.jit(jax.value_and_grad(loss_of))(jax.device_put(weights, device))
            found[device] = loss, np.concatenate([np.ravel(gradient) for gradient in gradients])
    of_device, of_cpu = found.values() if len(found) == 2 else 2 * list(found.values())
    yield f"{jax.devices()[0].platform} and cpu", errors(("loss", "by weights"), of_device, of_cpu)


def reference(x, centers, labels):
    """Returns the mean loss of ArcFace and its gradients by embeddings and centers."""
    import numpy as np

    rows, (batch, classes) = np.arange(len(x)), (len(x), len(centers))
    x_norms, norms = (np.linalg.norm(array, axis=1, keepdims=True) for array in (x, centers))
    x_unit, unit = x / x_norms, centers / norms
    cosines = x_unit @ unit.T
    angles = np.arccos(cosines[rows, labels])
    slopes = np.full((batch, classes), head_step.SCALE)
    logits = head_step.SCALE * cosines
    logits[rows, labels] = head_step.SCALE * np.cos(angles + head_step.MARGIN)
    slopes[rows, labels] *= np.sin(angles + head_step.MARGIN) / np.sin(angles)
    highest = logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits - highest)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = np.mean(highest + np.log(sums) - logits[rows, labels, np.newaxis])
    by_cosines = exponentials / sums
    by_cosines[rows, labels] -= 1
    by_cosines *= slopes / batch
    by_x, by_centers = by_cosines @ unit, by_cosines.T @ x_unit
    by_x = (by_x - x_unit * np.sum(by_x * x_unit, axis=1, keepdims=True)) / x_norms
    by_centers = (by_centers - unit * np.sum(by_centers * unit, axis=1, keepdims=True)) / norms
    return loss, by_x, by_centers


def errors(names, received, expected):
    """Returns the largest differences relative to the largest absolute value."""
    import numpy as np

    pairs = zip(names, received, expected, strict=True)
    return {name: f"{np.max(np.abs(np.asarray(r) - e)) / np.max(np.abs(e)):.1e}" for name, r, e in pairs}


ROWS = {
    "parity": parity_rows,
    "network_parity": network_rows,
    "limit": head_rows,
    "ours": head_rows,
    "arcface_torch": head_rows,
    "train": training_rows,
    "peer": training_rows,
}


def measure(task):
    """Runs a contender in this process, and prints each of its rows as a line of JSON."""
    output, sys.stdout = sys.stdout, sys.stderr
    for label, figures in ROWS[task["kind"]](**task):
        print(json.dumps([label, figures]), file=output, flush=True)


def run_contender(contender: Contender, seconds: float, timeout: float) -> tuple[list, str | None]:
    """Returns the rows of a contender, and the reason if it failed."""
    command = [sys.executable, __file__, "--task", json.dumps({**contender.task, "seconds": seconds})]
    environment = {**os.environ, "KERAS_BACKEND": contender.backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        output, failure = done.stdout, (done.stderr.strip().splitlines() or ["no message"])[-1]
        failure = None if done.returncode == 0 else f"exit code {done.returncode}: {failure[:200]}"
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or ""
        output = output if isinstance(output, str) else output.decode()
        output, failure = output[: output.rfind("\n") + 1], f"stopped after {timeout:.0f} s"
    return [json.loads(line) for line in output.splitlines()], failure


def versions() -> str:
    import importlib.metadata
    import importlib.util

    names = ("jax", "keras", "torch")
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        raise SystemExit(f"error: jax, keras and torch must be installed. Not found: {', '.join(absent)}")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def table(rows: list[tuple[str, dict]]) -> list[str]:
    columns = list(dict.fromkeys(name for _, figures in rows for name in figures))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return lines + [f"| {label} | {' | '.join(figures.get(name, '') for name in columns)} |" for label, figures in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", help="directory of arcface_torch")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try the script without a GPU")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all contenders")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu_<device>.md; with --toy, none")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        measure(arguments.task)
        return
    kind, device = machine()
    if kind == "cpu" and not arguments.toy:
        parser.error("no GPU was found; --toy runs the script without one")
    if arguments.peer and not Path(arguments.peer, "partial_fc_v2.py").is_file():
        parser.error(
            f"--peer must be the directory arcface_torch. Received: {arguments.peer}, without partial_fc_v2.py"
        )
    arguments.peer = arguments.peer and str(Path(arguments.peer).resolve())
    lines = compare(contenders(arguments), device, arguments)
    output = arguments.output
    if output is None and not arguments.toy:
        name = re.sub(r"[^a-z0-9]+", "_", device.lower().removeprefix("nvidia ")).strip("_")
        output = Path(__file__).parent / "results" / f"gpu_{name}.md"
    if output is not None:
        output.write_text("\n".join(lines) + "\n")
        print(f"\nwritten to {output}")


def compare(chosen: list[Contender], device: str, arguments) -> list[str]:
    begin, installed = time.monotonic(), versions()
    sections: dict[str, list] = {}
    notes = []
    total = sum(contender.estimate for contender in chosen)
    print(
        f"{device}: {len(chosen)} contenders, {total:.0f} s by their estimates, limit {arguments.limit:.0f} s",
        flush=True,
    )
    for contender in chosen:
        started = time.monotonic()
        left = begin + arguments.limit - started
        label = f"{contender.section}: {contender.name}"
        if contender.estimate > left:
            notes.append(f"{label}: skipped, {left:.0f} s were left of {arguments.limit:.0f}")
        else:
            rows, failure = run_contender(contender, 0.2 if arguments.toy else 1.0, left)
            sections.setdefault(contender.section, []).extend((f"{contender.name}, {row}", f) for row, f in rows)
            if failure:
                notes.append(f"{label}: {failure}")
        print(f"  {label}: {time.monotonic() - started:.0f} s, estimated {contender.estimate:.0f}", flush=True)
    add_ratios(sections)
    took = time.monotonic() - begin
    lines = [f"# {device}", "", f"`python benchmarks/gpu.py --peer arcface_torch`, {installed}, {took:.0f} s.", ""]
    lines += ["Parity is the largest difference relative to the largest absolute value."]
    for section, rows in sections.items():
        lines += ["", f"## {section}", "", *table(rows)]
    if notes:
        lines += ["", "## Not measured", "", *(f"- {note}" for note in notes)]
    print("\n" + "\n".join(lines), flush=True)
    return lines


def add_ratios(sections: dict[str, list]) -> None:
    """Adds the ratio to the fastest bare products of the precision, or to the fastest peer."""
    for section, rows in sections.items():
        if section == "Parity":
            continue
        is_head = section.startswith("Head")
        reference_name = "bare products" if is_head else "arcface_torch"
        for label, figures in rows:
            precision = label.rpartition(", ")[2]
            times = [
                milliseconds(other)
                for name, other in rows
                if name.startswith(reference_name) and name.endswith(f", {precision}")
            ]
            ratio = milliseconds(figures) / min(times, default=math.nan)
            figures["x limit" if is_head else "x peer"] = f"{ratio if is_head else 1 / ratio:.2f}"


def milliseconds(figures: dict) -> float:
    return float(figures["ms"].replace(",", ""))


if __name__ == "__main__":
    main()
