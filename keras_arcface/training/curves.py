"""What a training looked like: a table of its steps, TensorBoard, a progress bar, and a picture."""

import csv
import importlib.util
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from keras_arcface.training.steps import StepCallback

_STEPS, _VERIFICATION = "steps.csv", "verification.csv"


class TrainingLog(StepCallback):
    """Writes what a `RecognitionModel` shows while it trains: to CSV files, and for TensorBoard.

    `steps.csv` has a row for every `every_steps` steps, and one for what is left of them at the end of an epoch:
    `step`, `images_per_second` (without what callbacks do between epochs), `learning_rate`, and the means of these
    steps: `loss`, `accuracy`, `target_angle` and `target_angle_std` (radians), `embedding_norm`.
    `verification.csv` has a row for every epoch in whose logs there are `val_` figures, as `VerificationCallback` puts
    there; it must stand before this callback. A run that goes on takes rows up to its start and goes on behind them.

    Args:
        directory: where the files are; it is made.
        batch_size: images per step.
        every_steps: how many steps a row stands for, at most.
        tensorboard: whether to write event files to the directory as well.
        start_step: steps done before `fit`.

    Raises:
        ValueError: if `every_steps` is below 1.
        ModuleNotFoundError: saying what to install, if TensorBoard is wanted and absent.
    """

    def __init__(
        self, directory, batch_size: int, every_steps: int = 50, tensorboard: bool = False, start_step: int = 0
    ):
        super().__init__(start_step)
        if every_steps < 1:
            raise ValueError(f"every_steps must be at least 1. Received: every_steps={every_steps}")
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("tensorboard=True needs it: pip install 'keras-arcface[tensorboard]'")
        self.directory, self.batch_size, self.every_steps = Path(directory), batch_size, every_steps
        self.tensorboard = tensorboard
        self._writer = None

    def on_train_begin(self, logs=None):
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in (_STEPS, _VERIFICATION):
            _keep_rows(self.directory / name, self.step)
        if self.tensorboard:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.directory))

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._batches, self._sums = 0, {}  # Keras begins its means anew
        self._started, self._steps_before = time.perf_counter(), self.step

    def on_step_end(self, before, logs=None):
        self._ended = time.perf_counter()
        if self.passed(before, self.every_steps):
            self._write_row(logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.step > self._steps_before:
            self._write_row(logs)
        figures = {name: float(value) for name, value in (logs or {}).items() if name.startswith("val_")}
        if figures:
            self._write(_VERIFICATION, {"step": self.step, **figures})

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _write_row(self, logs):
        seconds, steps = self._ended - self._started, self.step - self._steps_before
        self._started, self._steps_before = self._ended, self.step
        row = {
            "step": self.step,
            "images_per_second": steps * self.batch_size / seconds,
            "learning_rate": learning_rate(self.model.optimizer),
            **self._means(logs),
        }
        self._write(_STEPS, row)

    def _means(self, logs) -> dict:
        """Means over the steps since the last row, from Keras' means over the epoch."""
        batches = self.step - self._before_epoch
        means = {name: float(value) for name, value in logs.items() if not name.startswith("val_")}
        if "target_angle_std" in means:  # squares have a mean, standard deviations have none
            means["target_angle_std"] = means["target_angle_std"] ** 2 + means["target_angle"] ** 2
        sums = {name: value * batches for name, value in means.items()}
        found = {name: (sums[name] - self._sums.get(name, 0.0)) / (batches - self._batches) for name in sums}
        self._batches, self._sums = batches, sums
        if "target_angle_std" in found:
            found["target_angle_std"] = max(found["target_angle_std"] - found["target_angle"] ** 2, 0.0) ** 0.5
        return found

    def _write(self, name: str, row: dict) -> None:
        path = self.directory / name
        columns = _header(path)
        if not set(row) <= set(columns):  # a new file, or figures that were not there before
            columns = _add_columns(path, columns, row)
        with open(path, "a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step=row["step"]):
                group = Path(name).stem  # TensorBoard shows what is before the slash as a section
                for figure, value in row.items():
                    if figure != "step":
                        tf.summary.scalar(f"{group}/{figure}", value)
            self._writer.flush()


class ProgressBar(StepCallback):
    """Shows images done, images per second, the time that is left, loss and accuracy; for `fit(verbose=0)`.

    Args:
        last_step: how many steps the whole training has.
        batch_size: images per step.
        start_step: steps done before `fit`.
    """

    def __init__(self, last_step: int, batch_size: int, start_step: int = 0):
        super().__init__(start_step)
        self.last_step, self.batch_size = last_step, batch_size

    def on_train_begin(self, logs=None):
        self._bar = tqdm(
            total=self.last_step * self.batch_size,
            initial=self.step * self.batch_size,
            desc="training",
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
        )

    def on_step_end(self, before, logs=None):
        shown = {name: f"{float(logs[name]):.3f}" for name in ("loss", "accuracy", "target_angle") if name in logs}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update((self.step - before) * self.batch_size)

    def on_train_end(self, logs=None):
        self._bar.close()


def learning_rate(optimizer) -> float:
    """The rate of an optimizer's next step; in a `MultiOptimizer`, of the default one."""
    while hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers"):
        optimizer = optimizer.inner_optimizer if hasattr(optimizer, "inner_optimizer") else optimizer.optimizers[-1]
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def plot_training(directory, path=None) -> Path:
    """Draws what `TrainingLog` wrote: loss, angle to the own center, learning rate, and verification.

    Args:
        directory: of the log.
        path: of the picture; None for `curves.png` beside the files.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: if there is no log.
        ModuleNotFoundError: saying what to install, if matplotlib is absent.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plot_training needs matplotlib: pip install 'keras-arcface[plots]'") from error
    directory = Path(directory)
    steps = _columns(directory / _STEPS)
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, angle, rate, quality = figure.subplots(2, 2).flat
    loss.plot(steps["step"], steps["loss"], color="C0")
    loss.set(title="Loss", ylim=(0, None))
    mean, spread = steps["target_angle"], steps["target_angle_std"]
    angle.plot(steps["step"], mean, color="C1", label="mean")
    angle.fill_between(
        steps["step"], mean - spread, mean + spread, color="C1", alpha=0.25, label="± standard deviation"
    )
    angle.set(title="Angle to the own class center, radians", ylim=(0, 1.8))
    angle.legend()
    rate.plot(steps["step"], steps["learning_rate"], color="C2")
    rate.set(title="Learning rate", ylim=(0, None))
    quality.plot(steps["step"], steps["accuracy"], color="C3", label="training images: own center nearest")
    if (directory / _VERIFICATION).exists():
        found = _columns(directory / _VERIFICATION)
        names = [name for name in found if name.endswith("_accuracy")]
        for number, name in enumerate(names):
            label = f"verification: {name.removeprefix('val_').removesuffix('_accuracy')}"
            quality.plot(found["step"], found[name], "o-", markersize=3, color=f"C{4 + number}", label=label)
    quality.set(title="Accuracy", ylim=(0, 1))
    quality.legend()
    for axes in (loss, angle, rate, quality):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    path = directory / "curves.png" if path is None else Path(path)
    figure.savefig(path, dpi=120)
    return path


def _columns(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}


def _header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return next(csv.reader(file), [])


def _add_columns(path: Path, columns: list[str], row: dict) -> list[str]:
    """Makes a file have these columns too, empty where they were not known."""
    rows = []
    if columns:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    columns = [*columns, *(name for name in row if name not in columns)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return columns


def _keep_rows(path: Path, last_step: int) -> None:
    """Takes away rows behind a step, which a run that goes on from there will write again."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        header, *lines = file.readlines() or [""]
    kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= last_step]
    if not kept:
        path.unlink()
        return
    path.write_text("".join([header, *kept]))
