"""Runs publications and rollbacks in random order, one file operation at a time, and looks at the versions.

    python tests/serving/publication_histories.py --histories 20000
    python tests/serving/publication_histories.py --histories 0 --seconds 60

The first command starts several publications, with and without `keep`, and rollbacks at the same time, lets a random
one go on by some file operations, and looks at the base path after each operation. Some of them are killed. The second
command does the same with processes, which run as fast as they can while another process looks. Both count the looks
that found no version although one had been published, the numbers that were given to two models, incomplete versions,
and errors other than the documented ones.
"""

import argparse
import collections
import itertools
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from stepwise import Killed
from stepwise import Stepwise

from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.versions import version_number

FORK = multiprocessing.get_context("fork")  # importing TensorFlow in each process would take long
FILES = ("saved_model.pb", "variables/variables.index")
# Errors that a caller must expect: a number that was used, and a rollback without a second version.
EXPECTED = (FileExistsError, ValueError)


def make_model(directory, name):
    """Writes a tiny model whose files contain its name."""
    for file in FILES:
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(name)
    return directory


class Looker:
    """Looks at a base path as a server does.

    Attributes:
        counts: looks, and what they found: "lost" (no version, after one was published), "reused" (a number with
            another model than before), "incomplete" (a version without all files).
    """

    def __init__(self, base):
        self.base, self.given, self.counts = base, collections.defaultdict(set), collections.Counter()

    def look(self):
        """Looks once, and returns `{version: model}` of the complete versions."""
        found = {}
        for name in os.listdir(self.base) if self.base.exists() else ():
            number = version_number(name)
            if number is not None:
                found[number] = self._model_of(name)
        self.counts["looks"] += 1
        # A version that disappears between the listing and the reading was removed in one step.
        complete = {number: model for number, model in found.items() if isinstance(model, str)}
        self.counts["incomplete"] += any(model is False for model in found.values())
        self.counts["lost"] += bool(self.given) and not found
        for number, model in complete.items():
            self.counts["reused"] += bool(self.given[number] - {model}) and model not in self.given[number]
            self.given[number].add(model)
        return complete

    def _model_of(self, name):
        """Returns the model's name, False if the version is incomplete, None if it does not exist any more."""
        try:
            directory = os.open(self.base / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            inode = os.fstat(directory).st_ino
            try:
                models = set()
                for file in FILES:
                    with open(os.open(file, os.O_RDONLY, dir_fd=directory)) as opened:
                        models.add(opened.read())
                (model,) = models
                return model
            except (FileNotFoundError, ValueError):
                try:  # only a version that still has its name must be complete
                    return False if os.stat(self.base / name).st_ino == inode else None
                except FileNotFoundError:
                    return None
        finally:
            os.close(directory)


class History:
    """Operations on one base path that take turns, and what was seen after each file operation."""

    def __init__(self, folder):
        self.folder, self.base = folder, folder / "faces"
        self.looker, self.running, self.errors = Looker(self.base), [], []
        self.models = (make_model(folder / f"model-{number}", str(number)) for number in itertools.count())

    def publish(self, keep=None, version=None):
        """Starts a publication of a new model."""
        model = next(self.models)
        self.running.append(Stepwise(lambda: self._publish(model, version, keep)))

    def rollback(self, to=None):
        """Starts a rollback."""
        self.running.append(Stepwise(lambda: rollback(self.base, to)))

    def step(self, index, steps):
        """Lets a running operation do some file operations, with a look after each."""
        operation = self.running[index % len(self.running)]
        for _ in range(steps):
            if not operation.ended:
                operation.step()
                self.looker.look()
        self._end(operation)

    def kill(self, index):
        """Kills a running operation."""
        operation = self.running[index % len(self.running)]
        operation.kill()
        self._end(operation)

    def finish(self):
        """Runs all operations to their end, in turns."""
        while self.running:
            for index in reversed(range(len(self.running))):
                self.step(index, 1)

    def litter(self):
        """Returns the temporary files after one more publication."""
        self.publish()
        (publication,) = self.running
        publication.step(10_000)  # more than it needs, unless a lock is still held
        assert publication.ended
        assert publication.error is None
        return [name for name in os.listdir(self.base) if name.startswith((".tmp-", ".lock"))]

    def _publish(self, model, version, keep):
        path = publish(model, self.base, version, keep, check=False)
        assert model.name.endswith(f"-{(path / FILES[0]).read_text()}"), "another model has the number"

    def _end(self, operation):
        if operation.ended:
            self.running.remove(operation)
            if operation.error is not None and not isinstance(operation.error, (*EXPECTED, Killed, FileNotFoundError)):
                self.errors.append(operation.error)


def random_history(folder, rng, kills):
    """Returns a finished history of random operations."""
    history = History(folder)
    for _ in range(rng.randint(5, 60)):
        choice = rng.random()
        if len(history.running) < 4 and (choice < 0.3 or not history.running):
            if rng.random() < 0.3:
                history.rollback(rng.choice((None, None, 1, 2)))
            else:
                history.publish(rng.choice((None, 1, 1, 2)), rng.choice((None, None, None, None, 3, 5)))
        elif choice < 0.33 and kills and history.running:
            history.kill(rng.randrange(4))
        else:
            history.step(rng.randrange(4), rng.choice((1, 1, 2, 5, 10, 100)))
    history.finish()
    return history


def run_histories(folder, histories, seed, kills):
    counts, errors = collections.Counter(), collections.Counter()
    for number in range(histories):
        directory = folder / str(number)
        directory.mkdir()
        history = random_history(directory, random.Random(f"{seed} {number}"), kills)
        counts += history.looker.counts
        counts["histories with litter"] += bool(history.litter())
        counts["histories with a lost version"] += bool(history.looker.counts["lost"])
        counts["histories with a reused number"] += bool(history.looker.counts["reused"])
        errors.update(type(error).__name__ for error in history.errors)
        shutil.rmtree(directory)
    return counts, errors


def stress(folder, seconds, processes):
    """Publishes with `keep=1` and rolls back in several processes, and looks meanwhile."""
    base, stop, results = folder / "faces", FORK.Event(), FORK.Queue()
    publish(make_model(folder / "first", "first"), base, check=False)

    def work(process):
        rng, counts = random.Random(process), collections.Counter()
        for number in itertools.count():
            if stop.is_set():
                break
            try:
                if rng.random() < 0.3:
                    counts["rollbacks"] += 1
                    rollback(base)
                else:
                    counts["publications"] += 1
                    model = make_model(folder / f"model-{process}", f"{process} {number}")
                    publish(model, base, keep=rng.choice((1, 1, 1, 2, None)), check=False)
            except ValueError:
                counts["refused"] += 1
            except Exception as error:
                counts[f"error {type(error).__name__}"] += 1
        results.put(counts)

    workers = [FORK.Process(target=work, args=(process,)) for process in range(processes)]
    for worker in workers:
        worker.start()
    looker, end = Looker(base), time.monotonic() + seconds
    while time.monotonic() < end:
        looker.look()
    stop.set()
    counts = looker.counts
    for _ in workers:
        counts += results.get(timeout=60)
    for worker in workers:
        worker.join()
    errors = collections.Counter({name: count for name, count in counts.items() if name.startswith("error ")})
    return counts - errors, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--no-kills", action="store_true", help="do not kill operations in the histories")
    parser.add_argument("--seconds", type=float, default=30, help="duration of the run with processes")
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    faults = 0
    try:
        begun = time.monotonic()
        counts, errors = run_histories(folder, arguments.histories, arguments.seed, not arguments.no_kills)
        print(f"{arguments.histories} histories in {time.monotonic() - begun:.0f} s: {report(counts, errors)}")
        faults += counts["lost"] + counts["reused"] + counts["incomplete"] + errors.total()
        if arguments.seconds:
            counts, errors = stress(folder, arguments.seconds, arguments.processes)
            print(f"{arguments.processes} processes for {arguments.seconds:.0f} s: {report(counts, errors)}")
            faults += counts["lost"] + counts["reused"] + counts["incomplete"] + errors.total()
    finally:
        shutil.rmtree(folder)
    sys.exit(bool(faults))


def report(counts, errors):
    shown = {name: 0 for name in ("looks", "lost", "reused", "incomplete")} | counts
    texts = [f"{count:,} {name}" for name, count in shown.items()]
    return ", ".join([*texts, f"{errors.total()} unexpected errors {dict(errors)}"])


if __name__ == "__main__":
    main()
