"""Kills publishers at random moments, runs two at the same time, and lets one run out of disk space.

    python tests/serving/kill.py --times 50

A publisher gets SIGKILL, which no program can catch; the next one must succeed and remove all leftovers. At the same
time another process lists the base path every millisecond, as a very fast server, and checks whether each directory
with an integer name is complete: all files, with their sizes. A second process reads each of them completely, once.
Last, as root, a small file system in memory runs full. It takes a minute or two.
"""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.versions import version_number
from keras_arcface.serving.deploy.versions import versions

FORK = multiprocessing.get_context("fork")  # importing TensorFlow in each process would take longer than publishing
MEGABYTE = 1_000_000


def make_model(directory: Path, megabytes: int) -> Path:
    """Writes files of different sizes, as in a SavedModel."""
    rng = random.Random(0)
    sizes = {"saved_model.pb": 2, "variables/variables.index": 0.01, "assets.extra/tf_serving_warmup_requests": 1}
    sizes |= {f"variables/variables.data-{shard:05}-of-00006": (megabytes - 3) / 6 for shard in range(6)}
    for name, size in sizes.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(rng.randbytes(int(size * MEGABYTE)))
    return directory


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def leftovers(base: Path) -> list[str]:
    return [name for name in os.listdir(base) if name.startswith(".tmp-")]


class Watcher:
    """Lists a base path every millisecond, and checks the directories with integer names.

    Args:
        thorough: whether to read the files of each new directory, instead of only their sizes in all directories.
    """

    def __init__(self, base: Path, whole: dict[str, tuple[int, str]], thorough: bool):
        self.base, self.whole, self.thorough = base, whole, thorough
        self.moments, self.looks, self.faults, self.seen = [], 0, [], set()

    def run(self, stop, results) -> None:
        while not stop.is_set():
            self.moments.append(time.monotonic())
            for name in os.listdir(self.base):
                if version_number(name) is not None:
                    self.look(name)
            time.sleep(0.001)
        pauses = sorted(after - before for before, after in itertools.pairwise(self.moments))
        results.put((self.thorough, len(self.moments), self.looks, pauses, self.faults))

    def look(self, name: str) -> None:
        try:
            directory = os.open(self.base / name, os.O_RDONLY)
        except FileNotFoundError:  # withdrawn after the listing
            return
        key = (name, os.fstat(directory).st_ino)
        if not self.thorough or key not in self.seen:
            self.seen.add(key)
            self.looks += 1
            fault = self.fault(directory)
            if fault and self.has_its_name(*key):  # a renamed directory may be incomplete
                self.faults.append(f"version {name}: {fault}")
        os.close(directory)

    def fault(self, directory: int) -> str | None:
        for file, (size, digest) in self.whole.items():
            try:
                if os.stat(file, dir_fd=directory).st_size != size:
                    return f"{file} has another size"
                if self.thorough:
                    with open(os.open(file, os.O_RDONLY, dir_fd=directory), "rb") as opened:
                        if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                            return f"{file} has another content"
            except FileNotFoundError:
                return f"{file} is missing"
        return None

    def has_its_name(self, name: str, inode: int) -> bool:
        try:
            return os.stat(self.base / name).st_ino == inode
        except FileNotFoundError:
            return False


def start(model: Path, base: Path, keep: int | None = None, at=None, results=None):
    def run():
        if at is not None:
            at.wait()
        path = publish(model, base, keep=keep, check=False)
        if results is not None:
            results.put(int(path.name))

    process = FORK.Process(target=run)
    process.start()
    return process


def kill_many(model: Path, base: Path, whole: dict, times: int, rng: random.Random) -> list[str]:
    durations = []
    for _ in range(5):
        begun = time.monotonic()
        start(model, base, keep=3).join()
        durations.append(time.monotonic() - begun)
    duration = statistics.median(durations)
    moments, states, bad, largest, good = [], {}, [], max(versions(base)), 0
    number = 0
    while len(moments) < times:
        number += 1
        process = start(model, base, keep=(None, 3)[number % 2])
        moment = rng.uniform(0, duration)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        left, appeared = leftovers(base), max(versions(base)) > largest
        if process.exitcode == -signal.SIGKILL:
            moments.append(moment)
            state = "copying" if left and not appeared else "published, a leftover to remove" if left else "published"
            state = state if left or appeared else "before the copy"
            states[state] = states.get(state, 0) + 1
        elif process.exitcode:
            bad.append(f"publication {number} failed")
        largest = max(versions(base))
        after = publish(model, base, keep=(3, None)[number % 2], check=False)
        if int(after.name) == largest + 1 and not leftovers(base):
            good += 1
        else:
            bad.append(f"after kill {number}: {after.name} follows {largest}, left: {leftovers(base)}")
        largest = int(after.name)
    bad += [f"version {number} differs" for number in versions(base) if contents(base / str(number)) != whole]
    print(f"one publication takes {duration * 1000:.0f} ms (median of {len(durations)})")
    print(f"killed {times} times, after {min(moments) * 1000:.0f} to {max(moments) * 1000:.0f} ms (", end="")
    print(f"{number - times} were over before that):")
    for state, count in sorted(states.items(), key=lambda item: -item[1]):
        print(f"  {count:3}  {state}")
    print(f"the next one succeeded, with the next number, and nothing was left: {good} of {number}")
    return bad


