"""Checkpoints of the whole training state, from which an interrupted run resumes exactly."""

import contextlib
import json
import logging
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from keras_arcface import _arguments
from keras_arcface import _replicas
from keras_arcface._locks import FileLock
from keras_arcface.training import checkpoint_files
from keras_arcface.training import run_lock
from keras_arcface.training.steps import StepCallback

_LOCK = ".checkpoints.lock"

_log = logging.getLogger(__name__)


class Checkpoints(StepCallback):
    """Callback that writes checkpoints during `fit`, and restores the last one.

    A checkpoint holds all variables of the model and its optimizer: weights, BatchNorm statistics, the random state of
    dropout (which Keras' weight files leave out), momenta, moving averages, the loss scale, and the step counter of the
    head. A resumed run equals an uninterrupted one if the batches of the dataset depend only on the step. It may use
    another number of devices, class shards or hosts: a checkpoint stores whole variables.

    Files are replaced atomically, and every array has a checksum. They are plain NumPy archives; reading one does not
    execute code. If several hosts train together, all of them require this callback and the same directory. Only the
    first host writes files.

    A directory belongs to one run. During `fit`, its file `.checkpoints.lock` names the process that trains, and a
    second training is refused. `restore` does not require the lock, so another process may read the last checkpoint.

    Args:
        directory: directory of the files, such as `step-0000001000.npz`; created if necessary.
        every_steps: number of steps between checkpoints. A checkpoint is written at the beginning of the next step,
            after callbacks such as `SwapEMAWeights` have restored the weights that they replace at the end of an epoch.
        keep: number of intact checkpoints to keep. Damaged files and those of other runs are neither counted nor
            removed.
        run_config: JSON-serializable settings that a resumed run must share, such as margin, seed and dataset.

    Attributes:
        step: number of completed steps.

    Raises:
        ValueError: if `every_steps` or `keep` is below 1; from `fit`, if the directory contains newer checkpoints than
            this training has restored.
        BlockingIOError: from `fit`, if another process trains in the directory. The message names it.
        OSError: from `fit`, if a checkpoint cannot be written, for example on a full disk. Earlier ones are kept.

    Examples:
        The same program starts a training and resumes it:

        >>> def train(epochs):
        ...     checkpoints = Checkpoints("run/checkpoints", every_steps=2)
        ...     step = checkpoints.restore(model)  # 0 without a checkpoint
        ...     dataset = load_dataset("faces", batch_size=4, training=True, start_step=step)
        ...     model.fit(
        ...         dataset,
        ...         steps_per_epoch=2,
        ...         initial_epoch=step // 2,
        ...         epochs=epochs,
        ...         shuffle=False,
        ...         callbacks=[checkpoints],
        ...         verbose=0,
        ...     )
        ...     return step
        >>> train(epochs=3)
        0
        >>> train(epochs=4)  # the last step of a training has no checkpoint
        4
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every_steps: int = 1000,
        keep: int = 3,
        run_config: Mapping | None = None,
    ):
        super().__init__()
        _arguments.check_integer("every_steps", every_steps, 1)
        _arguments.check_integer("keep", keep, 1)
        self.directory, self.every_steps, self.keep = Path(directory), every_steps, keep
        self.run_config = json.loads(json.dumps(run_config or {}))
        self._is_due = False
        self._damaged: set[tuple] = set()  # identities of the checkpoints that `restore` skipped
        self._intact: dict[tuple, bool] = {}  # results of checks by path, size and time of modification
        self._lock: FileLock | None = None

    def restore(self, model: keras.Model) -> int:
        """Sets a model and its optimizer to the last intact checkpoint.

        Damaged checkpoints are skipped, with the reason in a `logging` warning.

        Args:
            model: built and compiled model, with the architecture and optimizer of the checkpoint.

        Returns:
            The step of the checkpoint; 0, with the model unchanged, if no checkpoint exists.

        Raises:
            ValueError: if the model is not built and compiled; if the last intact checkpoint belongs to another model
                or run; if checkpoints exist but none is intact, because a new training would replace them; or if hosts
                that train together have different checkpoints.
        """
        if not model.built or not model.compiled:
            raise ValueError(
                f"The model {model.name!r} must be built and compiled before a checkpoint is restored: "
                f"model.build((None, 112, 112, 3)), model.compile(optimizer). Received: built={model.built}, "
                f"compiled={model.compiled}"
            )
        try:
            step = self._restore(model)
        except ValueError:
            _check_hosts_agree(self.directory, -1)  # other hosts may wait for this call
            raise
        _check_hosts_agree(self.directory, step)
        return step

    def _restore(self, model: keras.Model) -> int:
        variables = _training_state(model)
        paths = checkpoint_files.list_checkpoints(self.directory)
        self._damaged = set()
        reason: Exception | None = None
        for step, path in reversed(paths.items()):
            identity = _identity(path)
            try:
                values = checkpoint_files.read_checkpoint(path, variables, self.run_config)
            except checkpoint_files.OtherRunError as error:
                raise ValueError(f"{error}. Use another directory, or remove the checkpoints of that run") from error
            except (OSError, ValueError) as error:
                if not os.path.lexists(path):  # another process trains, and removed it after it wrote a newer one
                    return self._restore(model)
                reason = error
                self._damaged.add(identity)
                _log.warning("Checkpoint %s is skipped: %s", path, error)
                continue
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            self.step, self._intact = step, {identity: True}
            _log.info("Restored checkpoint %s", path)
            return step
        if paths:
            raise ValueError(
                f"One of the {len(paths)} checkpoints in {self.directory} must be intact. Received: only damaged "
                f"files, the first with the error: {reason}. Use another directory, or remove them"
            )
        return 0

    def on_train_begin(self, logs=None):
        try:
            if _is_first_host():
                self._lock = run_lock.lock_run(self.directory / _LOCK)
                self._check_directory()
        except (OSError, ValueError):
            self.on_train_end()
            _check_hosts_agree(self.directory, -1)
            raise
        _check_hosts_agree(self.directory, self.step)

    def on_train_end(self, logs=None):
        if self._lock is not None:
            self._lock.release()

    def _check_directory(self) -> None:
        """Removes unfinished files, and refuses a directory whose last checkpoint is not that of this training."""
        checkpoint_files.remove_unfinished(self.directory)
        for step, path in checkpoint_files.list_checkpoints(self.directory).items():
            if step > self.step and _identity(path) not in self._damaged:
                raise ValueError(
                    f"{self.directory} must not contain checkpoints that are newer than this training, which has done "
                    f"{self.step} steps. Received: {path.name}. Call `restore` before `fit`, or use another directory"
                )

    def on_train_batch_begin(self, batch, logs=None):
        if self._is_due:
            self._is_due = False
            self.write()

    def on_step_end(self, previous_step, logs=None):
        self._is_due = self._is_due or self.reached_multiple_of(self.every_steps, previous_step)

    def write(self) -> Path:
        """Writes a checkpoint, and removes all but the last `keep` intact checkpoints.

        `fit` calls it after every `every_steps` steps. Call it for an additional checkpoint.

        Returns:
            The path of the checkpoint.

        Raises:
            FloatingPointError: if a variable of the model is not finite. Earlier checkpoints are kept.
            BlockingIOError: outside of `fit`, if another process trains in the directory.
            OSError: if the checkpoint cannot be written. Earlier checkpoints are kept.
            ValueError: outside of `fit`, if the directory contains newer checkpoints.
        """
        # On JAX, reading `self.model` copies the state of the training step to the variables.
        variables = _training_state(self.model)
        values = [_to_numpy(variable) for variable in variables]
        for variable, value in zip(variables, values, strict=True):
            if keras.backend.is_float_dtype(value.dtype.name) and not np.all(np.isfinite(value)):
                raise FloatingPointError(
                    f"The variable {variable.path} must be finite. Received: NaN or infinity after {self.step} steps. "
                    f"No checkpoint is written. Earlier checkpoints are kept in {self.directory}"
                )
        path = checkpoint_files.checkpoint_path(self.directory, self.step)
        if _is_first_host():
            with self._locked():
                checkpoint_files.write_checkpoint(path, self.step, self.run_config, variables, values)
                self._intact[_identity(path)] = True
                self._remove_old(variables)
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock of the directory, also outside of `fit`."""
        if self._lock is not None and self._lock.is_held:
            yield
            return
        lock = run_lock.lock_run(self.directory / _LOCK)
        try:
            self._check_directory()
            yield
        finally:
            lock.release()

    def _remove_old(self, variables: list) -> None:
        # Newer files are damaged ones that `restore` skipped. They do not count, and this training will replace them.
        paths = checkpoint_files.list_checkpoints(self.directory)
        candidates = [path for step, path in reversed(paths.items()) if step <= self.step]
        num_kept = 0
        for number, path in enumerate(candidates):
            if num_kept < self.keep:
                is_last = number + 1 == len(candidates)  # no other file depends on whether it is intact
                num_kept += is_last or self._is_intact(path, variables)
            else:
                self._remove(path, variables)

    def _is_intact(self, path: Path, variables: list) -> bool:
        """Returns whether a checkpoint can be restored. Each file is read only once, unless this process wrote it."""
        identity = _identity(path)
        if identity not in self._intact:
            self._intact[identity] = _is_valid(checkpoint_files.check_checkpoint, path, variables, self.run_config)
        return self._intact[identity]

    def _remove(self, path: Path, variables: list) -> None:
        """Removes a checkpoint of this run. Only its header is read."""
        identity = _identity(path)
        if identity not in self._intact and not _is_valid(checkpoint_files.check_run, path, variables, self.run_config):
            self._intact[identity] = False
        if self._intact.get(identity, True):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the next checkpoint tries again
                _log.warning("The old checkpoint %s could not be removed: %s", path, error.strerror)


