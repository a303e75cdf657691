"""File format of checkpoints, an `.npz` file with a JSON header and one array per variable.

The zip format adds a checksum to every array. Reading a file does not execute code from it.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.lib.npyio import NpzFile

from keras_arcface import _files
from keras_arcface._messages import short

_FORMAT = 1
_NAME = "step-{:010d}.npz"
_PATTERN = re.compile(r"step-(\d+)\.npz")


def checkpoint_path(directory: Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step."""
    return directory / _NAME.format(step)


def list_checkpoints(directory: Path) -> list[Path]:
    """Returns the checkpoint paths in a directory, sorted by step, or an empty list if the directory does not exist."""
    with contextlib.suppress(FileNotFoundError):
        matches = ((_PATTERN.fullmatch(path.name), path) for path in directory.iterdir())
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]
    return []


def write_checkpoint(path: Path, step: int, run_config: Mapping, variables: Sequence, values: Sequence) -> None:
    """Writes a checkpoint atomically, and creates its directory if necessary."""
    header = {"format": _FORMAT, "step": step, "run_config": run_config, "variables": _describe(variables)}
    arrays = {str(index): value for index, value in enumerate(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _files.replacing(path) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_checkpoint(path: str | os.PathLike, variables: Sequence, run_config: Mapping) -> tuple[int, list[np.ndarray]]:
    """Returns the step and the values of a checkpoint.

    Args:
        path: path of the checkpoint.
        variables: variables of the model and optimizer, with the expected shapes and dtypes.
        run_config: expected configuration of the run.

    Raises:
        ValueError: if the checkpoint belongs to another model or run.
        Exception: if the file is damaged; one of many types from NumPy, `json` and `zipfile`.
    """
    with open(path, "rb") as file, NpzFile(file, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"{path} must have the format {_FORMAT}. Received: format={header['format']}")
        _check_run(path, header["run_config"], run_config)
        expected = _describe(variables)
        _check_variables(path, header["variables"], expected)
        return header["step"], [archive[str(index)] for index in range(len(expected))]


def _check_run(path: str | os.PathLike, received: Mapping, expected: Mapping) -> None:
    for key in sorted({*expected, *received}):
        if received.get(key) != expected.get(key) or (key in received) != (key in expected):
            raise ValueError(
                f"{path} belongs to another run. Expected: {_item(expected, key)}. Received: {_item(received, key)}"
            )


def _item(config: Mapping, key: str) -> str:
    return f"{key}={short(config[key])}" if key in config else f"no {key}"


def _check_variables(path: str | os.PathLike, received: Sequence[Mapping], expected: Sequence[Mapping]) -> None:
    for found, required in zip(received, expected, strict=False):
        # Paths are not compared, because Keras adds a counter to layer names, so equal models have different paths.
        if (found["shape"], found["dtype"]) != (required["shape"], required["dtype"]):
            raise ValueError(f"{path} belongs to another model. Expected: {_text(required)}. Received: {_text(found)}")
    if len(received) != len(expected):
        raise ValueError(
            f"{path} belongs to another model. Expected: {len(expected)} variables. Received: {len(received)} variables"
        )


def _describe(variables: Sequence) -> list[dict[str, Any]]:
    return [
        {"path": variable.path, "shape": list(variable.shape), "dtype": keras.backend.standardize_dtype(variable.dtype)}
        for variable in variables
    ]


def _text(description: Mapping) -> str:
    return f"{description['path']} {tuple(description['shape'])} {description['dtype']}"
