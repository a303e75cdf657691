"""From a protocol's failure to an error that says what is wrong, and with what."""

import dataclasses

import numpy as np

from keras_arcface.serving.client import errors
from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.errors import Kind

_TIMEOUT = 2.0  # seconds for what makes an error clearer


@dataclasses.dataclass(frozen=True)
class Target:
    """Whom a client asks: the version if there is one, else the label's, else the latest."""

    address: str
    model: str
    version: int | None = None
    label: str | None = None

    def where(self, version=None, signature=None) -> str:
        """The beginning of every message."""
        parts = [self.address, f"model {self.model!r}"]
        if self.label is not None:
            parts.append(f"label {self.label!r}")
        version = self.version if version is None else version
        if version is not None:
            parts.append(f"version {version}")
        if signature is not None:
            parts.append(f"signature {signature!r}")
        return ", ".join(parts)


def diagnose(failure, transport, target, version=None, signature=None, inputs=None) -> errors.ServingError:
    """A failure by its name. What the server said does not tell a model from a version: so it is asked again.

    Args:
        failure: the `Failure`.
        transport: to ask by.
        target: the client's `Target`.
        version: that was asked for by its number, or None.
        signature: that was asked for, or None if it was none.
        inputs: that were sent, or None.
    """
    where, said, kind = target.where(version, signature), failure.said, failure.kind
    if kind is Kind.UNAVAILABLE:
        tries = f"{failure.tries} {'try' if failure.tries == 1 else 'tries'} in {failure.seconds:.2g} s"
        return errors.ServerUnavailable(f"{where}: no answer after {tries}. Last: {said}")
    if kind is Kind.TIMEOUT:
        return errors.RequestTimeout(f"{where}: no answer within {failure.seconds:.2g} s. {said}")
    if kind is Kind.UNEXPECTED:
        return errors.UnexpectedAnswer(f"{where}: {said}")
    if kind is Kind.FAILED:
        return errors.ServerFailed(f"{where}: {said}")
    # TensorFlow Serving refuses an unknown label as an invalid argument, even where the model is what is missing.
    label_refused = kind is Kind.REFUSED and version is None and target.label is not None and "label" in said
    if kind is Kind.NOT_FOUND or label_refused:
        states = _states(transport)
        if states == {}:
            return errors.ModelNotFound(f"{where}: the server has no such model. It said: {said}")
        kinds = (errors.LabelNotFound, "no such label") if label_refused else (errors.VersionNotAvailable, "not there")
        return kinds[0](f"{where}: {kinds[1]}. {_listed(states)}. The server said: {said}")
    if signature is not None:
        signatures = _signatures(transport, version)
        if signatures and signature not in signatures:
            return errors.SignatureNotFound(
                f"{where}: no such signature. The model has {', '.join(sorted(signatures))}. The server said: {said}"
            )
    sent = "" if inputs is None else f". Sent: {', '.join(f'{n} {_described(value)}' for n, value in inputs.items())}"
    return errors.RequestRefused(f"{where}: {said}{sent}")


def _states(transport):
    """`{version: state}`, empty if there is no such model, None where that cannot be learned."""
    try:
        return transport.states(_TIMEOUT)
    except Failure as failure:
        return {} if failure.kind is Kind.NOT_FOUND else None


def _signatures(transport, version):
    try:
        return transport.resolve(version, _TIMEOUT)[1]
    except Failure:
        return ()


def _listed(states):
    if states is None:
        return "Which versions there are could not be learned"
    available = sorted(version for version, state in states.items() if state == "AVAILABLE")
    others = [f"{version} is {state}" for version, state in sorted(states.items()) if state != "AVAILABLE"]
    return "; ".join([f"Available: {', '.join(map(str, available)) or 'no version'}", *others])


def _described(value):
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return f"({len(value)},) of {sum(map(len, value)):,} bytes in all"
