"""Damages files at random and counts the results of reading them.

    python tests/data/fuzz.py --each 4000

Every file is damaged by flipped bits, overwritten or repeated sections, truncation, and wrong numbers (lengths of
2^29 - 1, index entries that point to each other ...). It is then read as by a user, and the result is compared with the
original:

    right      every record is correct (the damage hit padding, spaces, or something without effect)
    named      an error names the file, and the position in it if there is one
    skipped    the same, and all other records are correct
    unnoticed  a record is wrong, and the format has no means to detect it: in the label or image of a RecordIO file, a
               record without an index that ends between two records, in an image, label or reference of a pickle
    wrong      a record is wrong without an error, although the format could detect it; must be 0
    crash      any other exception; must be 0

A case that takes longer than 20 seconds ends the program. The table also has the peak of the address space above that
before reading, less the size of the file. It must stay below 100 MB.
"""

import argparse
import collections
import logging
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
import recordio_files
from conftest import encode
from conftest import make_face

from keras_arcface.data import PairSet
from keras_arcface.data import Record
from keras_arcface.data import RecordIO
from keras_arcface.data import Source
from keras_arcface.data import load_info
from keras_arcface.data import schema
from keras_arcface.data import write_dataset
from keras_arcface.data.shards import ShardReader

PEOPLE = [[encode(make_face(p, i), (".jpg", ".png")[(p + i) % 2]) for i in range(4)] for p in range(8)]
IMAGES = [(image, label) for label, images in enumerate(PEOPLE) for image in images]
OUTCOMES = ("right", "named", "skipped", "unnoticed", "wrong", "crash")
LIMIT = 100 << 20


def damage(content: bytes, rng: random.Random, numbers: list[int]) -> bytes:
    """A damaged copy.

    Args:
        content: of the file.
        rng: to draw from.
        numbers: offsets of 4-byte numbers to overwrite with lies.
    """
    data = bytearray(content)
    kind = rng.choice(("bit", "bit", "byte", "bits", "cut", "zeros", "noise", "doubled", "removed", "number"))
    at = rng.randrange(len(data))
    length = rng.randrange(1, 200)
    if kind in ("bit", "byte", "bits"):
        for _ in range(1 if kind != "bits" else rng.randrange(2, 20)):
            data[at] ^= 1 << rng.randrange(8) if kind != "byte" else rng.randrange(1, 256)
            at = rng.randrange(len(data))
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "noise":
        data[at : at + length] = rng.randbytes(len(data[at : at + length]))
    elif kind == "doubled":
        data[at:at] = data[at : at + length]
    elif kind == "removed":
        del data[at : at + length]
    elif numbers:
        lie = rng.choice((2**29 - 1, 2**32 - 1, 2**31, 0, 1, rng.randrange(2**32), 3 << 29 | 5))
        struct.pack_into("<I", data, rng.choice(numbers), lie)
    return bytes(data)


def damage_index(content: bytes, rng: random.Random) -> bytes:
    """Damages an index as `damage` does, or exchanges, repeats, removes or redirects entries."""
    if rng.random() < 0.5:
        return damage(content, rng, [])
    lines = content.decode().splitlines()
    first, second = rng.sample(range(len(lines)), 2)
    keys, offsets = zip(*(line.split("\t") for line in lines), strict=True)
    kind = rng.choice(("loop", "swap keys", "swap offsets", "drop", "repeat", "huge", "shift", "end"))
    if kind == "loop":
        lines[first] = f"{keys[first]}\t{offsets[second]}"
    elif kind == "swap keys":
        lines[first], lines[second] = f"{keys[second]}\t{offsets[first]}", f"{keys[first]}\t{offsets[second]}"
    elif kind == "swap offsets":
        lines[first], lines[second] = f"{keys[first]}\t{offsets[second]}", f"{keys[second]}\t{offsets[first]}"
    elif kind == "drop":
        del lines[first]
    elif kind == "repeat":
        lines.insert(first, lines[second])
    elif kind == "huge":
        lines[first] = f"{keys[first]}\t{rng.choice((2**29 - 1, 2**63 - 1, 2**64, 10**30, -4))}"
    elif kind == "shift":
        lines[first] = f"{keys[first]}\t{int(offsets[first]) + rng.choice((4, -4, 8, 1))}"
    else:
        lines = lines[: rng.randrange(len(lines))]
    return ("\n".join(lines) + "\n").encode()