def two_at_once(model: Path, base: Path, whole: dict, rounds: int) -> list[str]:
    bad = []
    for number in range(rounds):
        at, results = FORK.Barrier(2), FORK.Queue()
        both = [start(model, base, keep=4, at=at, results=results) for _ in range(2)]
        given = {results.get(timeout=60) for _ in both}
        for process in both:
            process.join()
        complete = all(contents(base / str(version)) == whole for version in given)
        if len(given) != 2 or not complete or leftovers(base):
            bad.append(f"two at once, round {number}: {given}, complete: {complete}, left: {leftovers(base)}")
    print(f"two at once: two numbers, both complete: {rounds - len(bad)} of {rounds}")
    return bad


def watched(results) -> list[str]:
    found = sorted(results.get(timeout=60) for _ in range(2))
    (_, listed, looks, pauses, _), (_, _, read, _, _) = found
    faults = [fault for *_, faults in found for fault in faults]
    typical, rare, longest = (1000 * pauses[int(share * (len(pauses) - 1))] for share in (0.5, 0.99, 1))
    print(f"listed {listed:,} times, every {typical:.1f} ms (99% within {rare:.1f} ms, all within {longest:.0f} ms)")
    print(f"  {looks:,} looks at versions, {read} of them read whole: {len(faults)} incomplete")
    return faults


def full_disk(model: Path, folder: Path, whole: dict, megabytes: int) -> list[str]:
    disk = folder / "disk"
    disk.mkdir()
    size = f"size={int(1.6 * megabytes * MEGABYTE)}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=False).returncode:
        print("a full disk: not shown, mounting a small file system needs root")
        return []
    try:
        base = disk / "faces"
        publish(model, base, check=False)
        free, bad = shutil.disk_usage(disk).free, []
        try:
            publish(model, base, check=False)
            bad.append("the full disk was not noticed")
        except OSError as error:
            print(f"a full disk: {type(error).__name__}: {str(error).replace(str(folder), '...')}")
        if shutil.disk_usage(disk).free != free or os.listdir(base) != ["1"] or contents(base / "1") != whole:
            bad.append(f"the full disk: {sorted(os.listdir(base))}")
        subprocess.run(["mount", "-o", f"remount,size={3 * megabytes * MEGABYTE}", disk], check=True)
        if contents(publish(model, base, check=False)) != whole or sorted(os.listdir(base)) != ["1", "2"]:
            bad.append("with more space: version 2 is not whole")
        print(f"  nothing left, version 1 as it was, and with more space version 2 is there: {'no' if bad else 'yes'}")
        return bad
    finally:
        subprocess.run(["umount", disk], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds with two publishers")
    parser.add_argument("--megabytes", type=int, default=48, help="size of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="folder on the file system to test")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    model, base = make_model(folder / "model", arguments.megabytes), folder / "faces"
    base.mkdir()
    whole = contents(model)
    stop, results = FORK.Event(), FORK.Queue()
    watchers = [FORK.Process(target=Watcher(base, whole, how).run, args=(stop, results)) for how in (False, True)]
    for watcher in watchers:
        watcher.start()
    try:
        print(f"a model of {len(whole)} files, {arguments.megabytes} MB")
        bad = kill_many(model, base, whole, arguments.times, random.Random(arguments.seed))
        bad += two_at_once(model, base, whole, arguments.rounds)
        stop.set()
        bad += watched(results)
        bad += full_disk(model, folder, whole, arguments.megabytes)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
        shutil.rmtree(folder)
    print(*bad, sep="\n", end="\n" if bad else "")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
