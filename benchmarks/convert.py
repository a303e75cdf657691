"""Compares the throughput of `write_dataset` with only reading and hashing the same bytes.

    python benchmarks/convert.py path/to/train.rec --copies 20 --folder /dev/shm

The records are repeated until the file is long enough to measure. The limit reads the file in pieces of 1 MB with the
same number of processes, computes sha256 checksums and writes nothing. Before each measurement, the file is in the page
cache and the processes are started. --folder sets the location of the files; with /dev/shm the disk has no influence.
"""

import argparse
import concurrent.futures
import hashlib
import multiprocessing
import os
import shutil
import statistics
import struct
import tempfile
import time
from pathlib import Path

from keras_arcface import data

PIECE = 1 << 20


def repeat(rec: Path, copies: int, target: Path) -> None:
    """Writes the image records of a `.rec` file several times to a new `.rec` file with an index."""
    offset, lines = 0, []
    with open(target, "wb") as file:
        for copy in range(copies):
            for number, (image, label, _) in enumerate(data.RecordIO(rec)):
                key = copy * 10_000_000 + number
                payload = struct.pack("<IfQQ", 0, label, key, 0) + image
                frame = struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)
                file.write(frame)
                lines.append(f"{key}\t{offset}\n")
                offset += len(frame)
    target.with_suffix(".idx").write_text("".join(lines))


def read_and_hash(path: Path, start: int, end: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        for position in range(start, end, PIECE):
            digest.update(file.read(min(PIECE, end - position)))
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rec", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the folder for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        compare(arguments, Path(folder))


def compare(arguments, folder: Path) -> None:
    processes, rec = arguments.processes, folder / "train.rec"
    repeat(arguments.rec, arguments.copies, rec)
    size = rec.stat().st_size
    source = data.RecordIO(rec)
    seconds = {}

    def timed(name, run):
        begin = time.perf_counter()
        run()
        seconds.setdefault(name, []).append(time.perf_counter() - begin)

    def convert(check):
        shutil.rmtree(folder / "out", ignore_errors=True)
        data.write_dataset(source, folder / "out", 2_000, processes=processes, check=check)

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:

        def limit():
            bounds = [size * part // processes for part in range(processes + 1)]
            list(pool.map(read_and_hash, [rec] * processes, bounds[:-1], bounds[1:]))

        limit()
        convert(check=True)  # warm-up
        for _ in range(arguments.rounds):
            timed("read and hash", limit)
            timed("write_dataset, images not decoded", lambda: convert(check=False))
            timed("write_dataset, every image decoded", lambda: convert(check=True))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"\n{size / 1e6:.0f} MB, {len(source):,} images, {processes} processes, median of {arguments.rounds} rounds\n"
    )
    print(f"{'':40}{'MB/s':>8}{'images/s':>10}{'x limit':>14}")
    for name, median in medians.items():
        ratio = medians["read and hash"] / median
        print(f"{name:40}{size / 1e6 / median:>8.0f}{len(source) / median:>10,.0f}{ratio:>14.2f}")


if __name__ == "__main__":
    main()