class RecordFile:
    """A `.rec` file with or without its `.idx`, one of which is damaged."""

    def __init__(self, folder: Path, index: bool, damaged: str):
        self.path, self.index = folder / "train.rec", index
        offsets = recordio_files.write(self.path, recordio_files.ms1m_layout(PEOPLE), "8,32,32\n")
        self.target = folder / damaged
        self.content = self.target.read_bytes()
        data = self.path.read_bytes()
        self.offsets = offsets
        self.protected = {self.protected_part(data, offset) for offset in offsets}
        self.numbers = [at for offset in offsets for at in (offset + 4, offset + 8)]
        self.expected = {record.name: record[:2] for record in RecordIO(self.path, index=index)}

    def damage(self, rng):
        return (
            damage_index(self.content, rng) if self.target.suffix == ".idx" else damage(self.content, rng, self.numbers)
        )

    def read(self):
        source = RecordIO(self.path, index=self.index)
        labels = source.labels
        records, errors = {}, []
        for index in range(len(source)):
            try:
                record = source[index]
                records[record.name] = (record[:2], int(source._offsets[index]))
                if labels[index] != record.label:
                    raise RuntimeError(f"{record.name} has label {record.label}, and {labels[index]} in the table")
            except ValueError as error:
                errors.append(str(error))
        return records, errors

    def is_named(self, error):
        return re.search(r"train\.(rec|idx)", error) and re.search(r"offset|key|row|line|empty|column", error)

    def compare(self, records, errors):
        whole = collections.Counter(self.expected.values())
        found = collections.Counter(record for record, _ in records.values())
        data = self.path.read_bytes()
        outcome = "right" if not errors else "skipped" if (whole - found).total() <= len(errors) else "named"
        for name, (record, offset) in records.items():
            # Without an index the name is the offset, which moves when bytes are added or removed.
            if record != self.expected.get(name) if self.index else record not in whole:
                if self.protected_part(data, offset) not in self.protected:
                    return "wrong"
                outcome = "unnoticed"
        if not errors and found.total() < whole.total():
            return "unnoticed" if not self.index and len(data) in self.offsets else "wrong"
        return outcome

    def protected_part(self, data: bytes, offset: int) -> bytes:
        """What of a record can be checked: the frame, and with an index the id. Label and image cannot."""
        return data[offset : offset + 8] + (data[offset + 16 : offset + 24] if self.index else b"")


class Dataset:
    """A dataset directory with a damaged shard or `dataset.json`."""

    def __init__(self, folder: Path, damaged: str, skip: bool):
        class Faces(list, Source):
            num_classes = len(PEOPLE)

        if not (folder / "out").exists():
            write_dataset(Faces(Record(*pair, f"{i}") for i, pair in enumerate(IMAGES)), folder / "out", 11)
        self.folder, self.skip = folder / "out", skip
        self.target = self.folder / damaged
        self.content = self.target.read_bytes()
        self.info = load_info(self.folder)
        self.expected = sorted(ShardReader(self.folder, self.info, False))
        self.numbers, at = [], 0
        while self.target.suffix == ".tfrecord" and at < len(self.content):
            self.numbers += [at, at + 4, at + 8]
            at += 16 + struct.unpack_from("<Q", self.content, at)[0]

    def damage(self, rng):
        return damage(self.content, rng, self.numbers)

    def read(self):
        info = load_info(self.folder)
        if info != self.info:
            return {"info": info}, []
        shards = ShardReader(self.folder, info, self.skip)
        records = list(shards)
        for record in records:
            schema.read_label(record)
        errors = [] if shards.num_examples == info.num_examples else [f"{self.target}: damaged, at an offset"]
        return records, errors

    def is_named(self, error):
        return self.target.name in error or str(self.folder) in error

    def compare(self, records, errors):
        if isinstance(records, dict):
            return "wrong"
        left = collections.Counter(records)
        if left - collections.Counter(self.expected):
            return "wrong"
        if sorted(records) == self.expected:
            return "right"
        return "skipped" if errors else "wrong"


