"""Conversion of the error of a transport to a `ServingError` for the specific cause."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from keras_arcface.serving.client import errors
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import Inputs
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError

_TIMEOUT = 2.0  # seconds, for a request that only improves an error message
_SHOWN = 20  # versions or signatures in an error


@dataclasses.dataclass(frozen=True)
class Target:
    """Server and model of a client.

    Attributes:
        address: address of the server.
        model: name of the model.
        version: version of the model, or None.
        label: label of a version, or None. Without a version and a label, the target is the latest version.
    """

    address: str
    model: str
    version: int | None = None
    label: str | None = None

    def describe(self, version: int | None = None, signature: str | None = None) -> str:
        """Returns a description of the target, with which error messages begin."""
        parts = [self.address, f"model {self.model!r}"]
        if self.label is not None:
            parts.append(f"label {self.label!r}")
        version = self.version if version is None else version
        if version is not None:
            parts.append(f"version {version}")
        if signature is not None:
            parts.append(f"signature {signature!r}")
        return ", ".join(parts)


def diagnose(
    failure: TransportError,
    transport: Transport,
    target: Target,
    deadline: float,
    version: int | None = None,
    signature: str | None = None,
    inputs: Inputs | None = None,
) -> errors.ServingError:
    """Returns the specific error for a failed request.

    The server sends the same error for a missing model, version or signature. For these errors an additional request
    of at most 2 seconds determines the cause, if the deadline permits it.

    Args:
        failure: error of the transport.
        transport: transport for the additional request.
        target: server and model of the client.
        deadline: time of `time.monotonic()` after which no request is sent.
        version: requested version, or None.
        signature: requested signature, or None for requests without one.
        inputs: inputs of the request, or None.
    """
    where, message, kind = target.describe(version, signature), failure.message, failure.kind
    if kind is FailureKind.UNAVAILABLE:
        attempts = f"{failure.attempts} {'attempt' if failure.attempts == 1 else 'attempts'}"
        return errors.ServerUnavailable(
            f"{where}: no response after {attempts} in {failure.seconds:.2g} s. Last message: {message}"
        )
    if kind is FailureKind.TIMEOUT:
        return errors.RequestTimeout(f"{where}: no response within {failure.seconds:.2g} s. {message}")
    if kind is FailureKind.UNEXPECTED:
        return errors.UnexpectedResponse(f"{where}: {message}")
    if kind is FailureKind.FAILED:
        return errors.ServerFailed(f"{where}: {message}")
    # TensorFlow Serving refuses an unknown label as an invalid argument, even if the model does not exist.
    label_refused = kind is FailureKind.REFUSED and version is None and target.label is not None and "label" in message
    if kind is FailureKind.NOT_FOUND or label_refused:
        states = _version_states(transport, deadline)
        if states == {}:
            return errors.ModelNotFound(f"{where}: the server has no such model. Server message: {message}")
        details = f"{_list_states(states)}. Server message: {message}"
        if label_refused:
            return errors.LabelNotFound(f"{where}: no such label. {details}")
        return errors.VersionNotAvailable(f"{where}: not available. {details}")
    if signature is not None:
        signatures = _signatures(transport, version, deadline)
        if signatures and signature not in signatures:
            shown = ", ".join(name[:40] for name in sorted(signatures)[:_SHOWN])
            return errors.SignatureNotFound(
                f"{where}: no such signature. The model has {shown}. Server message: {message}"
            )
    sent = ", ".join(f"{name} {_describe_input(value)}" for name, value in (inputs or {}).items())
    return errors.RequestRefused(f"{where}: {message}{f'. Sent: {sent}' if sent else ''}")


def _version_states(transport: Transport, deadline: float) -> dict[int, str] | None:
    """Returns `{version: state}`. It is empty for an unknown model, and None if the server does not respond."""
    try:
        return transport.version_states(_timeout(deadline))
    except TransportError as failure:
        return {} if failure.kind is FailureKind.NOT_FOUND else None


def _signatures(transport: Transport, version: int | None, deadline: float) -> Sequence[str]:
    try:
        return transport.resolve(version, _timeout(deadline))[1]
    except TransportError:
        return ()


def _timeout(deadline: float) -> float:
    seconds = min(_TIMEOUT, deadline - time.monotonic())
    if seconds <= 0:
        raise TransportError(FailureKind.TIMEOUT, "The time limit expired.")
    return seconds


def _list_states(states: dict[int, str] | None) -> str:
    if states is None:
        return "The versions of the model are unknown"
    available = sorted(version for version, state in states.items() if state == "AVAILABLE")[-_SHOWN:]
    others = [f"{version} is {state}" for version, state in sorted(states.items()) if state != "AVAILABLE"][-_SHOWN:]
    return "; ".join([f"Available: {', '.join(map(str, available)) or 'no version'}", *others])


def _describe_input(value: np.ndarray | Sequence[bytes]) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return f"({len(value)},) with {sum(map(len, value)):,} bytes in total"
