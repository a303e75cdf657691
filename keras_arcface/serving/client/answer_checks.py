"""Limits and checks of a server's answer, the same for both transports.

A server may be misconfigured, of a different kind, or hostile. What an answer may cost is derived from the request: its
number of images and the constants below. Every function raises a ValueError for an answer outside these limits.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_arcface._json import parse
from keras_arcface._messages import short
from keras_arcface.serving.deploy.versions import MAX_VERSION

MAX_EMBEDDING_SIZE = 8192  # numbers in an embedding
MAX_TEXT_BYTES = 8 * 2**20  # length of an answer without embeddings, such as the metadata
MAX_TEXT_VALUES = 10_000  # values in such an answer, which need far more memory than their text
LENGTH_TOLERANCE = 1e-3  # largest difference of an embedding's length from 1; float16 rounds to 5e-4
_NUMBER_BYTES = 24  # a float32 in JSON has at most 17 characters with its separator
_HEADER_BYTES = 2**16
_STATES = {"UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"}


class Output(NamedTuple):
    """Output of a signature.

    Attributes:
        dtype: type of the values: np.float32, bool or str.
        is_matrix: whether the output is `(n, dim)`. Otherwise it is `(n,)`.
    """

    dtype: type
    is_matrix: bool = False


_EMBEDDING = {"embedding": Output(np.float32, is_matrix=True), "norm": Output(np.float32)}
OUTPUTS: dict[str, dict[str, Output]] = {
    "serving_default": _EMBEDDING,
    "serve_bytes": _EMBEDDING | {"valid": Output(bool)},
    "compare": {"cosine": Output(np.float32)},
    "describe": {"metadata": Output(str)},
}


def max_values(signature: str | None, rows: int) -> int:
    """Returns the maximum number of values in the answer to `rows` rows. None: a request without a signature."""
    return MAX_TEXT_VALUES if signature in (None, "describe") else rows * (MAX_EMBEDDING_SIZE + 2) + 100


def max_bytes(signature: str | None, rows: int) -> int:
    """Returns the maximum length of the answer, with its headers, over both protocols."""
    content = MAX_TEXT_BYTES if signature in (None, "describe") else max_values(signature, rows) * _NUMBER_BYTES
    return content + _HEADER_BYTES


def load_json(text: bytes | str, max_values: int) -> Any:
    """Parses JSON with at most `max_values` values. NaN and infinities are allowed, since a server writes them."""
    # Every value but the first of a list or object follows a comma. Characters in strings count, too.
    if isinstance(text, bytes):
        text = text.decode()
    if sum(map(text.count, ",[{")) > max_values:
        raise ValueError(f"expected JSON with at most {max_values:,} values. Received: more")
    return parse(text, allow_constants=True)


def check_names(signature: str, names: Iterable[str]) -> dict[str, Output]:
    """Returns the outputs of a signature if the answer has all of them. Other outputs are ignored."""
    if signature not in OUTPUTS:
        raise ValueError(f"expected an error for the signature {signature!r}. Received: an answer")
    received = set(names)
    if not set(OUTPUTS[signature]) <= received:
        expected, shown = ", ".join(OUTPUTS[signature]), ", ".join(sorted(received)[:10]) or "none"
        raise ValueError(f"expected the outputs {expected}. Received: {shown}")
    return OUTPUTS[signature]


def check_shape(name: str, output: Output, shape: tuple[int, ...], rows: int) -> None:
    """Checks the shape of an output, before memory is allocated for it."""
    if len(shape) != 1 + output.is_matrix or shape[0] != rows:
        raise ValueError(f"expected {rows} rows. Received: {name} {shape[:8]}")
    if output.is_matrix and not 1 <= shape[1] <= MAX_EMBEDDING_SIZE:
        raise ValueError(f"expected embeddings of 1 to {MAX_EMBEDDING_SIZE} numbers. Received: {name} {shape}")


def check_embeddings(embedding: np.ndarray, norm: np.ndarray, valid: np.ndarray) -> None:
    """Checks that valid rows have length 1 and a norm, and that other rows are zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(embedding.astype(np.float64), axis=1)
        # A comparison with NaN is false.
        is_unit = (np.abs(length - 1) <= LENGTH_TOLERANCE) & (norm >= 0) & (norm < np.inf)
        is_zero = (length == 0) & (norm == 0)
    wrong = np.flatnonzero(~np.where(valid, is_unit, is_zero))
    if len(wrong):
        row = wrong[0]
        expected = "an embedding of length 1 with a norm" if valid[row] else "zeros for an image that is not valid"
        raise ValueError(
            f"row {row}: expected {expected}. Received: an embedding of length {length[row]:g} with norm {norm[row]:g}"
        )


