"""Does a SavedModel load and answer, where there is neither Keras nor this package?"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_arcface.serving.saved_model.loaders import npz_requests as arrays
from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.warmup import MOST_RECORDS
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE
from keras_arcface.serving.saved_model.warmup import read_requests

ANSWERS_FILE = Path("assets.extra", "warmup_answers.npz")
# Largest difference from the embedder, of unit vectors: rounding, and what another machine's order of sums makes of it.
_TOLERANCE = 1e-4
_LOW_PRECISION_TOLERANCE = 3e-2  # where the embedder computes in 16 bits

_LOADERS = {name: Path(__file__).with_name("loaders") / f"{name}.py" for name in ("python", "cpp")}
_NO_LIBRARY = 77  # how cpp.py ends where TensorFlow has no C library
_logger = logging.getLogger(__name__)


def check_saved_model(directory, requests=None, answers=None, tolerance: float | None = None) -> list[str]:
    """Loads a SavedModel in clean processes, sends it requests and compares the answers.

    Two processes load it: one through TensorFlow in Python, where Keras and this package cannot be imported, and one
    through TensorFlow's C++ loader, which is what a server does. Both run on the CPU.

    Args:
        directory: of the SavedModel.
        requests: what to send; its own warm-up requests by default, if it has any.
        answers: the answers to expect, `[{name: array or list of bytes}]`; by default those that `export_saved_model`
            left beside the warm-up requests.
        tolerance: the largest difference of an embedding or a cosine, and of a norm as a share of it; by default 1e-4,
            and 3e-2 where the model says that it computes in 16 bits.

    Returns:
        The loaders that answered: "python" and "cpp", the latter only where TensorFlow has its C library.

    Raises:
        FileNotFoundError: if there is no SavedModel.
        ValueError: naming the directory, if it cannot be loaded, fails, or answers otherwise.
    """
    directory = Path(directory)
    if not (directory / "saved_model.pb").is_file():
        raise FileNotFoundError(f"There is no SavedModel at {directory}. Expected: a directory with saved_model.pb")
    if requests is None:
        requests = _own_requests(directory)
    if answers is None and requests and (directory / ANSWERS_FILE).is_file():
        answers = [values for _, values in arrays.load(directory / ANSWERS_FILE)]
    if answers is not None and len(answers) != len(requests):
        raise ValueError(f"{directory} has {len(requests)} requests and {len(answers)} answers to expect")
    if tolerance is None:
        tolerance = _tolerance(directory)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "requests.npz")
        arrays.save(source, [(request.signature, request.inputs) for request in requests])
        targets = {name: Path(folder, f"{name}.npz") for name in _LOADERS}
        running = {name: _start(directory, name, source, target) for name, target in targets.items()}
        ended = {name: (process.communicate()[1], process.returncode) for name, process in running.items()}
        answered = []
        for name, (errors, status) in ended.items():
            if name == "cpp" and status == _NO_LIBRARY:
                _logger.warning("The C++ loader did not check %s: %s", directory, errors.strip())
                continue
            if status:
                raise ValueError(f"{directory} does not answer ({name} loader):\n{errors[-2000:].strip()}")
            received = [values for _, values in arrays.load(targets[name])]
            for number, expected in enumerate(answers or ()):
                where = f"{directory} ({name} loader), request {number} ({requests[number].signature})"
                _compare(where, expected, received[number], tolerance)
            answered.append(name)
    return answered


def save_answers(directory: Path, requests, answers) -> None:
    """Leaves in a SavedModel what `check_saved_model` compares with."""
    (directory / ANSWERS_FILE).parent.mkdir(exist_ok=True)
    named = [(request.signature, values) for request, values in zip(requests, answers, strict=True)]
    arrays.save(directory / ANSWERS_FILE, named)


def _tolerance(directory):
    try:
        dtypes = json.loads((directory / METADATA_FILE).read_text())["computes_in"]
    except (FileNotFoundError, KeyError):
        return _TOLERANCE
    return _LOW_PRECISION_TOLERANCE if {"float16", "bfloat16"} & set(dtypes) else _TOLERANCE


def _own_requests(directory):
    if not (directory / WARMUP_FILE).is_file():
        return []
    try:
        requests = read_requests(directory / WARMUP_FILE)
    except ModuleNotFoundError:
        _logger.warning(
            "The warm-up requests of %s are not replayed: that needs tensorflow-serving-api, "
            "pip install 'keras-arcface[serving]'",
            directory,
        )
        return []
    if len(requests) > MOST_RECORDS:
        raise ValueError(
            f"{directory / WARMUP_FILE} has {len(requests)} requests. Expected: at most {MOST_RECORDS}, or the server "
            "refuses the model"
        )
    return requests


def _start(directory, name, source, target):
    command = [sys.executable, str(_LOADERS[name]), str(directory), str(source), str(target)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )


def _compare(where, expected, received, tolerance):
    if set(expected) != set(received):
        raise ValueError(f"{where}: expected outputs {sorted(expected)}. Received: {sorted(received)}")
    for name, value in expected.items():
        answer = received[name]
        if isinstance(value, list) or value.dtype == bool:
            if not np.array_equal(value, answer):
                raise ValueError(f"{where}: expected other values of {name!r} than were received")
            continue
        if value.shape != answer.shape:
            raise ValueError(f"{where}: expected {name!r} of shape {value.shape}. Received: {answer.shape}")
        scale = np.maximum(np.abs(value), 1.0) if name == "norm" else 1.0
        difference = float(np.max(np.abs(value - answer) / scale, initial=0.0))
        if not difference <= tolerance:  # NaN too
            raise ValueError(
                f"{where}: {name!r} is expected to be within {tolerance:g} of the embedder's. "
                f"Received: a difference of {difference:.2g}"
            )
