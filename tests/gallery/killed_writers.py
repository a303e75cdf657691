"""Kills processes that change a gallery at random moments, and compares the gallery with what they had acknowledged.

    python tests/gallery/killed_writers.py --times 50

A writer enrolls, updates and removes people in random order, searches, and deletes matrix files, which the next search
creates again. It writes each intention before, and each acknowledgement after the operation to a pipe. It gets SIGKILL,
which no program can catch. Then the gallery must contain exactly what was acknowledged; only the last intention may be
in effect or not. Removed embeddings must not be in any file, and a search must find everybody. A second process, this
one, has the gallery open all the time. The next writer continues with the same gallery.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from keras_arcface.gallery import Gallery

DIM = 32
PEOPLE = 40


def embeddings(person: str, version: int, count: int) -> np.ndarray:
    """Returns embeddings that are the same in all processes, and differ between versions."""
    seed = [ord(character) for character in person]
    center = np.random.default_rng(seed).normal(size=DIM)
    return (center + 0.05 * np.random.default_rng([*seed, version]).normal(size=(count, DIM))).astype(np.float32)


def names(version: int, count: int) -> list[str]:
    return [f"{version}-{number}" for number in range(count)]


def write(path: str, seed: int) -> None:
    """Changes a gallery until it is killed."""
    rng = random.Random(seed)
    galleries = [Gallery.open(path), Gallery.open(path, precision="int8")]
    gallery = galleries[0]
    version = seed * 100_000
    say("ready")
    while True:
        version += 1
        person, count = f"person {rng.randrange(PEOPLE)}", rng.randint(1, 3)
        operation = rng.choice(["enroll", "enroll", "many", "update", "remove", "image", "search", "matrix"])
        if operation == "many":
            people = [f"person {number}" for number in rng.sample(range(PEOPLE), 5)]
            say("will", "many", version, count, *people)
            gallery.enroll_many(
                (person, embeddings(person, version, count), names(version, count)) for person in people
            )
        elif operation == "search" and len(gallery):
            rng.choice(galleries).search(embeddings(person, 0, 1))
            continue
        elif operation == "matrix":
            Path(f"{path}.{rng.choice(['float32', 'int8'])}").unlink(missing_ok=True)
            rng.choice(galleries).search(embeddings(person, 0, 1))
            galleries[1].close()
            galleries[1] = Gallery.open(path, precision="int8")
            continue
        elif operation == "enroll":
            say("will", "enroll", version, count, person)
            gallery.enroll(person, embeddings(person, version, count), names(version, count))
        elif person not in gallery:
            continue
        elif operation == "update":
            say("will", "update", version, count, person)
            gallery.update(person, embeddings(person, version, count), names(version, count))
        elif operation == "image":
            image = gallery.images(person)[0].name
            say("will", "image", image, 1, person)
            gallery.remove(person, image)
        else:
            say("will", "remove", version, count, person)
            gallery.remove(person)
        say("done")


def say(*words) -> None:
    sys.stdout.write("\t".join(map(str, words)) + "\n")
    sys.stdout.flush()


def apply(state: dict[str, dict[str, bytes]], words: list[str]) -> dict[str, dict[str, bytes]]:
    """Returns the images of all people after an operation: `{person: {image: embedding}}`."""
    operation, version, count, *people = words
    state = {person: dict(images) for person, images in state.items()}
    for person in people:
        if operation == "image":
            del state[person][version]
            if not state[person]:
                del state[person]
            continue
        if operation in ("update", "remove"):
            del state[person]
        if operation != "remove":
            rows = embeddings(person, int(version), int(count))
            images = state.setdefault(person, {})
            images |= dict(zip(names(int(version), int(count)), (row.tobytes() for row in rows), strict=True))
    return state


def contents(gallery: Gallery) -> dict[str, dict[str, bytes]]:
    return {
        person: {
            image.name: row.tobytes()
            for image, row in zip(gallery.images(person), gallery.embeddings(person), strict=True)
        }
        for person in gallery.people()
    }


def kill_one(path: Path, seed: int, state: dict, seconds: float) -> tuple[dict, int]:
    """Runs a writer for some seconds, kills it, and checks the gallery.

    Returns:
        The content of the gallery, and the number of acknowledged operations.
    """
    command = [sys.executable, __file__, "--write", str(path), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        first = writer.stdout.readline()
        time.sleep(seconds)
        is_running = writer.poll() is None
        writer.kill()
        lines = [first, *writer.stdout.readlines()]
        assert is_running, writer.stderr.read()
    removed: set[bytes] = set()
    acknowledged, pending = 0, None
    for line in lines[1:]:
        kind, *words = line.rstrip("\n").split("\t")
        if not line.endswith("\n"):  # the rest of a line that was written halfway
            continue
        if kind == "will":
            pending = words
        elif kind == "done" and pending:
            before, state = state, apply(state, pending)
            removed |= rows_of(before)
            acknowledged, pending = acknowledged + 1, None
    possible = [state, *([apply(state, pending)] if pending else [])]
    with Gallery.open(path) as gallery, Gallery.open(path, precision="int8") as quantized:
        found = contents(gallery)
        assert found in possible, f"seed {seed}: expected what was acknowledged, {describe(possible, found)}"
        left = {name: read(name) for name in path.parent.iterdir()}
        for row in removed - rows_of(found) - (rows_of(state) if pending else set()):
            remaining = [name.name for name, content in left.items() if row in content]
            assert not remaining, f"seed {seed}: a removed embedding is in {remaining}"
        check_search(gallery, found)
        check_search(quantized, found)
    return found, acknowledged


def read(path: Path) -> bytes:
    """Reads a file in another process. This one would lose its locks on the database when it closes the file."""
    return subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True).stdout


def rows_of(state: dict[str, dict[str, bytes]]) -> set[bytes]:
    return {row for images in state.values() for row in images.values()}


def check_search(gallery: Gallery, state: dict) -> None:
    """Checks that a search finds everybody who is enrolled, and nobody else."""
    for number in range(PEOPLE):
        person = f"person {number}"
        matches = gallery.search(embeddings(person, 0, 1), top_k=1, threshold=0.9)[0]
        assert [match.person for match in matches] == ([person] if person in state else []), person


def describe(possible: list[dict], found: dict) -> str:
    differing = [
        {person for person in {*state, *found} if state.get(person) != found.get(person)} for state in possible
    ]
    return f"other images of {[sorted(people) for people in differing]}"


def run(path: Path, times: int, seed: int = 0, max_seconds: float = 1.0) -> int:
    """Kills writers, and returns the number of operations that they had acknowledged."""
    rng = random.Random(seed)
    state: dict = {}
    total = 0
    with Gallery.open(path) as other:
        for number in range(times):
            state, acknowledged = kill_one(path, 1 + number + 1000 * seed, state, rng.uniform(0, max_seconds))
            check_search(other, state)
            total += acknowledged
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        with contextlib.suppress(BrokenPipeError):
            write(arguments.write, arguments.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        total = run(Path(folder, "people.db"), arguments.times, arguments.seed)
    print(f"{arguments.times} writers were killed after {total} acknowledged operations; nothing was lost or came back")


if __name__ == "__main__":
    main()
