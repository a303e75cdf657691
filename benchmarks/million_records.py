"""Measures memory and shuffling quality with a million records of 100,000 classes, sorted by class.

    python benchmarks/million_records.py

Images are 16 x 16 JPEGs that encode their own number, so each record can be identified. It takes about 5 minutes and
500 MB of disk. It fails if the number of classes in a batch of 512 differs from uniform sampling, if a pass does not
contain every record once, if two passes have the same order, if a seed does not reproduce the order, or if the shares
of two hosts overlap or miss a record.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from keras_arcface import data

BATCH = 512
IMAGES_PER_CLASS = 10


class NumberedImages(data.Source):
    """Source of images that encode their number, 5 bits in each of four gray squares, sorted by class."""

    def __init__(self, num_records: int):
        self._num_records = num_records
        self.labels = np.arange(num_records) // IMAGES_PER_CLASS
        self.num_classes = int(self.labels[-1]) + 1

    def __len__(self):
        return self._num_records

    def __getitem__(self, index):
        squares = np.array([index >> 5 * square & 31 for square in range(4)], np.uint8).reshape(2, 2) * 8 + 4
        jpeg = cv2.imencode(".jpg", np.kron(squares, np.ones((8, 8), np.uint8)))[1].tobytes()
        return data.Record(jpeg, self.labels.item(index), f"{index}")

    def __str__(self):
        return f"{self._num_records} numbered images"


def numbers_of(images: np.ndarray) -> np.ndarray:
    """Decodes the numbers of images."""
    squares = images[:, 4::8, 4::8, 0].reshape(-1, 4).astype(int) // 8
    return squares @ [1, 32, 32**2, 32**3]


def resident() -> int:
    """Returns the memory of this process in MB, without mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) >> 10


class MemoryRecordingImages(NumberedImages):
    """Records the memory of the process while it is read."""

    def __init__(self, num_records: int):
        super().__init__(num_records)
        self.reads, self.memory = 0, []

    def __getitem__(self, index):
        self.reads += 1
        if self.reads % (len(self) // 10) == 0:
            self.memory.append(resident())
        return super().__getitem__(index)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(measure(MemoryRecordingImages(arguments.records), Path(directory) / "out"))


def measure(source: MemoryRecordingImages, directory: Path) -> int:
    begin = time.perf_counter()
    info = data.write_dataset(source, directory)
    seconds = time.perf_counter() - begin
    print(f"\n{info.num_examples:,} records, {info.num_classes:,} classes, {len(info.shards)} shards")
    print(f"written in {seconds:.0f} s, every image decoded; MB at each tenth: {source.memory}")

    def steps(start, count, **kwargs):
        dataset = data.load_dataset(directory, BATCH, training=True, augmentation=None, start_step=start, **kwargs)
        for images, labels in dataset.take(count):
            yield numbers_of(images.numpy()), labels.numpy()

    per_pass = info.num_examples // BATCH
    memory, classes, seen, wrong = [], [], [], 0
    begin = time.perf_counter()
    for step, (numbers, labels) in enumerate(steps(0, 2 * per_pass, seed=1)):
        wrong += int((numbers // IMAGES_PER_CLASS != labels).sum())
        classes.append(len(np.unique(labels)))
        seen.append(numbers)
        if step % (per_pass // 5) == 0:
            memory.append(resident())
    seconds = time.perf_counter() - begin
    stream = np.concatenate(seen)
    first, second = stream[: info.num_examples], stream[info.num_examples :]
    print(f"two passes read in {seconds:.0f} s; MB at each tenth: {memory}; images with a wrong label: {wrong}")

    # With n records, a batch misses a class with probability prod (n - 10 - i) / (n - i).
    taken = np.arange(BATCH)
    missed = np.prod((info.num_examples - IMAGES_PER_CLASS - taken) / (info.num_examples - taken))
    ideal = info.num_classes * (1 - missed)
    print(
        f"classes per batch of {BATCH}: {np.mean(classes):.2f} (min {min(classes)}), uniform sampling {ideal:.2f}: "
        f"{np.mean(classes) / ideal - 1:+.3%}; without shuffling {BATCH / IMAGES_PER_CLASS:.0f}"
    )
    is_complete = np.array_equal(np.sort(first), np.arange(info.num_examples))
    agreeing = np.mean(first[: len(second)] == second)
    print(f"the first pass contains every record once: {is_complete}; positions equal in both passes: {agreeing:.5%}")

    middle = per_pass // 2
    again = np.concatenate([numbers for numbers, _ in steps(middle, 20, seed=1)])
    repeats = np.array_equal(again, stream[middle * BATCH : (middle + 20) * BATCH])
    other = np.concatenate([numbers for numbers, _ in steps(0, 20, seed=2)])
    differs = (other != stream[: len(other)]).any()
    print(f"the same seed reproduces the order, from step {middle} on: {repeats}; another seed differs: {differs}")

    per_host = info.num_examples // (2 * BATCH)
    shares = [
        np.concatenate([numbers for numbers, _ in steps(0, per_host, seed=1, host=host, num_hosts=2)])
        for host in range(2)
    ]
    both = np.concatenate(shares)
    is_disjoint = len(np.unique(both)) == len(both)
    is_pass = set(both.tolist()) == set(stream[: len(both)].tolist())
    print(
        f"shares of 2 hosts: {len(shares[0]):,} + {len(shares[1]):,}, disjoint: {is_disjoint}, "
        f"together equal to one host: {is_pass}"
    )
    is_uniform = abs(np.mean(classes) / ideal - 1) < 0.02
    is_right = (is_complete, agreeing < 0.01, repeats, is_disjoint, is_pass, is_uniform, wrong == 0)
    return int(not all(is_right))


if __name__ == "__main__":
    main()
