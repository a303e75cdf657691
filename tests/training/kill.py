"""Kills a training with SIGKILL at random moments, restarts it each time, and compares its weights with those of an
uninterrupted training.

    python kill.py --kills 10 --steps 300

It runs `keras-arcface train` with dropout, a moving average of the weights, a separate learning rate of the head, a
margin warm-up, gradient clipping and gradient accumulation.
"""

import argparse
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np

from keras_arcface import data

OPTIONS = shlex.split(
    "--backbone IResNet18 --width 16 --dim 32 --epochs 30 --warmup-margin 4 --head-rate 2 --batch-size 16 "
    "--accumulate 2 --clip-norm 5 --ema 0.9 --deterministic --precision float32"
)


def make_dataset(directory: Path) -> None:
    """Writes 80 images of noise, ten per person."""
    generator = np.random.default_rng(0)
    for person in range(8):
        (directory / "faces" / str(person)).mkdir(parents=True)
        for image in range(10):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            cv2.imwrite(str(directory / "faces" / str(person) / f"{image}.png"), pixels)
    data.write_dataset(data.ImageFolder(directory / "faces"), directory / "records")


def start(directory: Path, output: Path, steps: int, every: int) -> subprocess.Popen:
    options = ("--data", directory / "records", "--output", output, "--steps", steps, "--every", every, *OPTIONS)
    command = [sys.executable, "-m", "keras_arcface", "train", *map(str, options)]
    with open(output.with_suffix(".txt"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def steps_done(output: Path) -> int:
    rows = (output / "steps.csv").read_text().splitlines() if (output / "steps.csv").exists() else []
    return int(rows[-1].split(",")[0]) if len(rows) > 1 else 0


def weights(output: Path) -> list[np.ndarray]:
    return [np.array(weight) for weight in keras.saving.load_model(output / "embedder.keras").weights]


def run(directory: Path, kills: int, steps: int, every: int, seed: int = 0) -> dict:
    make_dataset(directory)
    assert start(directory, directory / "uninterrupted", steps, every).wait() == 0
    generator = random.Random(seed)
    moments = sorted(generator.uniform(0, steps) for _ in range(kills))
    killed_at, interrupted = [], directory / "interrupted"
    for moment in moments:
        process = start(directory, interrupted, steps, every)
        while steps_done(interrupted) <= moment - every and process.poll() is None:
            time.sleep(0.05)
        time.sleep(generator.uniform(0, 1.5))  # any moment, also while a checkpoint is written
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(steps_done(interrupted))
    assert start(directory, interrupted, steps, every).wait() == 0
    pairs = list(zip(weights(directory / "uninterrupted"), weights(interrupted), strict=True))
    rows = [(directory / name / "steps.csv").read_text().splitlines() for name in ("uninterrupted", "interrupted")]
    return {
        "last step in steps.csv at each kill": killed_at,
        "identical arrays": f"{sum(np.array_equal(a, b) for a, b in pairs)} of {len(pairs)}",
        "largest difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "rows of steps.csv": [len(lines) - 1 for lines in rows],
        "resumed": (directory / "interrupted.txt").read_text().count("Resuming after step"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for name, figure in run(Path(directory), **vars(arguments)).items():
            print(f"{name}: {figure}")


if __name__ == "__main__":
    main()
