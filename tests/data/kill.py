"""Kills conversions at random moments, fills the disk during one, and compares the results after they continue.

    python tests/data/kill.py path/to/train.rec --times 20

Each time a conversion by two processes receives SIGKILL: the main process, one of the worker processes, or all of them.
Then it is started again, and every file in the directory must equal that of an uninterrupted conversion. At the end, as
root, a small file system in memory runs full. The program takes about 10 minutes.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_arcface import data


def convert(source: str, directory: str) -> None:
    try:
        data.write_dataset(data.RecordIO(source), directory, examples_per_shard=100, processes=2)
    except (OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}")


def start(source: Path, directory: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, str(source), "--convert-to", str(directory)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def writers(main: int) -> list[int]:
    """Returns the worker processes, which are children of the server process that forks them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    children = {pid for pid, parent in parents.items() if parent == main}
    return [pid for pid, parent in parents.items() if parent in children]


def kill(process: subprocess.Popen, whom: str, rng: random.Random) -> bool:
    if process.poll() is not None:
        return False
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "main":
        process.kill()
    else:
        candidates = writers(process.pid)
        if not candidates:
            return kill(process, "main", rng)
        os.kill(rng.choice(candidates), signal.SIGKILL)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="a .rec file")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--convert-to", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.convert_to:
        convert(arguments.source, arguments.convert_to)
        return
    folder = Path(tempfile.mkdtemp())
    rng = random.Random(arguments.seed)
    begun = time.monotonic()
    process = start(arguments.source, folder / "whole")
    while not list(folder.glob("whole/*.tfrecord*")):
        time.sleep(0.01)
    first_shard = time.monotonic() - begun
    assert process.wait() == 0, process.stderr.read()
    whole = digests(folder / "whole")
    print(f"undisturbed: {len(whole)} files, the first after {first_shard:.1f} s of {time.monotonic() - begun:.1f}")

    same = 0
    for number in range(arguments.times):
        directory = folder / f"{number}"
        process = start(arguments.source, directory)
        whom = rng.choice(("main", "a writer", "all"))
        begun = time.monotonic()
        if number % 5:
            shards = rng.randrange(len(whole) - 1)
            while len(list(directory.glob("*.tfrecord"))) < shards and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
        else:  # during or shortly after the start
            time.sleep(rng.uniform(0, 1.2 * first_shard))
        was_running = kill(process, whom, rng)
        moment = time.monotonic() - begun
        left = process.communicate()[1].strip().splitlines()[-1:]
        finished = len(list(directory.glob("*.tfrecord")))
        complete = (directory / "dataset.json").exists()
        again = start(arguments.source, directory)  # at once: surviving worker processes must exit
        again_errors = again.communicate()[1]
        if complete:  # it was finished, and must be unchanged
            assert again.returncode == 0, again_errors
        is_same = digests(directory) == whole
        same += is_same
        print(
            f"{number:3} killed {whom if was_running else 'nobody, it was over':20} {moment:5.2f} s in, "
            f"{finished:3} shards finished: {'identical' if is_same else 'DIFFERENT'}"
            + (f" ({left[0][:70]}...)" if whom == "a writer" and left and was_running else "")
        )
        shutil.rmtree(directory)
    print(f"{same} of {arguments.times} directories are identical to the undisturbed one")
    full_disk(arguments.source, folder, whole)
    shutil.rmtree(folder)
    sys.exit(same != arguments.times)


def full_disk(source: Path, folder: Path, whole: dict[str, str]) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False).returncode:
        print("a full disk: not shown, mounting a small file system needs root")
        return
    try:
        process = start(source, disk / "out")
        errors = process.communicate()[1].strip().splitlines()[-1]
        left = digests(disk / "out")
        finished = {name for name in left if name.endswith(".tfrecord")}
        print(f"a disk of 12 MB: exit {process.returncode}, {errors}")
        as_whole = all(left[name] == whole[name] for name in finished)
        print(f"  {len(finished)} finished shards, as they should be: {as_whole}")
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        process = start(source, disk / "out")
        assert process.wait() == 0, process.stderr.read()
        print(f"  with more space, started again: identical: {digests(disk / 'out') == whole}")
    finally:
        subprocess.run(["umount", disk], check=True)


if __name__ == "__main__":
    main()
