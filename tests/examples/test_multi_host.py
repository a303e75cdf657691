"""examples/train_multi_host.py as two hosts with two CPU devices each, on loopback."""

import csv
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from training import hosts

from keras_arcface import data

SCRIPT = Path(__file__).parents[2] / "examples" / "train_multi_host.py"

# The script, with a backbone of one layer in place of one that takes half a minute to compile.
RUN = """
import os, runpy, sys
os.environ["KERAS_BACKEND"] = "jax"
import keras
from keras_arcface import backbones

def tiny(width, input_shape):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Conv2D(width, 8, strides=8)])

backbones.IResNet18 = tiny
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_hosts_train_and_the_first_writes(face_folder, tmp_path):
    pytest.importorskip("jax", reason="training on several hosts runs on JAX, which is absent")
    data.write_dataset(data.ImageFolder(face_folder), tmp_path / "records")
    coordinator = f"localhost:{hosts.free_port()}"
    options = ("--data", tmp_path / "records", "--coordinator", coordinator, "--hosts", 2, "--cpu-devices", 2)
    recipe = ("--backbone", "IResNet18", "--width", 4, "--dim", 8, "--batch-size", 8, "--steps", 6)
    running = []
    for host in range(2):
        # Three people: four shards have one of the classes each, the last of them without images.
        each = ("--host", host, "--output", tmp_path / f"out{host}", "--report-every", 3, "--class-shards", 4)
        command = [sys.executable, "-c", RUN, *map(str, (SCRIPT, *options, *recipe, *each))]
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        )
    try:
        for host, process in enumerate(running):
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert f"host {host} of 2: 2 of 4 devices" in output
            assert f"host {host} of 2: done" in output
    finally:
        for process in running:
            process.kill()

    with (tmp_path / "out0" / "losses.csv").open() as file:
        losses = [float(line["loss"]) for line in csv.DictReader(file)]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    embedder = keras.saving.load_model(tmp_path / "out0" / "embedder.keras")
    embeddings = embedder.predict(np.zeros((3, 32, 32, 3), np.uint8), verbose=0)
    assert embeddings.shape == (3, 8)
    assert np.isfinite(embeddings).all()
    assert not (tmp_path / "out1").exists()
