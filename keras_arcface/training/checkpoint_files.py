"""File format of checkpoints, an `.npz` file with a JSON header and one array per variable.

The zip format adds a checksum to every array. Reading a file does not execute code from it, and allocates only the
memory of the expected variables.
"""

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_arcface import _files
from keras_arcface import _json
from keras_arcface import _npz
from keras_arcface._messages import cut
from keras_arcface._messages import short

_FORMAT = 1
_NAME = "step-{:010d}.npz"
_PATTERN = re.compile(r"step-([0-9]+)\.npz")
_BYTES_PER_ARRAY = 512  # approximate size of the headers of an array


class OtherRunError(ValueError):
    """Error for an intact checkpoint that belongs to another model or run."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Returns the path of the checkpoint of a step."""
    return directory / _NAME.format(step)


def checkpoint_step(path: Path) -> int | None:
    """Returns the step in the name of a checkpoint, or None if the path is not that of a checkpoint."""
    match = _PATTERN.fullmatch(path.name)
    return int(match[1]) if match and path.name == _NAME.format(int(match[1])) else None


def list_checkpoints(directory: Path) -> dict[int, Path]:
    """Returns the checkpoint paths in a directory by step, in order. The dict is empty if no directory exists."""
    with contextlib.suppress(FileNotFoundError):
        steps = {checkpoint_step(path): path for path in directory.iterdir()}
        return {step: steps[step] for step in sorted(step for step in steps if step is not None)}
    return {}


def remove_unfinished(directory: Path) -> None:
    """Removes the temporary files of killed processes. No other process may write to the directory."""
    for path in directory.glob(_files.temporary_path(Path("step-*.npz")).name):
        path.unlink()


def write_checkpoint(path: Path, step: int, run_config: Mapping, variables: Sequence, values: Sequence) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: if the file cannot be written. The message names it, and on a full disk the needed and free space.
    """
    header = {"format": _FORMAT, "step": step, "run_config": run_config, "variables": _describe(variables)}
    arrays = {str(index): value for index, value in enumerate(values)}
    size = sum(value.nbytes + _BYTES_PER_ARRAY for value in values)
    with _files.replacing(path, size=size) as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def read_checkpoint(path: Path, variables: Sequence, run_config: Mapping) -> list[np.ndarray]:
    """Returns the values of a checkpoint.

    Args:
        path: path of the checkpoint.
        variables: variables of the model and optimizer, with the expected shapes and dtypes.
        run_config: expected configuration of the run.

    Raises:
        OtherRunError: if the checkpoint belongs to another model or run.
        OSError: if the file cannot be read.
        ValueError: if the file is damaged. The message names it.
    """
    return list(_read_values(path, variables, run_config))


def check_checkpoint(path: Path, variables: Sequence, run_config: Mapping) -> None:
    """Reads a checkpoint, one array at a time, and raises the errors of `read_checkpoint`."""
    for _ in _read_values(path, variables, run_config):
        pass


def check_run(path: Path, variables: Sequence, run_config: Mapping) -> None:
    """Reads only the header of a checkpoint, and raises the errors of `read_checkpoint`."""
    with _open(path) as archive:
        _read_header(archive, path, _describe(variables), run_config)


def _read_values(path: Path, variables: Sequence, run_config: Mapping) -> Iterator[np.ndarray]:
    expected = _describe(variables)
    with _open(path) as archive:
        _read_header(archive, path, expected, run_config)
        for index, description in enumerate(expected):
            yield _npz.read_array(archive, str(index), np.dtype(description["dtype"]), tuple(description["shape"]))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with _npz.open_npz(path) as archive:
            yield archive
    except OtherRunError:
        raise
    except Exception as error:  # zipfile and NumPy raise errors of many types for damaged files
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(
            f"{path} must be an intact checkpoint. "
            f"Received: a file that raises {type(error).__name__}: {cut(str(error))}"
        ) from error


def _read_header(archive: zipfile.ZipFile, path: Path, expected: Sequence[Mapping], run_config: Mapping) -> None:
    content = _npz.read_array(archive, "header", np.dtype(np.uint8)).tobytes()
    header = _json.parse(content, allow_constants=True)  # the configuration of a run may contain NaN
    if header["format"] != _FORMAT:
        raise ValueError(f"expected format={_FORMAT}. Received: format={short(header['format'])}")
    if header["step"] != checkpoint_step(path):
        raise ValueError(f"expected the step of the file name. Received: step={short(header['step'])}")
    _check_run_config(path, header["run_config"], run_config)
    _check_variables(path, header["variables"], expected)


def _check_run_config(path: Path, received: Mapping, expected: Mapping) -> None:
    for key in sorted({*expected, *received}):
        if received.get(key) != expected.get(key) or (key in received) != (key in expected):
            raise OtherRunError(
                f"{path} belongs to another run. Expected: {_item(expected, key)}. Received: {_item(received, key)}"
            )


def _item(config: Mapping, key: str) -> str:
    return f"{cut(key)}={short(config[key])}" if key in config else f"no {cut(key)}"


def _check_variables(path: Path, received: Sequence[Mapping], expected: Sequence[Mapping]) -> None:
    for found, required in zip(received, expected, strict=False):
        # Paths are not compared, because Keras adds a counter to layer names, so equal models have different paths.
        if (found["shape"], found["dtype"]) != (required["shape"], required["dtype"]):
            raise OtherRunError(
                f"{path} belongs to another model. Expected: {_text(required)}. Received: {_text(found)}"
            )
    if len(received) != len(expected):
        raise OtherRunError(
            f"{path} belongs to another model. Expected: {len(expected)} variables. Received: {len(received)} variables"
        )


def _describe(variables: Sequence) -> list[dict[str, Any]]:
    return [
        {"path": variable.path, "shape": list(variable.shape), "dtype": keras.backend.standardize_dtype(variable.dtype)}
        for variable in variables
    ]


def _text(description: Mapping) -> str:
    return f"{cut(description['path'])} {short(tuple(description['shape']))} {cut(description['dtype'])}"
