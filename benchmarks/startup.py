"""Measures the seconds from the start of Python to an import, a command, and the first training step.

    python benchmarks/startup.py
    PYTHONPATH=/path/to/another/version python benchmarks/startup.py

Each measurement runs in a new process, and the table shows the median and the minimum over the rounds. The limit is the
import of Keras with its backend. The first step is that of MobileFaceNet with ArcFace over 10,000 classes and batches
of 32 from TFRecords, in the order: import, creation of the model, first batch, tracing with the step.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras_arcface

IMPORTS = {
    "import keras (the limit)": "import keras",
    "import keras_arcface": "import keras_arcface",
    "from keras_arcface import ArcFace": "from keras_arcface import ArcFace",
    "from keras_arcface import data": "from keras_arcface import data",
    "from keras_arcface import evaluation": "from keras_arcface import evaluation",
    "from keras_arcface import gallery": "from keras_arcface import gallery",
    "from keras_arcface import serving": "from keras_arcface import serving",
    "keras-arcface --help": "import sys; sys.argv[1:] = ['--help']; from keras_arcface.cli.main import main; main()",
}
STEPS = ("import", "model", "first batch", "first step", "second step")


def first_step(directory: str) -> None:
    """Prints the seconds of each part of a training until its second step, as JSON."""
    moments = [time.perf_counter()]
    from keras_arcface import ArcFace
    from keras_arcface import RecognitionModel
    from keras_arcface import backbones
    from keras_arcface import data
    from keras_arcface import models
    from keras_arcface import training

    moments.append(time.perf_counter())
    training.use_precision("auto")
    model = RecognitionModel(models.make_embedder(backbones.MobileFaceNet(), dim=512), ArcFace(10_000))
    model.compile(training.CoupledSGD(0.1))
    moments.append(time.perf_counter())
    dataset = data.load_dataset(directory, 32, training=True)
    next(iter(dataset))
    moments.append(time.perf_counter())
    for _ in range(2):
        model.fit(dataset, steps_per_epoch=1, verbose=0)
        moments.append(time.perf_counter())
    print(json.dumps([end - begin for begin, end in itertools.pairwise(moments)]))


def make_records(directory: Path) -> None:
    """Writes 64 faces of eight people."""
    import cv2
    import numpy as np

    from keras_arcface import data

    generator = np.random.default_rng(0)
    for number in range(64):
        path = directory / "images" / f"person_{number % 8}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), generator.integers(0, 256, (112, 112, 3)).astype("uint8"))
    data.write_dataset(data.ImageFolder(directory / "images"), directory / "records")


def run(*arguments: str) -> tuple[float, str]:
    """Returns the seconds and the output of a new Python process."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    begin = time.perf_counter()
    # Without -P, the working directory would come before the path of another version.
    done = subprocess.run(
        [sys.executable, "-P", *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - begin, done.stdout


def print_row(name: str, measured: list[float]) -> None:
    print(f"{name:44}{statistics.median(measured):8.2f}{min(measured):8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        first_step(arguments.first_step)
        return
    print(f"{Path(keras_arcface.__file__).parent.parent.name}, {os.cpu_count()} cores, {arguments.rounds} rounds\n")
    print(f"{'':44}{'median':>8}{'min':>8}")
    nothing = [run("-c", "")[0] for _ in range(arguments.rounds)]
    print_row("Python alone", nothing)
    for name, code in IMPORTS.items():
        print_row(name, [run("-c", code)[0] for _ in range(arguments.rounds)])
    with tempfile.TemporaryDirectory() as folder:
        make_records(Path(folder))
        parts = [
            json.loads(run(__file__, "--first-step", f"{folder}/records")[1].splitlines()[-1])
            for _ in range(arguments.rounds)
        ]
    print()
    for name, measured in zip(STEPS, zip(*parts, strict=True), strict=True):
        print_row(f"training: {name}", list(measured))
    print_row("training: to the end of the first step", [sum(part[:4]) for part in parts])


if __name__ == "__main__":
    main()
