"""Interface between `FaceClient` and a network protocol, and the error that every protocol raises."""

import abc
import enum
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

Inputs = Mapping[str, np.ndarray | Sequence[bytes]]


class FailureKind(enum.Enum):
    """What the status of a failed request means, independent of the protocol."""

    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    FAILED = "failed"
    UNEXPECTED = "unexpected"


class TransportError(Exception):
    """A request that failed. `FaceClient` turns it into a `ServingError`.

    Args:
        kind: what the status means.
        message: the message of the server, or of the library that sends the request.

    Attributes:
        attempts: number of attempts. `retry` sets it.
        seconds: seconds that all attempts took. `retry` sets it.
    """

    def __init__(self, kind: FailureKind, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.attempts = 1
        self.seconds = 0.0


class Transport(abc.ABC):
    """Sends requests about one model to one server over one protocol.

    The contract of every transport:

    - It is created for one server, one model and an optional label. Creating it sends nothing. It connects with the
      first request and connects again after a failure.
    - Each method except `close` sends one request once. Batches, retries and specific errors belong to `FaceClient`.
    - A request goes to `version` if it is given, otherwise to the version with the transport's label, otherwise to
      the latest version.
    - `timeout` is the time limit of the request in seconds, above 0. It includes connecting and reading the answer.
    - If a request fails, the method raises `TransportError`: without an answer, with an error status, and with an
      answer that it cannot read. An expired timeout has the kind `TIMEOUT`.
    - It is not thread-safe: only one thread at a time may use a transport.
    - `close` may be called more than once. No request may follow it.

    Attributes:
        reports_version: whether `predict` returns the version that answered. If not, a caller that needs the version
            calls `resolve` first and passes the result to `predict`.
    """

    reports_version: bool

    @abc.abstractmethod
    def predict(
        self, signature: str, inputs: Inputs, version: int | None, timeout: float
    ) -> tuple[dict[str, Any], int | None]:
        """Runs a signature of the model.

        Args:
            signature: name of the signature.
            inputs: `{name: array, or sequence of bytes}`. Every value has the batch as its first axis.
            version: number of the version, or None.
            timeout: time limit in seconds.

        Returns:
            `(outputs, version)`: outputs as `{name: array or nested list}`, and the version that answered, or
            `version` if `reports_version` is false.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        """Returns the version that would answer a request, and the names of its signatures.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def version_states(self, timeout: float) -> dict[int, str]:
        """Returns `{version: state}` for all versions that the server knows, such as `{3: "AVAILABLE"}`.

        Raises:
            TransportError: if the request fails.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""
