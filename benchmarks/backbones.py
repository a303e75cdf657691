"""Measures size and speed of every backbone, with TensorFlow and with JAX.

    python benchmarks/backbones.py
    python benchmarks/backbones.py --networks EdgeFaceXS ViTTiny --seconds 20 --backends tensorflow

A network is an embedder with its neck. The columns are the number of weights, the multiply-adds of one image
(convolutions, dense layers and matrix products, see `benchmarks/multiply_adds.py`), both beside published figures for
images of 112 x 112 pixels, and images per second: of a training step of ArcFace over 10,000 classes with SGD and
momentum, and of inference, on a batch in memory. Each network and backend runs in a separate process. The speed is the
median over the steps of at least `--seconds` seconds, after two steps. The result is a Markdown table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from contenders import machine
from multiply_adds import multiply_adds

CLASSES = 10_000


class Network(NamedTuple):
    """A network and its published size.

    Attributes:
        backbone: name of the function in `keras_arcface.backbones`.
        options: its arguments.
        dim: dimension of the embedding.
        neck: neck of the embedder.
        millions: published number of weights in millions, or None.
        operations: published number of operations in millions, or None.
        source: what was published, and how operations are counted there.
    """

    backbone: str
    options: dict
    dim: int = 512
    neck: str = "E"
    millions: float | None = None
    operations: float | None = None
    source: str = ""


ARCFACE_TORCH = "arcface_torch's README"
EDGEFACE = "EdgeFace's README, two operations per multiply-add"
GHOSTFACENETS = "GhostFaceNets' Flops.ipynb, which counts normalization and activation too"
NETWORKS = {
    "IResNet18": Network("IResNet18", {}, millions=24.03, operations=2600, source=ARCFACE_TORCH),
    "IResNet34": Network("IResNet34", {}),
    "IResNet50": Network("IResNet50", {}, millions=43.59, operations=6300, source=ARCFACE_TORCH),
    "IResNet100": Network("IResNet100", {}, operations=12_100, source=ARCFACE_TORCH),
    "IResNet200": Network("IResNet200", {}, operations=23_500, source=ARCFACE_TORCH),
    "MobileFaceNet": Network("MobileFaceNet", {}, 128, "E", 0.99, 221, "MobileFaceNets, table 2"),
    "MobileNetV1": Network("MobileNetV1", {}, 128, "E", 9.67, None, "SFace's ONNX file"),
    "GhostFaceNetV1-1.3-1": Network("GhostFaceNetV1", {}),
    "GhostFaceNetV1-1.3-2": Network("GhostFaceNetV1", {"stem_strides": 2}),
    "GhostFaceNetV2-1.3-1": Network("GhostFaceNetV2", {}, 512, "E", 6.88, 272.11, GHOSTFACENETS),
    "GhostFaceNetV2-1.3-2": Network("GhostFaceNetV2", {"stem_strides": 2}),
    "EdgeFaceXS": Network("EdgeFaceXS", {}, 512, "linear", 1.77, 154.00, EDGEFACE),
    "EdgeFaceS": Network("EdgeFaceS", {}, 512, "linear", 3.65, 306.12, EDGEFACE),
    "ViTTiny": Network("ViTTiny", {}, operations=1500, source=ARCFACE_TORCH),
    "ViTSmall": Network("ViTSmall", {}, operations=5700, source=ARCFACE_TORCH),
    "ViTBase": Network("ViTBase", {}, operations=11_400, source=ARCFACE_TORCH),
}


def measure(name, batch, seconds, size):
    """Returns size and speed of a network, on the Keras backend of this process."""
    import keras
    import numpy as np

    from keras_arcface import ArcFace
    from keras_arcface import RecognitionModel
    from keras_arcface import backbones
    from keras_arcface.models import make_embedder

    network = NETWORKS[name]
    options = {**network.options, "input_shape": (size, size, 3)}
    backbone = getattr(backbones, network.backbone)(**options)
    embedder = make_embedder(backbone, dim=network.dim, neck=network.neck)
    model = RecognitionModel(embedder, ArcFace(CLASSES))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
    labels = generator.integers(0, CLASSES, batch).astype(np.int32)
    return {
        "weights": embedder.count_params(),
        "multiply_adds": multiply_adds(embedder),
        "training": batch / median_seconds(lambda: model.train_on_batch(images, labels), seconds),
        "inference": batch / median_seconds(lambda: model.predict_on_batch(images), seconds),
    }


def median_seconds(step, seconds):
    step()
    step()
    durations = []
    while sum(durations) < seconds or len(durations) < 3:
        begin = time.perf_counter()
        step()
        durations.append(time.perf_counter() - begin)
    return statistics.median(durations)


def run(name, backend, arguments):
    command = [sys.executable, __file__, "--measure", name, "--batch", str(arguments.batch)]
    command += ["--seconds", str(arguments.seconds), "--size", str(arguments.size)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed on {backend}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(name, found):
    """Returns a line of the table, from the results by backend."""
    network, first = NETWORKS[name], next(iter(found.values()))
    cells = [
        name,
        f"{first['weights'] / 1e6:.2f}",
        f"{network.millions}" if network.millions else "",
        f"{first['multiply_adds'] / 1e6:.1f}",
        f"{network.operations:g}" if network.operations else "",
    ]
    for result in found.values():
        cells += [f"{result['training']:.1f}", f"{result['inference']:.1f}"]
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "jax"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=112, help="height and width of the images")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds per measurement")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.batch, arguments.seconds, arguments.size)))
        return
    print(f"{machine()[1]}, batches of {arguments.batch}\n")
    speeds = [f"{kind}, {backend}" for backend in arguments.backends for kind in ("training", "inference")]
    header = ["network", "million weights", "published", "million multiply-adds", "published operations", *speeds]
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}", flush=True)
    for name in arguments.networks:
        print(row(name, {backend: run(name, backend, arguments) for backend in arguments.backends}), flush=True)
    print()
    for source in dict.fromkeys(NETWORKS[name].source for name in arguments.networks if NETWORKS[name].source):
        names = [name for name in arguments.networks if NETWORKS[name].source == source]
        print(f"- {', '.join(names)}: {source}.")


if __name__ == "__main__":
    main()
