"""Runs examples/train_multi_host.py as two hosts with two CPU devices each, over the loopback network, and as one."""

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

# Runs the script with a backbone of one layer, because an IResNet takes half a minute to compile.
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


def train(records, output, num_hosts, class_shards):
    """Runs all hosts to the end and returns the output of each."""
    coordinator = ("--coordinator", f"localhost:{hosts.free_port()}", "--hosts", num_hosts)
    options = ("--data", records, *coordinator, "--cpu-devices", 2, "--output", output)
    recipe = ("--backbone", "IResNet18", "--width", 4, "--dim", 8, "--batch-size", 8, "--steps", 7, "--every", 2)
    # There are three people, so most of the 64 classes have no images.
    shards = ("--class-shards", class_shards)
    command = [sys.executable, "-c", RUN, *map(str, (SCRIPT, *options, *recipe, *shards, "--host"))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(host)], cwd=records.parent, **pipes) for host in range(num_hosts)]
    try:
        printed = []
        for process in running:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            printed.append(output)
        return printed
    finally:
        for process in running:
            process.kill()


@pytest.mark.slow
def test_two_hosts_train_and_one_resumes(face_folder, tmp_path):
    pytest.importorskip("jax", reason="training on several hosts runs on JAX, which is absent")
    records, output = tmp_path / "records", tmp_path / "out"
    data.write_dataset(data.ImageFolder(face_folder), records)
    for host, printed in enumerate(train(records, output, num_hosts=2, class_shards=4)):
        assert f"host {host} of 2: 2 of 4 devices" in printed
        assert f"host {host} of 2: done" in printed
    embedder = keras.saving.load_model(output / "embedder.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    embeddings = embedder.predict(images, verbose=0)
    assert embeddings.shape == (3, 8)
    written = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert written == [f"step-{step:010d}.npz" for step in (2, 4, 6)]
    with open(output / "steps.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6", "7"]

    # Same state as if both hosts had been killed after the checkpoint of step 4. One of them continues alone.
    (output / "checkpoints" / written[-1]).unlink()
    assert "resuming after step 4" in train(records, output, num_hosts=1, class_shards=2)[0]
    again = keras.saving.load_model(output / "embedder.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), embeddings, rtol=1e-5, atol=1e-6)