def read_version(value: Any) -> int:
    """Returns a version number from an integer or its decimal digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise ValueError(f"expected a version, an integer in [0, 2**63). Received: {short(value)}")
    return value


def check_version(version: int, requested: int | None) -> None:
    """Checks that an answer comes from the requested version."""
    if requested is not None and version != requested:
        raise ValueError(f"expected an answer of version {requested}. Received: an answer of version {version}")


def read_states(states: Iterable[tuple[Any, Any]]) -> dict[int, str]:
    """Returns `{version: state}` for pairs of a version and the name of its state."""
    checked = {}
    for version, state in states:
        if not isinstance(state, str) or state not in _STATES:
            raise ValueError(f"expected a state, one of {', '.join(sorted(_STATES))}. Received: {short(state)}")
        checked[read_version(version)] = state
    return checked


def read_shape(sizes: Iterable[Any]) -> tuple[int | None, ...]:
    """Returns the shape in the description of a tensor. A size of -1, which may be a string, becomes None."""
    shape = tuple(int(size) if isinstance(size, str) and re.fullmatch("-?[0-9]{1,9}", size) else size for size in sizes)
    if not all(type(size) is int and size >= -1 for size in shape):
        raise ValueError(f"expected sizes of at least -1. Received: {short(shape)}")
    return tuple(None if size == -1 else size for size in shape)


def read_metadata(text: str) -> dict[str, Any]:
    """Returns the metadata in the answer of the signature `describe`."""
    metadata = load_json(text, MAX_TEXT_VALUES)
    if not isinstance(metadata, dict):
        raise ValueError(f"expected a JSON object. Received: {short(metadata)}")
    for name in ("alignment", "thresholds"):
        if not isinstance(metadata.get(name, {}), dict):
            raise ValueError(f"expected {name} as an object. Received: {short(metadata[name])}")
    for far, point in metadata.get("thresholds", {}).items():
        try:
            _check_point(far, point)
        except ValueError as error:
            raise ValueError(f"thresholds[{short(far, 20)}]: {error}") from error
    return metadata


def _check_point(far: str, point: Any) -> None:
    """Checks an operating point. Only the threshold is required."""
    if not re.fullmatch("[0-9.e+-]{1,24}", far) or not 0 <= float(far) <= 1:
        raise ValueError("expected a false accept rate in [0, 1] as the key")
    if not isinstance(point, dict):
        raise ValueError(f"expected an object. Received: {short(point)}")
    _check_number("threshold", point.get("threshold"), -1 - LENGTH_TOLERANCE, 1 + LENGTH_TOLERANCE)
    for name, maximum in {"far": 1, "tar": 1, "impostors": math.inf, "impostors_accepted": math.inf}.items():
        if name in point:
            _check_number(name, point[name], 0, maximum)
    if "far_interval" in point:
        interval = point["far_interval"]
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"expected far_interval as two numbers. Received: {short(interval)}")
        for bound in interval:
            _check_number("far_interval", bound, 0, 1)


def _check_number(name: str, value: Any, minimum: float, maximum: float) -> None:
    # `impostors` has no upper bound, so infinity passes the comparison.
    if type(value) not in (int, float) or not minimum <= value <= maximum or abs(value) == math.inf:
        raise ValueError(f"expected {name} in [{minimum:g}, {maximum:g}]. Received: {short(value)}")
