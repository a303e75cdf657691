"""Trains the same batches in one process on one device, and as two hosts with two devices each, on loopback.

    python hosts.py

Prints the loss curves side by side, with the largest difference of each to the first; the memory of a device when the
centers are sharded over devices; and properties of the compiled training step: whether any array is as large as all
centers ("whole"), and which arrays are gathered. Two hosts are two processes that communicate through sockets. To tell
how much rounding explains, one process also trains from weights perturbed by a rounding error.
"""

import dataclasses
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import keras
import numpy as np

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import backbones
from keras_arcface import data
from keras_arcface import training
from keras_arcface.models import make_embedder

ROUNDING = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of a run. The network is a small IResNet, or one dense layer if only the head matters."""

    hosts: int = 1
    devices_per_host: int = 1
    class_shards: int = 1
    num_classes: int = 8192
    dim: int = 32
    convolutional: bool = True
    batch_size: int = 16
    steps: int = 6
    perturbation: float = 0.0

    def __str__(self):
        perturbed = ", perturbed" if self.perturbation else ""
        return f"{self.hosts} x {self.devices_per_host}, {self.class_shards} shard(s){perturbed}"


def train(setting: Setting, host: int, coordinator: str, dataset: str) -> dict:
    """Trains on the part of one host, and returns the losses and the memory of variables per device."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", setting.devices_per_host)
    keras.utils.set_random_seed(1)
    if setting.hosts > 1:
        keras.distribution.initialize(coordinator, setting.hosts, host)
    if setting.hosts * setting.devices_per_host > 1:
        keras.distribution.set_distribution(training.ClassParallel(setting.class_shards))
    images = data.load_dataset(
        dataset,
        setting.batch_size // setting.hosts,
        training=True,
        host=host,
        num_hosts=setting.hosts,
    )
    if setting.convolutional:
        backbone = backbones.IResNet((1, 1), width=16, input_shape=(32, 32, 3))
        embedder = make_embedder(backbone, dim=setting.dim, dropout=0.0)
    else:
        embedder = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Rescaling(1 / 127.5, -1.0),
                keras.layers.Flatten(),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(setting.dim),
            ],
            name="embedder",
        )
    model = RecognitionModel(embedder, ArcFace(setting.num_classes, scale=16.0))
    model.compile(training.CoupledSGD(0.01))
    model.build((None, 32, 32, 3))
    if setting.perturbation:
        generator = np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(np.array(weight) * (1 + setting.perturbation * generator.choice([-1, 1], weight.shape)))
    # Epochs of one step, because Keras reports means over epochs.
    history = model.fit(images, epochs=setting.steps, steps_per_epoch=1, shuffle=False, verbose=0).history
    variables = [*model.variables, *model.optimizer.variables]
    return {
        "losses": history["loss"],
        "variables": bytes_per_device(variables),
        "centers": bytes_per_device([v for v in variables if "centers" in v.path]),
    }


def bytes_per_device(variables) -> list[int]:
    """Returns the bytes of variables on each device of this host."""
    on_device = {}
    for variable in variables:
        for shard in variable.value.addressable_shards:
            on_device[shard.device.id] = on_device.get(shard.device.id, 0) + shard.data.nbytes
    return list(on_device.values())


def run(setting: Setting, dataset: Path) -> dict:
    """Runs a process per host. Returns the report of the first, and properties of the compiled step."""
    with tempfile.TemporaryDirectory() as folder:
        coordinator = f"localhost:{free_port()}"
        reports = reports_of([start(setting, host, coordinator, dataset, folder) for host in range(setting.hosts)])
        if any(report["losses"] != reports[0]["losses"] for report in reports):
            raise RuntimeError(f"{setting}: the hosts do not agree on the losses: {reports}")
        return {**reports[0], **read_program(Path(folder) / "xla", setting)}


