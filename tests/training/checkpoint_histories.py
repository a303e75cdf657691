"""Runs trainings in one directory in random order, one file operation at a time, and restores after each operation.

    python tests/training/checkpoint_histories.py --histories 5000

Several trainings start, write checkpoints with different `keep`, are killed, and find damaged files. After each file
operation, a reader restores the last checkpoint. The output counts the readers, those that got an older checkpoint
than retention guarantees ("lost") or another one than the last training wrote ("wrong"), the times when two trainings
had the directory ("shared"), temporary files after the last training ("litter"), and errors that are not documented.
"""

import argparse
import collections
import itertools
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import keras
import numpy as np
from stepwise import Killed
from stepwise import Stepwise

from keras_arcface.training import Checkpoints
from keras_arcface.training import checkpoint_files
from keras_arcface.training import run_lock

FAULTS = ("lost", "wrong", "shared", "litter", "error")


class TinyModel:
    """Model with one variable, as far as `Checkpoints` uses it."""

    built = compiled = True

    def __init__(self):
        self.variables = [keras.Variable(np.zeros(2, np.float32), name="value")]
        self.optimizer = types.SimpleNamespace(built=True, variables=[])

    def make_train_function(self):
        pass


class LocksOfThread(threading.local):
    """Registry of `run_lock` per thread, so that each thread is what a process is otherwise."""

    def __init__(self):
        self.locks = {}

    def get(self, key):
        return self.locks.get(key)

    def __setitem__(self, key, lock):
        self.locks[key] = lock


class History:
    """Trainings in one directory that take turns, and what readers found."""

    def __init__(self, directory):
        run_lock._locks = LocksOfThread()
        self.directory, self.running, self.counts = directory, [], collections.Counter()
        self.written = {}  # the values by step, of the last write that was started
        self.guaranteed = {}  # the values that retention must keep
        self.owners, self.is_writing, self.errors = 0, False, []
        self.values, self.reader = itertools.count(1), TinyModel()

    def start(self, keep, interval, writes):
        self.running.append(Stepwise(lambda: self._train(keep, interval, writes)))

    def step(self, index, steps):
        """Lets a training do some file operations, with a reader after each."""
        training = self.running[index % len(self.running)]
        for _ in range(steps):
            if not training.ended:
                training.step()
                self.look()
        self._end(training)

    def kill(self, index):
        training = self.running[index % len(self.running)]
        training.kill()
        self._end(training)
        self.look()

    def damage(self, index):
        """Damages one of the checkpoints between two writes, so that the others must be found."""
        paths = list(checkpoint_files.list_checkpoints(self.directory).items())
        if paths and not self.is_writing:
            step, path = paths[index % len(paths)]
            path.write_bytes(path.read_bytes()[:-30])
            self.guaranteed.pop(step, None)

    def finish(self):
        """Runs all trainings to their end, in turns, and one more."""
        while self.running:
            for index in reversed(range(len(self.running))):
                self.step(index, 1)
        if self.guaranteed:
            self.start(1, 10, 1)
            self.step(0, 10_000)
            self.counts["litter"] += any(path.suffix != ".npz" for path in self.directory.iterdir())

    def look(self):
        checkpoints = Checkpoints(self.directory)
        self.counts["readers"] += 1
        try:
            step = checkpoints.restore(self.reader)
        except ValueError as error:
            if self.guaranteed or "only damaged files" not in str(error):
                self.counts["lost"] += 1
            return
        self.counts["lost"] += step < max(self.guaranteed, default=0)
        value = int(keras.ops.convert_to_numpy(self.reader.variables[0])[0])
        self.counts["wrong"] += step > 0 and value not in self.written[step]

    def _train(self, keep, interval, writes):
        model, checkpoints = TinyModel(), Checkpoints(self.directory, keep=keep)
        checkpoints.set_model(model)
        is_owner = False
        try:
            checkpoints.restore(model)
            checkpoints.on_train_begin()
            is_owner = True
            self.owners += 1
            self.counts["shared"] += self.owners > 1
            for _ in range(writes):
                checkpoints.step += interval
                self._write(model, checkpoints)
            self.owners -= 1
            is_owner = False
            checkpoints.on_train_end()
            self.counts["trainings"] += 1
        finally:
            self.owners -= is_owner
            lock = checkpoints._lock
            if lock is not None and lock.is_held:  # killed: the system closes the file, and nothing removes it
                lock._finalizer.detach()
                os.close(lock._descriptor)

    def _write(self, model, checkpoints):
        value, step = next(self.values), checkpoints.step
        model.variables[0].assign(np.full(2, value, np.float32))
        self.written[step] = {value} | self.written.get(step, set())
        self.is_writing = True
        try:
            checkpoints.write()
        finally:
            self.is_writing = False
        self.written[step] = {value}
        self.counts["wrong"] += step < max(self.guaranteed, default=0)  # a newer one is that of another training
        intact = {**self.guaranteed, step: value}
        self.guaranteed = {kept: intact[kept] for kept in sorted(intact)[-checkpoints.keep :]}

    def _end(self, training):
        if training.ended and training in self.running:
            self.running.remove(training)
            if isinstance(training.error, BlockingIOError):
                self.counts["refused"] += 1
            elif isinstance(training.error, Killed):
                self.counts["killed"] += 1
            elif isinstance(training.error, ValueError):
                text = str(training.error)
                is_expected = "Call `restore` before `fit`" in text or "only damaged files" in text
                self.counts["refused" if is_expected else "error"] += 1
            elif training.error is not None:
                self.counts["error"] += 1
                self.errors.append(training.error)


def random_history(directory, rng):
    """Returns a finished history of random operations."""
    history = History(directory)
    for _ in range(rng.randint(5, 40)):
        choice = rng.random()
        if len(history.running) < 3 and (choice < 0.25 or not history.running):
            history.start(rng.choice((1, 1, 2, 3)), rng.choice((10, 30, 50)), rng.randint(1, 4))
        elif choice < 0.31:
            history.kill(rng.randrange(3))
        elif choice < 0.36:
            history.damage(rng.randrange(4))
        else:
            history.step(rng.randrange(3), rng.choice((1, 1, 2, 5, 10, 30)))
    history.finish()
    return history


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    counts, begun, errors = collections.Counter(), time.monotonic(), []
    try:
        for number in range(arguments.histories):
            (folder / str(number)).mkdir()
            history = random_history(folder / str(number), random.Random(f"{arguments.seed} {number}"))
            counts += history.counts
            errors += history.errors
            shutil.rmtree(folder / str(number))
    finally:
        shutil.rmtree(folder)
    shown = {**dict.fromkeys(("readers", "trainings", "killed", "refused", *FAULTS), 0), **counts}
    print(f"{arguments.histories} histories in {time.monotonic() - begun:.0f} s:", shown, errors[:3])
    sys.exit(any(counts[name] for name in FAULTS))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
