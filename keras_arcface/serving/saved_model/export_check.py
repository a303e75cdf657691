"""Verification that a SavedModel loads and returns correct outputs without Keras and without this package."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._optional import install_hint
from keras_arcface.serving.saved_model.loaders import npz_requests
from keras_arcface.serving.saved_model.metadata import read_metadata
from keras_arcface.serving.saved_model.warmup import MAX_REQUESTS
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE
from keras_arcface.serving.saved_model.warmup import Outputs
from keras_arcface.serving.saved_model.warmup import Request
from keras_arcface.serving.saved_model.warmup import read_requests

EXPECTED_OUTPUTS_FILE = Path("assets.extra", "warmup_answers.npz")
# Maximum difference of unit embeddings due to rounding, and to the order of sums on a different machine.
_TOLERANCE = 1e-4
_LOW_PRECISION_TOLERANCE = 3e-2  # for embedders that compute in 16 bits

_LOADERS = {name: Path(__file__).with_name("loaders") / f"{name}.py" for name in ("python", "cpp")}
_NO_LIBRARY = 77  # exit status of cpp.py if TensorFlow has no C library
_logger = logging.getLogger(__name__)


def check_saved_model(
    directory: str | os.PathLike,
    requests: Sequence[Request] | None = None,
    expected_outputs: Sequence[Outputs] | None = None,
    tolerance: float | None = None,
) -> list[str]:
    """Loads a SavedModel in two separate processes, sends requests and compares the outputs.

    `export_saved_model` and `publish` call it. Call it yourself after a SavedModel was copied to another machine.

    One process loads it through TensorFlow's Python API, without access to Keras and this package. The other loads it
    through TensorFlow's C++ loader, as a server does. Both processes compute on the CPU.

    Args:
        directory: directory of the SavedModel.
        requests: requests to send. None: the warm-up requests in the SavedModel, if they exist.
        expected_outputs: expected outputs for each request, `[{name: array or list of bytes}]`. None: the outputs that
            `export_saved_model` stored for the warm-up requests.
        tolerance: maximum absolute difference of embeddings and cosines, and maximum relative difference of norms.
            None: 1e-4, or 3e-2 if the metadata says that the model computes in 16 bits.

    Returns:
        Names of the loaders that ran the model: "python", and "cpp" if TensorFlow's C library is available.

    Raises:
        FileNotFoundError: if the directory contains no SavedModel.
        ValueError: if the model cannot be loaded, fails, or returns different outputs; if `expected_outputs` does not
            have one entry per request; or if the SavedModel has more warm-up requests than a server accepts. The
            message names the directory.

    Examples:
        >>> check_saved_model("exported")
        ['python', 'cpp']
    """
    directory = Path(directory)
    if not (directory / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"directory must be a SavedModel, with saved_model.pb. Received: directory={str(directory)!r}"
        )
    if requests is None:
        requests = _read_own_requests(directory)
    if expected_outputs is None and requests and (directory / EXPECTED_OUTPUTS_FILE).is_file():
        expected_outputs = [values for _, values in npz_requests.load(directory / EXPECTED_OUTPUTS_FILE)]
    if expected_outputs is not None and len(expected_outputs) != len(requests):
        raise ValueError(
            f"{directory}: expected_outputs must have one entry per request. Received: {len(requests)} requests, "
            f"{len(expected_outputs)} expected outputs"
        )
    if tolerance is None:
        tolerance = default_tolerance(_metadata_of(directory))
    received = _run_loaders(directory, requests)
    for name, all_values in received.items():
        for number, expected in enumerate(expected_outputs or ()):
            where = f"{directory} ({name} loader), request {number} ({requests[number].signature})"
            _compare(where, expected, all_values[number], tolerance)
    return [name for name in ("python", "cpp") if name in received]  # the documented order


def save_expected_outputs(directory: Path, requests: Sequence[Request], outputs: Sequence[Outputs]) -> None:
    """Saves the outputs that `check_saved_model` expects in a SavedModel."""
    (directory / EXPECTED_OUTPUTS_FILE).parent.mkdir(exist_ok=True)
    named = [(request.signature, values) for request, values in zip(requests, outputs, strict=True)]
    npz_requests.save(directory / EXPECTED_OUTPUTS_FILE, named)


def default_tolerance(metadata: Mapping[str, Any]) -> float:
    """Returns the maximum difference of an export's outputs from the embedder's, which depends on its precision.

    Args:
        metadata: metadata of the export, or {} if they are unknown.
    """
    dtypes = metadata.get("computes_in")
    is_low = isinstance(dtypes, list) and ("float16" in dtypes or "bfloat16" in dtypes)
    return _LOW_PRECISION_TOLERANCE if is_low else _TOLERANCE


def _metadata_of(directory: Path) -> dict[str, Any]:
    try:
        return read_metadata(directory)
    except FileNotFoundError:
        return {}


def _read_own_requests(directory: Path) -> list[Request]:
    if not (directory / WARMUP_FILE).is_file():
        return []
    try:
        requests = read_requests(directory / WARMUP_FILE)
    except ModuleNotFoundError:
        hint = install_hint("tensorflow-serving-api", "serving", "Sending them")
        _logger.warning("The warm-up requests of %s are not sent. %s", directory, hint)
        return []
    if len(requests) > MAX_REQUESTS:
        raise ValueError(
            f"{directory / WARMUP_FILE} must have at most {MAX_REQUESTS} requests, or a server does not load the "
            f"model. Received: {len(requests)}"
        )
    return requests


def _run_loaders(directory: Path, requests: Sequence[Request]) -> dict[str, list[Outputs]]:
    """Returns `{loader: outputs}` for all available loaders, which run at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "requests.npz")
        npz_requests.save(source, [(request.signature, request.inputs) for request in requests])
        targets = {name: Path(folder, f"{name}.npz") for name in _LOADERS}
        processes = {name: _start_loader(directory, name, source, target) for name, target in targets.items()}
        ended = {name: (process.communicate()[1], process.returncode) for name, process in processes.items()}
        received = {}
        for name, (errors, status) in ended.items():
            if name == "cpp" and status == _NO_LIBRARY:
                _logger.warning("The C++ loader did not check %s: %s", directory, errors.strip())
                continue
            if status:
                raise ValueError(
                    f"{directory} ({name} loader): expected outputs for every request. "
                    f"Received: exit status {status}\n{errors[-2000:].strip()}"
                )
            received[name] = [values for _, values in npz_requests.load(targets[name])]
    return received


