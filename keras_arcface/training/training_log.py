"""Log of a training in CSV files and TensorBoard event files."""

import csv
import io
import os
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_arcface import _arguments
from keras_arcface import _files
from keras_arcface._messages import cut
from keras_arcface._regular_files import open_regular
from keras_arcface.training import run_lock
from keras_arcface.training.gradient_accumulation import GradientAccumulationOptimizer
from keras_arcface.training.scalar_writer import ScalarWriter
from keras_arcface.training.steps import StepCallback

STEPS_FILE, VERIFICATION_FILE = "steps.csv", "verification.csv"
_LOCK = ".training_log.lock"
_MAX_DIGITS = 18  # of a step


class TrainingLog(StepCallback):
    """Callback that writes the metrics of a `RecognitionModel` to CSV files and TensorBoard event files.

    `steps.csv` has one row per `every_steps` steps, and one for the remaining steps of an epoch. The columns are
    `step`, `images_per_second` (without the time of callbacks between epochs), `learning_rate`, and the means over
    these steps of `loss`, `accuracy`, `target_angle` and `target_angle_std` (radians), and `embedding_norm`.
    `verification.csv` has one row per epoch whose logs contain `val_` metrics, such as those of `VerificationCallback`,
    which must come before this callback. A resumed run removes the rows after its start step and appends new rows.
    During `fit`, the file `.training_log.lock` names the process that writes the log, and another one is refused.

    Args:
        directory: directory of the files; created if necessary.
        batch_size: number of images per step.
        every_steps: maximum number of steps per row.
        tensorboard: if true, also writes TensorBoard event files to the same directory.
        start_step: number of steps before `fit`, for a resumed run.

    Raises:
        ValueError: if `every_steps` is below 1; from `fit`, if the directory contains a file that is not a log.
        ModuleNotFoundError: if `tensorboard` is true and TensorBoard is not installed.
        BlockingIOError: from `fit`, if another process writes a log to the directory. The message names it.
        OSError: from `fit`, if a row cannot be written, for example on a full disk. Earlier rows are kept.

    Examples:
        >>> log = TrainingLog("run", batch_size=4, every_steps=2)
        >>> history = model.fit(images, labels, batch_size=4, callbacks=[log], verbose=0)
        >>> from pathlib import Path
        >>> print(Path("run/steps.csv").read_text())
        step,images_per_second,learning_rate,accuracy,embedding_norm,loss,target_angle,target_angle_std
        2,...
        3,...
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        batch_size: int,
        every_steps: int = 50,
        tensorboard: bool = False,
        start_step: int = 0,
    ):
        super().__init__(start_step)
        _arguments.check_integer("every_steps", every_steps, 1)
        self.directory, self.batch_size, self.every_steps = Path(directory), batch_size, every_steps
        self._scalar_writer = ScalarWriter(directory, "tensorboard=True") if tensorboard else None
        self._sums: dict[str, float] = {}

    def on_train_begin(self, logs=None):
        self._lock = run_lock.lock_run(self.directory / _LOCK)
        try:
            for name in (STEPS_FILE, VERIFICATION_FILE):
                _remove_rows_after(self.directory / name, self.step)
        except (OSError, ValueError):
            self._lock.release()
            raise

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._batches, self._sums = 0, {}  # Keras resets its means at each epoch
        self._row_start_time, self._row_start_step = time.perf_counter(), self.step

    def on_step_end(self, previous_step, logs=None):
        self._step_end_time = time.perf_counter()
        if self.reached_multiple_of(self.every_steps, previous_step):
            self._write_steps(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.step > self._row_start_step:
            self._write_steps(logs)
        metrics = {name: float(value) for name, value in (logs or {}).items() if name.startswith("val_")}
        if metrics:
            self._write(VERIFICATION_FILE, {"step": self.step, **metrics})

    def on_train_end(self, logs=None):
        self._lock.release()
        if self._scalar_writer is not None:
            self._scalar_writer.close()

    def _write_steps(self, logs):
        seconds, steps = self._step_end_time - self._row_start_time, self.step - self._row_start_step
        self._row_start_time, self._row_start_step = self._step_end_time, self.step
        row = {
            "step": self.step,
            "images_per_second": steps * self.batch_size / seconds,
            "learning_rate": learning_rate(self.model.optimizer),
            **self._means(logs),
        }
        self._write(STEPS_FILE, row)

    def _means(self, logs) -> dict[str, float]:
        """Returns the means over the steps since the last row, computed from the means over the epoch in `logs`."""
        batches = self.step - self._epoch_start
        epoch_means = {name: float(value) for name, value in logs.items() if not name.startswith("val_")}
        if "target_angle_std" in epoch_means:  # unlike standard deviations, mean squares can be averaged
            epoch_means["target_angle_std"] = epoch_means["target_angle_std"] ** 2 + epoch_means["target_angle"] ** 2
        sums = {name: value * batches for name, value in epoch_means.items()}
        means = {name: (sums[name] - self._sums.get(name, 0.0)) / (batches - self._batches) for name in sums}
        self._batches, self._sums = batches, sums
        if "target_angle_std" in means:
            means["target_angle_std"] = max(means["target_angle_std"] - means["target_angle"] ** 2, 0.0) ** 0.5
        return means

    def _write(self, name: str, row: dict) -> None:
        _append_row(self.directory / name, row)
        if self._scalar_writer is not None:
            group = Path(name).stem  # TensorBoard shows the part before the slash as a section
            scalars = {f"{group}/{metric}": value for metric, value in row.items() if metric != "step"}
            self._scalar_writer.write(row["step"], scalars)


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the learning rate of the next step, for a `MultiOptimizer` that of its default optimizer."""
    while True:
        if isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, GradientAccumulationOptimizer)):
            optimizer = optimizer.inner_optimizer
        elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
            optimizer = optimizer.optimizers[-1]
        else:
            return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def read_log(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads the columns and rows of a CSV file of a log, without the last line if it is incomplete.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not that of a log. The message names the file and line.
    """
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, "utf-8", newline="") as file:
            lines = [line for line in file if line.endswith("\n")]
        columns, *cells = list(csv.reader(lines, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file of a TrainingLog. Received: {error}") from error
    if len(set(columns)) < len(columns) or (lines and columns[:1] != ["step"]):
        raise ValueError(
            f"{path} must be a CSV file of a TrainingLog, with different columns and `step` as the first. "
            f"Received: {len(columns)} columns, {cut(','.join(columns[:10]))!r}"
        )
    for number, row in enumerate(cells, start=2):
        if len(row) != len(columns) or not row[0].isdecimal() or len(row[0]) > _MAX_DIGITS:
            raise ValueError(
                f"Line {number} of {path} must have {len(columns)} cells, of which the first is a step. "
                f"Received: {cut(','.join(row[:10]))!r}"
            )
    return columns, [dict(zip(columns, row, strict=True)) for row in cells]


def _append_row(path: Path, row: Mapping[str, float]) -> None:
    columns = _header(path)
    if set(row) <= set(columns):
        _files.append(path, _format([[row.get(name, "") for name in columns]]))
    else:  # the file is new, or the row has new metrics
        rows = read_log(path)[1] if columns else []
        columns = [*columns, *(name for name in row if name not in columns)]
        _write_log(path, columns, [*rows, row])


def _header(path: Path) -> list[str]:
    try:
        with open_regular(path) as raw, io.TextIOWrapper(raw, "utf-8", newline="") as file:
            return next(csv.reader(file), [])
    except FileNotFoundError:
        return []


def _write_log(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    _files.write_atomically(path, _format([columns, *([row.get(name, "") for name in columns] for row in rows)]))


def _format(lines: Iterable[Sequence]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _remove_rows_after(path: Path, last_step: int) -> None:
    """Removes an incomplete last line, and the rows after a step, which a resumed run writes again."""
    if not path.exists():
        return
    columns, rows = read_log(path)
    kept = [row for row in rows if int(row["step"]) <= last_step]
    if kept:
        _write_log(path, columns, kept)
    else:
        path.unlink()
