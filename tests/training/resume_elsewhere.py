"""Continues trainings on other numbers of devices and hosts, and compares their losses with an uninterrupted training.

    python tests/training/resume_elsewhere.py

A training of 12 steps on one device is compared with trainings of which new processes continue every fourth step on
another number of devices: on JAX with classes split over logical CPU devices, and over hosts, which are processes that
communicate on the loopback network; on TensorFlow with MirroredStrategy over logical CPU devices. All have the same
global batches of 16 augmented images. To tell how much rounding explains, one device also trains from weights that
differ by a rounding error. The number of classes, 130, is rounded up to a multiple of the shards.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from training import hosts

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import training
from keras_arcface.models import make_embedder

PEOPLE, DIM, SHAPE, BATCH, MAX_SHARDS = 130, 16, (32, 32, 3), 16, 4


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of the model, which do not change when a training continues."""

    sample_rate: float = 1.0
    dropout: float = 0.0
    local_statistics: bool = False  # of BatchNorm; only on TensorFlow

    def __str__(self):
        sampled = "sampled classes" if self.sample_rate < 1 else "all classes"
        dropout = f", dropout {self.dropout}" if self.dropout else ""
        return f"{sampled}{dropout}{', local BatchNorm statistics' if self.local_statistics else ''}"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a training, from the last checkpoint to `last_step`, where it writes the next one."""

    last_step: int
    devices: int = 1
    class_shards: int = 1
    hosts: int = 1
    perturbation: float = 0.0


def replicated(numbers: tuple[int, ...]) -> list[Part]:
    """Returns parts of four steps on the given numbers of devices, which store all classes."""
    return [Part(4 * index, devices) for index, devices in enumerate(numbers, 1)]


def sharded(numbers: tuple[int, ...], on_hosts: bool = False) -> list[Part]:
    """Returns parts of four steps with the classes split over the devices, which are one per host if `on_hosts`."""
    return [
        dataclasses.replace(part, class_shards=part.devices, hosts=part.devices if on_hosts else 1)
        for part in replicated(numbers)
    ]


ONE_DEVICE = {"one device": [Part(12)], "perturbed": [Part(12, perturbation=hosts.ROUNDING)]}
DOWN, UP = (4, 2, 1), (1, 2, 4)


def train(setting: Setting, part: Part, faces: str, checkpoints: str, host: int) -> list[float]:
    """Trains a part and returns the loss of each step."""
    keras.utils.set_random_seed(1)
    with devices_of(part):
        model = make_model(setting)
    if part.perturbation:
        generator = np.random.default_rng(0)
        for weight in model.embedder.trainable_weights:
            value = keras.ops.convert_to_numpy(weight)
            weight.assign(value * (1 + part.perturbation * generator.choice([-1, 1], weight.shape)))
    callback = training.Checkpoints(checkpoints)
    start = callback.restore(model)
    images = data.load_dataset(
        faces,
        BATCH // part.hosts,
        training=True,
        augmentation=data.augment.chain(data.augment.flip, data.augment.erase),
        start_step=start,
        host=host,
        num_hosts=part.hosts,
    )
    # Epochs of one step, because Keras reports means over epochs.
    steps = {"initial_epoch": start, "epochs": part.last_step, "steps_per_epoch": 1}
    history = model.fit(images, **steps, shuffle=False, verbose=0, callbacks=[callback]).history
    callback.write()
    return history["loss"]


def devices_of(part: Part) -> contextlib.AbstractContextManager:
    """Returns the scope of the devices of a part."""
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(training.ClassParallel(part.class_shards))
        return contextlib.nullcontext()
    import tensorflow as tf

    names = [f"CPU:{number}" for number in range(part.devices)]
    strategy = tf.distribute.MirroredStrategy(names) if part.devices > 1 else tf.distribute.OneDeviceStrategy(*names)
    return strategy.scope()


def make_model(setting: Setting) -> RecognitionModel:
    backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 8, strides=8)])
    synchronized = keras.backend.backend() == "tensorflow" and not setting.local_statistics
    embedder = make_embedder(backbone, dim=DIM, dropout=setting.dropout, synchronized=synchronized)
    groups = MAX_SHARDS if setting.sample_rate < 1 else 1
    num_classes = training.round_up_classes(PEOPLE, MAX_SHARDS)
    head = ArcFace(num_classes, scale=16.0, sample_rate=setting.sample_rate, sample_groups=groups)
    model = RecognitionModel(embedder, head)
    model.compile(training.CoupledSGD(0.01))
    model.build((None, *SHAPE))
    return model


def run(backend: str, setting: Setting, training: list[Part], faces: Path) -> list[float]:
    """Runs each part of a training in new processes, one per host. Returns the loss of each step."""
    losses = []
    with tempfile.TemporaryDirectory() as checkpoints:
        for part in training:
            coordinator = f"localhost:{hosts.free_port()}"
            what = (json.dumps([dataclasses.asdict(setting), dataclasses.asdict(part)]), str(faces), checkpoints)
            reports = hosts.reports_of([start(backend, *what, coordinator, str(host)) for host in range(part.hosts)])
            if any(report != reports[0] for report in reports):
                raise RuntimeError(f"{part}: the hosts do not agree on the losses: {reports}")
            losses += reports[0]
    return losses


def start(backend: str, *what: str) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(Path(__file__).resolve()), *what], env=environment, **pipes)


def train_on_host(settings: str, faces: str, checkpoints: str, coordinator: str, host: str) -> None:
    """Trains a part as one of its hosts, and prints the losses."""
    setting, part = json.loads(settings)
    setting, part = Setting(**setting), Part(**part)
    devices = part.devices // part.hosts
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        if part.hosts > 1:
            keras.distribution.initialize(coordinator, part.hosts, int(host))
    else:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    print(json.dumps(train(setting, part, faces, checkpoints, int(host))))


def main():
    with tempfile.TemporaryDirectory() as folder:
        faces = Path(folder) / "faces"
        hosts.write_faces(faces, PEOPLE)
        for setting in (Setting(dropout=0.4), Setting(0.5, dropout=0.4)):
            trainings = {**ONE_DEVICE, "4 -> 2 -> 1": sharded(DOWN), "1 -> 2 -> 4": sharded(UP)}
            trainings["4 -> 2 -> 1 hosts"] = sharded(DOWN, on_hosts=True)
            curves = {name: run("jax", setting, training, faces) for name, training in trainings.items()}
            print_curves(f"JAX, classes split over the devices or hosts, {setting}", curves)
        for setting in (Setting(), Setting(0.5), Setting(local_statistics=True), Setting(dropout=0.4)):
            trainings = {**ONE_DEVICE, "4 -> 2 -> 1": replicated(DOWN)}
            curves = {name: run("tensorflow", setting, training, faces) for name, training in trainings.items()}
            print_curves(f"TensorFlow, MirroredStrategy, {setting}", curves)


def print_curves(title: str, curves: dict[str, list[float]]) -> None:
    one, *others = curves.values()
    print(f"{title}:\n")
    print(f"{'step':>5}", *(f"{name:>17}" for name in curves))
    for step, losses in enumerate(zip(*curves.values(), strict=True), 1):
        print(f"{step:5}", *(f"{loss:17.6f}" for loss in losses))
    differences = (hosts.largest_difference(one, other) for other in others)
    print(f"{'largest rel. diff.':>23}", *(f"{difference:17.1e}" for difference in differences), end="\n\n", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train_on_host(*sys.argv[1:])
    else:
        main()
