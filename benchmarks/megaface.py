"""Measures MegaFace through files of features: a million synthetic distractors, one file each.

    python benchmarks/megaface.py FOLDER                        # 6 minutes of CPU time, 5 GB and 1.1 million files
    python benchmarks/megaface.py FOLDER --distractors 10000

FOLDER must not exist and is removed at the end. The features are written by `data.write_feature_files` and evaluated by
`keras-arcface evaluate --megaface --megaface-features`. A plain program, which knows only the format (`struct` and
`np.fromfile`) and the protocol, reads the same files and must find the same features and figures. Each part runs in a
separate process, whose peak memory is given in addition to its start and in total. CPU is the time of all its threads.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import shutil
import struct
import time
from pathlib import Path

import numpy as np
from evaluation import Peak
from evaluation import synthetic

PEOPLE, PROBES = 80, 3530
ENDING = "_synthetic.bin"
BLOCK = 50_000
FAR = 1e-6


class Usage(Peak):
    """Context manager that also records the CPU time of all threads, which depends less on other programs."""

    def __enter__(self):
        self._cpu_started = time.process_time()
        return super().__enter__()

    def row(self, name, note=""):
        cpu = time.process_time() - self._cpu_started
        label, seconds, *rest = super().row(name, note)
        return [label, seconds, f"{cpu:.1f}", *rest]


def probe_names():
    people = np.sort(np.arange(PROBES) % PEOPLE)
    return [f"Person_{person}/Person_{person}_{number}.png" for number, person in enumerate(people.tolist())]


def probes():
    return synthetic(PEOPLE, np.sort(np.arange(PROBES) % PEOPLE), 1.8, 2)


def distractor_names(start, stop):
    """Ten photos per person and a hundred people per folder."""
    return [f"{number // 1000}/{number // 10}@N00/{number}_0.jpg" for number in range(start, stop)]


def distractors(start, stop):
    return synthetic(1, np.zeros(stop - start, np.int64), 40.0, 3 + start)


def blocks(count):
    return [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def write(folder, count):
    """Writes the features and the lists of the development kit."""
    from keras_arcface import data

    features = folder / "features"
    with Usage() as usage:
        data.write_feature_files(features / "facescrub", probe_names(), probes(), ENDING)
        for start, stop in blocks(count):
            names = distractor_names(start, stop)
            data.write_feature_files(features / "megaface", names, distractors(start, stop), ENDING)
    yield usage.row(f"write {count:,} files", f"{count / usage.seconds:,.0f} files/s, with the random numbers")
    lists = folder / "devkit" / "templatelists"
    lists.mkdir(parents=True)
    ids = [name.split("/")[0] for name in probe_names()]
    (lists / "facescrub_features_list.json").write_text(json.dumps({"path": probe_names(), "id": ids}))
    listed = json.dumps({"path": distractor_names(0, count)})
    (lists / f"megaface_features_list.json_{count}_1").write_text(listed)


def command(folder, count):
    """Evaluates the files with the command."""
    from keras_arcface.cli.main import main

    arguments = ["evaluate", "--megaface", f"mega={folder}", "--megaface-features", f"ours={folder / 'features'}"]
    with Usage() as usage, contextlib.redirect_stdout(io.StringIO()):
        main([*arguments, "--output", str(folder / "out")])
    result = json.loads((folder / "out" / "results.json").read_text())["distractors"]["mega"]["ours"]
    yield usage.row(
        "keras-arcface evaluate", f"rank-1 {result['cmc'][0]:.6f}, TAR@{FAR:g} {result['tar'][f'{FAR:g}']:.6f}"
    )


def read_feature(path):
    with open(path, "rb") as file:
        rows, columns, step, kind = struct.unpack("<4i", file.read(16))
        if (columns, step, kind) != (1, 4, 5):
            raise ValueError(f"{path}: {rows, columns, step, kind}")
        values = np.fromfile(file, "<f4")
    if len(values) != rows:
        raise ValueError(f"{path}: {len(values)} values instead of {rows}")
    return values


def plain(folder, count):
    """Reads the files and computes rank-1 and TAR in numpy, without this package."""
    features = folder / "features"
    with Usage() as usage:
        rows = np.stack([read_feature(features / "facescrub" / f"{name}{ENDING}") for name in probe_names()])
        equal = np.array_equal(rows, probes())
        best, top = np.full(PROBES, -1.0, np.float32), np.empty(0, np.float32)
        accepted = PROBES * count // round(1 / FAR)
        for start, stop in blocks(count):
            names = distractor_names(start, stop)
            block = np.stack([read_feature(features / "megaface" / f"{name}{ENDING}") for name in names])
            equal &= np.array_equal(block, distractors(start, stop))
            for first in range(0, PROBES, 500):
                scores = rows[first : first + 500] @ block.T
                best[first : first + 500] = np.maximum(best[first : first + 500], scores.max(axis=1))
                top = np.concatenate([top, scores[scores > (top.min() if len(top) > accepted else -1)]])
                if len(top) > accepted + 1:
                    top = np.partition(top, len(top) - accepted - 1)[len(top) - accepted - 1 :]
        own = rows @ rows.T
        people = np.sort(np.arange(PROBES) % PEOPLE)
        mates = (people[:, None] == people) & ~np.eye(PROBES, dtype=bool)
        rank_1 = np.mean((own > best[:, None])[mates])
        tar = np.mean(own[mates] > top.min())
    yield usage.row("numpy.fromfile and matrix products", f"rank-1 {rank_1:.6f}, TAR@{FAR:g} {tar:.6f}")
    yield ["", "", "", "", "", f"features equal those that were written: {equal}"]


def run(part, folder, count, results):
    try:
        for row in part(folder, count):
            results.put(row)
    finally:
        results.put(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--distractors", type=int, default=1_000_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir()
    context = multiprocessing.get_context("spawn")
    print(f"{'':40}{'seconds':>9}{'CPU':>8}{'GiB added':>11}{'GiB total':>11}  ")
    try:
        for part in (write, command, plain):
            results = context.Queue()
            process = context.Process(target=run, args=(part, arguments.folder, arguments.distractors, results))
            process.start()
            for label, seconds, cpu, added, total, note in iter(results.get, None):
                print(f"{label:40}{seconds:>9}{cpu:>8}{added:>11}{total:>11}  {note}", flush=True)
            process.join()
            if process.exitcode:
                raise SystemExit(f"{part.__name__} failed")
    finally:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
