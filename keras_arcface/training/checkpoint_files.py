"""The file format of checkpoints: one `.npz` file with a JSON header and one array per variable.

The zip format adds a checksum to every array. Reading runs no code from the file.
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

_FORMAT = 1
_NAME = "step-{:010d}.npz"
_PATTERN = re.compile(r"step-(\d+)\.npz")


def checkpoint_path(directory: Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step."""
    return directory / _NAME.format(step)


def list_checkpoints(directory: Path) -> list[Path]:
    """Returns the checkpoints in a directory, which may be absent, by ascending step."""
    with contextlib.suppress(FileNotFoundError):
        matches = ((_PATTERN.fullmatch(path.name), path) for path in directory.iterdir())
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]
    return []


def write_checkpoint(path: Path, step: int, run_config: Mapping, variables: Sequence, values: Sequence) -> None:
    """Writes a checkpoint atomically, and creates its directory."""
    header = {"format": _FORMAT, "step": step, "run_config": run_config, "variables": _describe(variables)}
    arrays = {str(index): value for index, value in enumerate(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _files.replacing(path) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_checkpoint(path: str | os.PathLike, variables: Sequence, run_config: Mapping) -> tuple[int, list[np.ndarray]]:
    """Returns the step and the values of a checkpoint.

    Args:
        path: path of the checkpoint.
        variables: variables whose shapes and dtypes the checkpoint must have.
        run_config: configuration that the checkpoint must have.

    Raises:
        ValueError: if the checkpoint belongs to another model or run.
        Exception: of many types, if the file is damaged.
    """
    with open(path, "rb") as file, NpzFile(file, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"its format must be {_FORMAT}. Received: format={header['format']}")
        _check_run(header["run_config"], run_config)
        expected = _describe(variables)
        _check_variables(header["variables"], expected)
        return header["step"], [archive[str(index)] for index in range(len(expected))]


def _check_run(received: Mapping, expected: Mapping) -> None:
    for key in sorted({*expected, *received}):
        if received.get(key) != expected.get(key) or (key in received) != (key in expected):
            raise ValueError(
                f"it belongs to another run. Expected: {_item(expected, key)}. Received: {_item(received, key)}"
            )


def _item(config: Mapping, key: str) -> str:
    return f"{key}={config[key]!r}" if key in config else f"no {key}"


def _check_variables(received: Sequence[Mapping], expected: Sequence[Mapping]) -> None:
    for theirs, ours in zip(received, expected, strict=False):
        # Paths are not compared: Keras numbers the layers of a process, so that equal models have different names.
        if (theirs["shape"], theirs["dtype"]) != (ours["shape"], ours["dtype"]):
            raise ValueError(f"it belongs to another model. Expected: {_text(ours)}. Received: {_text(theirs)}")
    if len(received) != len(expected):
        raise ValueError(
            f"it belongs to another model. Expected: {len(expected)} variables. Received: {len(received)} variables"
        )


def _describe(variables: Sequence) -> list[dict[str, Any]]:
    return [
        {"path": variable.path, "shape": list(variable.shape), "dtype": keras.backend.standardize_dtype(variable.dtype)}
        for variable in variables
    ]


def _text(description: Mapping) -> str:
    return f"{description['path']} {tuple(description['shape'])} {description['dtype']}"
