"""Stores of `fault_injection.py`: checkpoints and logs of a training."""

import functools

from fault_injection import Store
from small import make_model

from keras_arcface.training import Checkpoints
from keras_arcface.training import TrainingLog
from keras_arcface.training import checkpoint_files
from keras_arcface.training.training_log import STEPS_FILE
from keras_arcface.training.training_log import read_log


@functools.cache
def _model():
    model = make_model(eager=True)
    Checkpoints("").restore(model)  # adds the variables of the optimizer
    return model


def _write(directory, step):
    checkpoints = Checkpoints(directory, keep=2)
    checkpoints.restore(_model())
    checkpoints.set_model(_model())
    checkpoints.step = step
    checkpoints.write()


class FirstCheckpoint(Store):
    """Checkpoint in a new directory."""

    name = "first checkpoint"

    def run(self, directory):
        _write(directory / "checkpoints", 300)

    def state(self, directory):
        paths = checkpoint_files.list_checkpoints(directory / "checkpoints")
        variables = [*_model().variables, *_model().optimizer.variables]
        for path in paths.values():
            checkpoint_files.check_checkpoint(path, variables, {})
        return "new" if 300 in paths else "old"

    def rerun(self, directory):
        self.run(directory)
        assert len(checkpoint_files.list_checkpoints(directory / "checkpoints")) <= 2


class Retention(FirstCheckpoint):
    """Checkpoint that replaces the oldest of two."""

    name = "checkpoint with retention"

    def prepare(self, directory):
        for step in (100, 200):
            _write(directory / "checkpoints", step)


class Log(Store):
    """Log of a resumed training, which gets a row and a column."""

    name = "training log"

    def prepare(self, directory):
        self._log(directory, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4})

    def run(self, directory):
        self._log(directory, {"step": 3, "loss": 0.3}, {"step": 4, "loss": 0.2, "accuracy": 0.5})

    def state(self, directory):
        rows = read_log(directory / STEPS_FILE)[1]
        expected = [(step, str((6 - step) / 10)) for step in (1, 2, 3, 4)]
        if [(int(row["step"]), row["loss"]) for row in rows] != expected[: len(rows)] or len(rows) < 2:
            return repr(rows)
        return "new" if len(rows) == 4 else "old"

    def _log(self, directory, *rows):
        log = TrainingLog(directory, 1, start_step=rows[0]["step"] - 1)
        log.on_train_begin()
        try:
            for row in rows:
                log._write(STEPS_FILE, row)
        finally:
            log.on_train_end()  # as at the end of the process


STORES = [FirstCheckpoint(), Retention(), Log()]