def reports_of(processes: list[subprocess.Popen]) -> list:
    """Waits for processes, and returns the last line of the output of each, which is JSON."""
    try:
        reports = []
        for process in processes:
            output, errors = process.communicate(timeout=600)
            if process.returncode:
                raise RuntimeError(f"{process.args} failed\n{errors}")
            reports.append(json.loads(output.splitlines()[-1]))
        return reports
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def start(setting: Setting, host: int, coordinator: str, dataset: Path, folder: str) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    if host == 0:  # all hosts compile the same program
        environment["XLA_FLAGS"] = "--xla_dump_to=xla --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_train_step"
    what = (json.dumps(dataclasses.asdict(setting)), str(host), coordinator, str(Path(dataset).resolve()))
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *what],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_program(folder: Path, setting: Setting) -> dict:
    """Returns large arrays, gathered arrays and memory of a training step on one device, from the dumps of XLA."""
    (program,) = folder.glob("*jit_train_step.*after_optimizations.txt")
    text = program.read_text()
    gathered = "".join(re.findall(r" = (.+?) all-gather(?:-start)?\(", text))
    (memory,) = folder.glob("*jit_train_step.*memory-usage-report.txt")
    whole = setting.num_classes * setting.dim
    return {
        "whole": [shape for shape in shapes_in(text) if math.prod(shape) >= whole],
        "gathered": shapes_in(gathered),
        "step": int(re.search(r"Total bytes: (\d+)", memory.read_text()).group(1)),
    }


def shapes_in(text: str) -> list[tuple[int, ...]]:
    found = re.findall(r"\b(?:pred|[a-z]+\d+)\[(\d[\d,]*)\]", text)  # as in f32[1024,512]
    return sorted({tuple(map(int, shape.split(","))) for shape in found})


def write_faces(directory: Path, people: int = 16, images: int = 2) -> None:
    """Writes images of a few people, who use a few of many classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (people * images, 32, 32, 3), np.uint8)
    faces = Faces(data.Record(cv2.imencode(".png", p)[1].tobytes(), i // images, f"{i}") for i, p in enumerate(pixels))
    faces.num_classes = people
    data.write_dataset(faces, directory)


class Faces(list, data.Source):
    """Records, as a source."""


def main():
    with tempfile.TemporaryDirectory() as folder:
        faces = Path(folder) / "faces"
        write_faces(faces)
        print_curves(faces)
        print_memory(faces)


def print_curves(faces: Path) -> None:
    settings = [Setting(), Setting(perturbation=ROUNDING), *(Setting(2, 2, shards) for shards in (1, 2, 4))]
    curves = {str(setting): run(setting, faces)["losses"] for setting in settings}
    one, *others = curves.values()
    print("A small IResNet with ArcFace, global batch 16, 8,192 classes; hosts x devices. Loss per step:\n")
    print(*(f"{name:>20}" for name in curves))
    for losses in zip(*curves.values(), strict=True):
        print(*(f"{loss:20.6f}" for loss in losses))
    print(f"{'largest rel. diff.':>20}", *(f"{largest_difference(one, other):20.1e}" for other in others))


def largest_difference(reference: list[float], losses: list[float]) -> float:
    """Returns the largest relative difference of two curves."""
    return max(abs(a - b) / a for a, b in zip(reference, losses, strict=True))


def print_memory(faces: Path) -> None:
    print("\nA dense layer with ArcFace, 100,000 classes, 512 dimensions, CoupledSGD, global batch 64:\n")
    print(f"{'':20}{'centers, slot':>15}{'all variables':>15}{'whole step':>15}   MB on a device; all-gathers")
    for setting in (Setting(2, 2, shards, 100_000, 512, False, 64, 2) for shards in (1, 2, 4)):
        report = run(setting, faces)
        found = "whole matrix" if report["whole"] else "never whole"
        bytes_ = (max(report["centers"]), max(report["variables"]), report["step"])
        print(f"{setting!s:20}", *(f"{n / 1e6:14.1f}" for n in bytes_), f"  {found}; {report['gathered']}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        setting, host, coordinator, dataset = sys.argv[1:]
        print(json.dumps(train(Setting(**json.loads(setting)), int(host), coordinator, dataset)))
    else:
        main()