class Pickle:
    """A verification set."""

    def __init__(self, folder: Path, protocol: int, arrays: bool):
        self.target = folder / "pairs.bin"
        images = [image for image, _ in IMAGES]
        items = [np.frombuffer(image, np.uint8) for image in images] if arrays else images
        self.content = pickle.dumps((items, [i % 2 == 0 for i in range(16)]), protocol)
        self.target.write_bytes(self.content)
        loaded = PairSet.load(self.target)
        self.expected = (loaded.images, loaded.same.tolist())
        self.numbers = [
            at for at in range(len(self.content) - 4) if self.content[at - 1 : at] in (b"B", b"C", b"T", b"r")
        ]
        self.numbers = self.numbers[:: max(1, len(self.numbers) // 200)]

    def damage(self, rng):
        return damage(self.content, rng, self.numbers)

    def read(self):
        pairs = PairSet.load(self.target)
        return (pairs.images, pairs.same.tolist()), []

    def is_named(self, error):
        return "pairs.bin" in error

    def compare(self, records, errors):
        return "right" if records == self.expected else "unnoticed"


def targets(folder: Path):
    for name, make in {
        ".rec, with its .idx": lambda at: RecordFile(at, True, "train.rec"),
        ".rec, scanned": lambda at: RecordFile(at, False, "train.rec"),
        ".idx": lambda at: RecordFile(at, True, "train.idx"),
        ".tfrecord": lambda at: Dataset(at, "00001-of-00003.tfrecord", skip=False),
        ".tfrecord, skipping": lambda at: Dataset(at, "00001-of-00003.tfrecord", skip=True),
        "dataset.json": lambda at: Dataset(at, "dataset.json", skip=False),
        ".bin of bytes": lambda at: Pickle(at, 4, arrays=False),
        ".bin of arrays, protocol 2": lambda at: Pickle(at, 2, arrays=True),
    }.items():
        at = folder / re.sub(r"\W+", "_", name)
        at.mkdir()
        yield name, make(at)


def address_space() -> tuple[int, int]:
    """Returns the current address space and its peak, in bytes."""
    status = Path("/proc/self/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", status)[1]) << 10 for name in ("VmSize", "VmPeak"))


def fuzz(target, cases: int, seed: int, show=0) -> tuple[collections.Counter, list[str]]:
    """Counts the outcomes, and describes those that must not occur."""
    counts, forbidden = collections.Counter(), []
    for case in range(cases):
        rng = random.Random(f"{seed} {case}")
        target.target.write_bytes(target.damage(rng))
        signal.alarm(20)
        try:
            records, errors = target.read()
            outcome = target.compare(records, errors)
        except ValueError as error:
            errors, outcome = [str(error)], "named"
        except Exception as error:
            errors, outcome = [repr(error)], "crash"
        finally:
            signal.alarm(0)
        unnamed = [error for error in errors if not target.is_named(error)]
        if unnamed and outcome in ("named", "skipped"):
            outcome = "crash"
        counts[outcome] += 1
        if outcome in ("wrong", "crash"):
            forbidden.append(f"case {case}: {outcome}: {unnamed[:1] or errors[:1]}")
        elif show and errors and counts[outcome] <= show:
            print(f"  {outcome}: {errors[0][-200:]}")
    target.target.write_bytes(target.content)
    return counts, forbidden


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=4000, help="number of cases per kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="number of errors of each kind to print")
    arguments = parser.parse_args()
    logging.disable()
    folder = Path(tempfile.mkdtemp())
    rows, total, forbidden = [], collections.Counter(), []
    for name, target in tqdm(list(targets(folder)), unit="file"):
        before, _ = address_space()
        counts, bad = fuzz(target, arguments.each, arguments.seed, arguments.show)
        extra = address_space()[1] - before - len(target.content)
        rows.append(f"{name:28}" + "".join(f"{counts[outcome]:>11,}" for outcome in OUTCOMES) + f"{extra >> 20:>9} MB")
        total += counts
        forbidden += [f"{name}: {line}" for line in bad]
        if extra > LIMIT:
            forbidden.append(f"{name}: {extra >> 20} MB of memory")
    shutil.rmtree(folder)
    print(f"\n{'damaged':28}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES) + f"{'memory':>12}")
    print(*rows, sep="\n")
    print(f"{'all':28}" + "".join(f"{total[outcome]:>11,}" for outcome in OUTCOMES))
    print(f"{total.total():,} cases; peak resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")
    sys.exit("\n".join(forbidden[:20]) if forbidden else 0)


if __name__ == "__main__":
    main()