def _identity(path: Path) -> tuple:
    try:
        status = path.stat()
    except OSError:  # reading the file reports the error
        return (path,)
    return path, status.st_size, status.st_mtime_ns


def _is_valid(check: Callable, path: Path, variables: list, run_config: Mapping) -> bool:
    try:
        check(path, variables, run_config)
    except (OSError, ValueError) as error:
        _log.warning("Checkpoint %s is neither counted nor removed: %s", path, error)
        return False
    return True


def _training_state(model: keras.Model) -> list:
    if not model.optimizer.built:
        with _replicas.variable_scope(model):
            model.optimizer.build(model.trainable_variables)
    model.make_train_function()  # may add variables, such as the optimizer's slots for sampled centers
    return [*model.variables, *model.optimizer.variables]


def _to_numpy(variable) -> np.ndarray:
    """Returns the value of a variable, which is gathered if it is sharded over several hosts."""
    if keras.backend.backend() == "jax" and not variable.value.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(variable.value, tiled=True))
    return keras.ops.convert_to_numpy(variable)


def _is_first_host() -> bool:
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def _check_hosts_agree(directory: Path, step: int) -> None:
    """Raises a ValueError if hosts resume from different steps, because they would wait for each other forever."""
    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    steps = np.ravel(multihost_utils.process_allgather(np.array(step))).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"All hosts must find the same checkpoints in {directory}, a directory that they share. "
            f"Received: steps {steps}, where -1 is a host with an error"
        )
