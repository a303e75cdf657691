"""The whole state of a training in files, so that a run that was killed goes on as if it had not been."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from numpy.lib.npyio import NpzFile

from keras_arcface.training.steps import StepCallback

_log = logging.getLogger(__name__)

_FORMAT = 1
_NAME = "step-{:010d}.npz"
_PATTERN = re.compile(r"step-(\d+)\.npz")


class Checkpoints(StepCallback):
    """Writes checkpoints during `fit`, and takes up the last one.

    A checkpoint holds all variables of the model and of its optimizer: weights, BatchNorm's statistics, the state of
    dropout's random numbers (which Keras' weight files leave out), momenta, moving averages, the loss scale, the head's
    step counter. Together with data that are a function of the step, the run goes on exactly:

    >>> checkpoints = Checkpoints("run/checkpoints", every_steps=1000)
    >>> step = checkpoints.restore(model)     # 0 if there is none
    >>> dataset = load_dataset("ms1m", batch_size=512, training=True, start_step=step)
    >>> # model.fit(dataset, initial_epoch=step // 1000, epochs=180, steps_per_epoch=1000, callbacks=[checkpoints, ...])

    A file is written under another name, brought to the disk and renamed, so what has the name of a checkpoint is
    whole; every array in it has a checksum. It is plain NumPy, and nothing in it is ever run. Where several hosts
    train, all of them have this callback and the same directory, and the first one writes.

    Args:
        directory: where the files are, `step-0000001000.npz`; it is made.
        every_steps: write after every so many steps, when the next one begins: then callbacks that change weights for
            a while at the end of an epoch, such as `SwapEMAWeights`, have put them back.
        keep: how many of the last checkpoints to keep.
        about: what else the run is: anything that makes JSON and must be the same when it goes on, such as margin,
            seed, and dataset.

    Attributes:
        step: steps done so far.

    Raises:
        ValueError: if `every_steps` or `keep` is below 1; from `restore`, if the model is not built and compiled, or no
            checkpoint that is there can be taken up.
    """

    def __init__(self, directory, every_steps: int = 1000, keep: int = 3, about: Mapping | None = None):
        super().__init__()
        if every_steps < 1 or keep < 1:
            raise ValueError(
                f"every_steps and keep must be at least 1. Received: every_steps={every_steps}, keep={keep}"
            )
        self.directory, self.every_steps, self.keep = Path(directory), every_steps, keep
        self.about = json.loads(json.dumps(about or {}))
        self._due = False

    def restore(self, model) -> int:
        """Gives a model the state of the last checkpoint that can be read and is of this model.

        One that cannot is named in a warning of `logging`, with the reason, and the one before is taken.

        Args:
            model: built and compiled, as it was when the checkpoint was written.

        Returns:
            Steps done when it was written; 0, and the model as it is, where there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints, but none that can be taken up: a training from the start would replace
                them; or if hosts that train together do not see the same checkpoints.
        """
        if not model.built or getattr(model, "optimizer", None) is None:
            raise ValueError(
                f"To restore a checkpoint, {model.name!r} must be built and compiled: "
                "model.build((None, 112, 112, 3)), model.compile(optimizer)"
            )
        try:
            step = self._restore(model)
        except ValueError:
            _check_agreement(self.directory, -1)  # other hosts may be waiting here
            raise
        _check_agreement(self.directory, step)
        return step

    def _restore(self, model) -> int:
        variables = _state(model)
        written, reason = self._written(), None
        for path in written[::-1]:
            try:
                step, values = _read(path, variables, self.about)
            except Exception as error:  # zipfile and NumPy raise nearly anything on damage
                reason = error
                _log.warning("%s is refused: %s", path, error)
                continue
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self.step = step
            _log.info("going on from %s", path)
            return step
        if written:
            raise ValueError(
                f"None of the {len(written)} checkpoints in {self.directory} can be taken up: the last one tried, "
                f"{written[0].name}, because {reason}. Choose another directory, or remove them"
            )
        return 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._due:
            self._due = False
            self.write()

    def on_step_end(self, before, logs=None):
        self._due = self._due or self.passed(before, self.every_steps)

    def write(self) -> Path:
        """Writes a checkpoint now, and removes the oldest beyond those to keep.

        Raises:
            FloatingPointError: if a variable of the model is not finite; then older checkpoints stay.
        """
        # On JAX, asking for the model brings what the step has computed into its variables.
        variables = _state(self.model)
        arrays = {str(index): _whole(variable) for index, variable in enumerate(variables)}
        for variable, array in zip(variables, arrays.values(), strict=True):
            if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
                raise FloatingPointError(
                    f"{variable.path} is not finite after {self.step} steps. No checkpoint is written, those of before "
                    f"stay in {self.directory}"
                )
        path = self.directory / _NAME.format(self.step)
        if not _is_first_host():
            return path
        about = {"format": _FORMAT, "step": self.step, "about": self.about, "variables": _described(variables)}
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with open(unfinished, "wb") as file:
            np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync(self.directory)
        for old in self._written()[: -self.keep]:
            old.unlink()
        return path

    def _written(self) -> list[Path]:
        """The checkpoints there are, by step."""
        with contextlib.suppress(FileNotFoundError):
            found = ((_PATTERN.fullmatch(path.name), path) for path in self.directory.iterdir())
            return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]
        return []


def _state(model) -> list:
    if not model.optimizer.built:
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _described(variables) -> list:
    return [
        {"path": variable.path, "shape": list(variable.shape), "dtype": keras.backend.standardize_dtype(variable.dtype)}
        for variable in variables
    ]


def _read(path: Path, variables, about: Mapping) -> tuple[int, list[np.ndarray]]:
    """The step and the values of a checkpoint.

    Raises:
        ValueError: if it is of another model or run, saying in what it differs.
        Exception: of many kinds, if it is damaged.
    """
    with open(path, "rb") as opened, NpzFile(opened, allow_pickle=False) as file:
        found = json.loads(file["about"].tobytes())
        if found["format"] != _FORMAT:
            raise ValueError(f"it has format {found['format']}. Expected: {_FORMAT}")
        for key in sorted({*about, *found["about"]}):
            theirs, ours = found["about"].get(key, "nothing"), about.get(key, "nothing")
            if theirs != ours:
                raise ValueError(f"it is of another run, with {key}={theirs!r}. Expected: {key}={ours!r}")
        expected = _described(variables)
        for theirs, ours in zip(found["variables"], expected, strict=False):
            # Not by path: Keras numbers layers through, so a second model in a process has other names.
            if (theirs["shape"], theirs["dtype"]) != (ours["shape"], ours["dtype"]):
                raise ValueError(f"it is of another model, with {_text(theirs)}. Expected: {_text(ours)}")
        if len(found["variables"]) != len(expected):
            raise ValueError(
                f"it is of another model, with {len(found['variables'])} variables. Expected: {len(expected)}"
            )
        return found["step"], [file[str(index)] for index in range(len(expected))]


def _text(described: Mapping) -> str:
    return f"{described['path']} {tuple(described['shape'])} {described['dtype']}"


def _whole(variable) -> np.ndarray:
    """A variable's value, gathered where the devices of several hosts share it."""
    if keras.backend.backend() == "jax" and not variable.value.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(variable.value, tiled=True))
    return keras.ops.convert_to_numpy(variable)


def _is_first_host() -> bool:
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def _check_agreement(directory: Path, step: int) -> None:
    """Hosts that go on from different steps would wait for each other for ever, or train nonsense."""
    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    steps = np.ravel(multihost_utils.process_allgather(np.array(step))).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"The hosts found different checkpoints in {directory}, of the steps {steps}. Expected: a directory that "
            "all of them share"
        )


def _sync(directory: Path) -> None:
    """Brings a directory's entries to the disk: a rename alone may be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
