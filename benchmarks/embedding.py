"""Embeds a million faces, and embeds them again with ten kills at random moments, after which the files are the same.

    python benchmarks/embedding.py cfp324/train.rec                       # about 40 minutes on 2 cores, 9 GB of disk
    python benchmarks/embedding.py cfp324/train.rec --images 20000 --images-per-shard 1000 --kills 3

The images of the `.rec` file are repeated and converted to a dataset. The network has two convolutions, so that a core
embeds several hundred images per second and most of the time is that of reading, decoding and writing. Every run is the
command `keras-arcface embed`. A kill is SIGKILL of all its processes, or of one of those that write files; then the
same command runs again.

CPU seconds are those of all processes, and so is the peak of the memory, in which shared pages count once (PSS). The
last lines compare the planned CPU seconds and bytes (`keras_arcface.plan`) with the measured ones. The planned rate is
the difference between runs over one shard and three shards for each process, without the start of the processes, before
and after the run over all images.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
from process_usage import Usage
from process_usage import processes_of

from keras_arcface import data
from keras_arcface import plan

SHARDS = 1, 3  # for each process, in the runs whose difference is the planned rate
DIM = 512


class Repeated(data.Source):
    """The images of a source again and again, with a class for each person of each repetition."""

    def __init__(self, source: data.Source, num_images: int):
        self.source, self.num_images = source, num_images

    def __len__(self):
        return self.num_images

    def __getitem__(self, index):
        repetition, row = divmod(index, len(self.source))
        image, label, _ = self.source[row]
        return data.Record(image, repetition * self.source.num_classes + label, f"face {index:07}")

    def __str__(self):
        return f"{self.num_images} images of {self.source}"


def make_embedder(path: Path) -> None:
    keras.utils.set_random_seed(0)
    images = keras.Input((112, 112, 3))
    features = keras.layers.Rescaling(1 / 127.5, -1)(images)
    features = keras.layers.Conv2D(8, 8, 8, activation="relu")(features)
    features = keras.layers.Conv2D(16, 3, 2, "same", activation="relu")(features)
    keras.Model(images, keras.layers.Dense(DIM)(keras.layers.Flatten()(features))).save(path)


def start(dataset: Path, output: Path, embedder: Path, arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "keras_arcface", "embed", dataset, output, "--embedder", embedder]
    options = ["--processes", arguments.processes, "--images-per-shard", arguments.images_per_shard]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [str(part) for part in [*command, *options]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def embed(dataset: Path, output: Path, embedder: Path, arguments) -> Usage:
    """Runs the command to its end, and measures it."""
    running = start(dataset, output, embedder, arguments)
    with Usage(running.pid) as usage:
        code = running.wait()
    if code:
        raise RuntimeError(f"keras-arcface embed ended with exit code {code}")
    return usage


def embed_with_kills(dataset: Path, output: Path, embedder: Path, arguments, longest: float) -> None:
    """Kills the command at random moments, the last of which is at most `longest` seconds after its start."""
    chance = random.Random(arguments.seed)
    for number in range(arguments.kills):
        running = start(dataset, output, embedder, arguments)
        seconds = chance.uniform(0, longest)
        time.sleep(seconds)
        # The workers are those whose parent is neither the command nor another program: the server that forks them.
        found = processes_of(running.pid)
        workers = [process for process, (parent, _) in found.items() if found.get(parent, (0,))[0] == running.pid]
        victim = chance.choice(workers) if workers and number % 2 else None
        if running.poll() is None:
            (os.kill(victim, signal.SIGKILL) if victim else os.killpg(running.pid, signal.SIGKILL))
        running.wait()
        while processes_of(running.pid):
            time.sleep(0.1)
        finished = len(list(output.glob("*-of-*.parquet")))
        killed = "one worker" if victim else "all processes"
        print(f"  kill {number + 1:2} after {seconds:5.1f} s, {killed}: {finished} files are finished", flush=True)
    ended = start(dataset, output, embedder, arguments).wait()
    if ended:
        raise RuntimeError(f"the last run ended with exit code {ended}")


def checksums(directory: Path) -> dict[str, str]:
    sums = {}
    for path in sorted(directory.iterdir()):
        with open(path, "rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def num_bytes(directory: Path, suffix: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(f"*{suffix}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rec", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--images-per-shard", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the folder for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        sys.exit(measure(arguments, Path(folder)))


def measure(arguments, folder: Path) -> int:
    source = data.RecordIO(arguments.rec)
    embedder = folder / "embedder.keras"
    make_embedder(embedder)
    runs: dict[int, list[Usage]] = {}
    few, many = (shards * arguments.processes * arguments.images_per_shard for shards in SHARDS)
    # The small runs before and after the large one see the same other programs on the machine.
    for number, count in enumerate((few, many, arguments.images, few, many)):
        dataset, output = folder / f"dataset_{count}", folder / f"embeddings_{number}"
        if count not in runs:
            data.write_dataset(Repeated(source, count), dataset, processes=arguments.processes)
        usage = embed(dataset, output, embedder, arguments)
        runs.setdefault(count, []).append(usage)
        print(
            f"{count:,} images: {usage.seconds:,.1f} s, {usage.cpu_seconds:,.1f} CPU s, "
            f"{count / usage.seconds:,.0f} images/s with {arguments.processes} processes, "
            f"peak memory {usage.memory / 2**20:,.0f} MiB",
            flush=True,
        )
    dataset, output = folder / f"dataset_{arguments.images}", folder / "embeddings_2"
    (whole_run,), whole = runs[arguments.images], checksums(output)
    written = num_bytes(output, ".parquet")
    print(f"{len(whole)} files, {written:,} bytes of Parquet", flush=True)

    killed = folder / "killed"
    longest = 2 * whole_run.seconds / max(1, arguments.kills)
    embed_with_kills(dataset, killed, embedder, arguments, longest)
    again = checksums(killed)
    is_same = again == whole
    print(f"after {arguments.kills} kills, {len(again)} files, each with the same sha256: {is_same}")

    small, large = (sum(usage.cpu_seconds for usage in runs[count]) / len(runs[count]) for count in (few, many))
    rate = (many - few) / (large - small)
    setup = plan.ImageSetup(arguments.images, dim=DIM, name_bytes=12, embed_rate=rate)
    planned = {stage.name: stage for stage in plan.estimate_stages(setup)}["embed, float32"]
    print(f"\n{'':24}{'planned':>16}{'measured':>16}{'ratio':>7}   at {rate:,.0f} images per CPU second")
    figures = {
        "CPU seconds": (3600 * planned.core_hours, whole_run.cpu_seconds),
        "bytes": (planned.num_bytes, written),
    }
    for name, (expected, measured) in figures.items():
        print(f"{name:24}{expected:16,.0f}{measured:16,.0f}{expected / measured:7.2f}")
    return int(not is_same)


if __name__ == "__main__":
    main()
