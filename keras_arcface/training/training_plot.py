"""Plot of the files of a `TrainingLog`."""

import os
from pathlib import Path

import numpy as np

from keras_arcface import _files
from keras_arcface import _optional
from keras_arcface._messages import cut
from keras_arcface.training.training_log import STEPS_FILE
from keras_arcface.training.training_log import VERIFICATION_FILE
from keras_arcface.training.training_log import read_log


def plot_training(directory: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Plots loss, angle to the target center, learning rate, and accuracy from the files of a `TrainingLog`.

    Args:
        directory: directory of the log.
        path: path of the image, with the suffix of its format; None for `curves.png` in `directory`.

    Returns:
        The path of the image.

    Raises:
        FileNotFoundError: if the directory does not contain the files of a log.
        ValueError: if a file is not that of a log.
        ModuleNotFoundError: if matplotlib is not installed.

    Examples:
        >>> history = model.fit(images, labels, batch_size=4, callbacks=[TrainingLog("run", batch_size=4)], verbose=0)
        >>> plot_training("run").name
        'curves.png'
    """
    with _optional.optional_import("plots", "plot_training"):
        from matplotlib.figure import Figure
    directory = Path(directory)
    steps = _read_columns(directory / STEPS_FILE)
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, angle, rate, accuracy = figure.subplots(2, 2).flat
    loss.plot(steps["step"], steps["loss"], color="C0")
    loss.set(title="Loss", ylim=(0, None))
    _plot_angle(angle, steps)
    rate.plot(steps["step"], steps["learning_rate"], color="C2")
    rate.set(title="Learning rate", ylim=(0, None))
    _plot_accuracy(accuracy, steps, directory / VERIFICATION_FILE)
    for axes in (loss, angle, rate, accuracy):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    path = directory / "curves.png" if path is None else Path(path)
    with _files.replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=120)
    return path


def _plot_angle(axes, steps: dict[str, np.ndarray]) -> None:
    step, mean, std = steps["step"], steps["target_angle"], steps["target_angle_std"]
    axes.plot(step, mean, color="C1", label="mean")
    axes.fill_between(step, mean - std, mean + std, color="C1", alpha=0.25, label="± standard deviation")
    axes.set(title="Angle to the target center, radians", ylim=(0, 1.8))
    axes.legend()


def _plot_accuracy(axes, steps: dict[str, np.ndarray], verification_file: Path) -> None:
    axes.plot(steps["step"], steps["accuracy"], color="C3", label="training images: target center is nearest")
    if verification_file.exists():
        verification = _read_columns(verification_file)
        names = [name for name in verification if name.endswith("_accuracy")]
        for number, name in enumerate(names):
            label = f"verification: {name.removeprefix('val_').removesuffix('_accuracy')}"
            color = f"C{4 + number}"
            axes.plot(verification["step"], verification[name], "o-", markersize=3, color=color, label=label)
    axes.set(title="Accuracy", ylim=(0, 1))
    axes.legend()


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    columns, rows = read_log(path)
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}
    except ValueError as error:
        raise ValueError(f"The cells of {path} must be numbers. Received: {cut(str(error))}") from error