def _start_loader(directory: Path, name: str, source: Path, target: Path) -> subprocess.Popen:
    command = [sys.executable, str(_LOADERS[name]), str(directory), str(source), str(target)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )


def _compare(where: str, expected: Outputs, received: Outputs, tolerance: float) -> None:
    if set(expected) != set(received):
        raise ValueError(f"{where}: the outputs must be {sorted(expected)}. Received: {sorted(received)}")
    for name, value in expected.items():
        output = received[name]
        if isinstance(value, list) or value.dtype == bool:
            if not np.array_equal(value, output):
                rows = [row for row, (a, b) in enumerate(zip(value, output, strict=False)) if a != b]
                raise ValueError(
                    f"{where}: {name!r} must have the expected values in {len(value)} rows. "
                    f"Received: {len(output)} rows, with different values in rows {rows}"
                )
            continue
        if value.shape != output.shape:
            raise ValueError(f"{where}: {name!r} must have the shape {value.shape}. Received: {output.shape}")
        scale = np.maximum(np.abs(value), 1.0) if name == "norm" else 1.0
        difference = float(np.max(np.abs(value - output) / scale, initial=0.0))
        if not difference <= tolerance:  # the condition is negated because comparisons with NaN are false
            raise ValueError(
                f"{where}: {name!r} must be within {tolerance:g} of the embedder's. "
                f"Received: a difference of {difference:.2g}"
            )
