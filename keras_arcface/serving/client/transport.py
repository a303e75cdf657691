"""Interface of the network protocols of `FaceClient`, and their common error."""

import abc
import enum
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Inputs = Mapping[str, np.ndarray | Sequence[bytes]]


_SHOWN = 1000  # characters of a server's message in an error


class TensorSpec(NamedTuple):
    """Description of an input or output of a signature.

    Attributes:
        dtype: name of the type, such as "uint8" or "string".
        shape: size of each axis, None for any size. It is None if the number of axes is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "(...)" if self.shape is None else f"({', '.join('n' if s is None else str(s) for s in self.shape)})"
        return f"{self.dtype} {sizes}"


class Signature(NamedTuple):
    """Inputs and outputs of a signature, by their names."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class FailureKind(enum.Enum):
    """Cause of a failed request, independent of the protocol."""

    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    FAILED = "failed"
    UNEXPECTED = "unexpected"


class TransportError(Exception):
    """Error for a failed request. `FaceClient` converts it to a `ServingError`.

    Args:
        kind: cause of the failure.
        message: message of the server, or of the library that sends the request. It is cut, and control characters,
            with which a server could forge lines of a log, are escaped.

    Attributes:
        attempts: number of attempts, which `retry` sets.
        seconds: duration of all attempts in seconds, which `retry` sets.
    """

    def __init__(self, kind: FailureKind, message: str):
        self.kind = kind
        self.message = printable(message)
        super().__init__(self.message)
        self.attempts = 1
        self.seconds = 0.0


def printable(text: str) -> str:
    """Returns the first characters of a server's message, with control characters escaped."""
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Transport(abc.ABC):
    """Base class of transports, which send requests for one model to one server.

    A transport follows these rules:

    - It is created for one server, one model and an optional label. It connects at the first request, and connects
      again after a failure.
    - Each method except `close` sends one request once. `FaceClient` adds batches, retries and specific errors.
    - A request uses `version` if it is not None, otherwise the version with the label of the transport, otherwise the
      latest version.
    - `timeout` is the time limit of the request in seconds, above 0. It includes the connection and the response.
    - The memory for a response is limited by `answer_checks`, whatever the server sends.
    - A method raises `TransportError` if there is no response, the response has an error status, or the response
      cannot be read. The kind for an expired timeout is `TIMEOUT`. Other errors are not raised.
    - It is not thread-safe.
    - `close` may be called more than once. After it, no requests are allowed.

    Attributes:
        reports_version: whether `predict` returns the version that computed the outputs. If false, call `resolve`
            first and pass its version to `predict`.
    """

    reports_version: bool

    @abc.abstractmethod
    def predict(
        self, signature: str, inputs: Inputs, version: int | None, timeout: float
    ) -> tuple[dict[str, Any], int | None]:
        """Runs a signature of the model.

        Args:
            signature: name of the signature, a key of `answer_checks.OUTPUTS`.
            inputs: `{name: array, or sequence of bytes}`. The first axis of each value is the batch.
            version: number of the version, or None.
            timeout: time limit in seconds.

        Returns:
            Tuple `(outputs, version)`: outputs as `{name: array}` with the types and shapes of `answer_checks`, text as
            an array of `str` objects; and the version that computed them. If `reports_version` is false, it is the
            argument `version`.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        """Returns the version that currently handles requests, and the names of its signatures.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def signatures(self, version: int | None, timeout: float) -> dict[str, Signature]:
        """Returns the signatures of the version that handles requests, by their names.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def version_states(self, timeout: float) -> dict[int, str]:
        """Returns the states of all versions that the server knows, such as `{3: "AVAILABLE"}`.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def version_errors(self, timeout: float) -> dict[int, str]:
        """Returns the messages of the versions that the server failed to load, such as `{4: "Op type not registered"}`.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""
