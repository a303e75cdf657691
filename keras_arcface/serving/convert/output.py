"""Output files of a conversion: checks before the conversion, and atomic placement after it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_arcface._arguments import check_choice
from keras_arcface.serving.convert.calibration import check_calibration
from keras_arcface.serving.embedder_facts import image_size_of


def check_output(runtime: str, path: str | os.PathLike, suffixes: Sequence[str]) -> Path:
    """Checks the path of the exported model and the backend, before anything is converted.

    Args:
        runtime: name of the runtime, for errors.
        path: path of the exported model.
        suffixes: suffix of the model, then the suffixes of additional files with the same name.

    Returns:
        The path.

    Raises:
        FileExistsError: if one of the files exists.
        ValueError: if the path has a different suffix, or the backend is not TensorFlow.
    """
    path = Path(path)
    if path.suffix != suffixes[0]:
        raise ValueError(f"The path of a model for {runtime} must end with {suffixes[0]}. Received: {path}")
    for file in map(path.with_suffix, suffixes):
        if file.exists():
            raise FileExistsError(f"The output file must not exist. Received: {file}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exports to {runtime} require the TensorFlow backend: save the embedder as .keras and export it under "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()!r}"
        )
    return path


def check_model(embedder: Any, precision: str, precisions: Sequence[str], calibration: Any) -> None:
    """Checks the model, the precision and the calibration images, before anything is converted.

    Args:
        embedder: the model to convert.
        precision: requested precision.
        precisions: precisions that the runtime supports.
        calibration: calibration images. They are checked for int8 only.

    Raises:
        ValueError: if one of them is not valid.
    """
    check_choice("precision", precision, precisions)
    image_size = image_size_of(embedder)
    if precision == "int8":
        check_calibration(calibration, image_size)


@contextlib.contextmanager
def temporary_output(path: Path) -> Iterator[Path]:
    """Yields a temporary path for the model. Its files are moved to their place at a normal exit, else removed."""
    directory = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory / path.name
        for file in sorted(directory.iterdir(), key=lambda file: file.name == path.name):  # the model last
            file.rename(path.with_name(file.name))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
