"""Requests to one model on one server, with retries, time limits and specific errors."""

import contextlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any, TypeVar

from keras_arcface._arguments import check_number
from keras_arcface.serving.client import errors
from keras_arcface.serving.client.answer_checks import check_version
from keras_arcface.serving.client.diagnosis import Target
from keras_arcface.serving.client.diagnosis import diagnose
from keras_arcface.serving.client.embeddings import Embeddings
from keras_arcface.serving.client.embeddings import concatenate
from keras_arcface.serving.client.embeddings import read_outputs
from keras_arcface.serving.client.images import Batch
from keras_arcface.serving.client.retry import retry
from keras_arcface.serving.client.transport import Signature
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError

Result = TypeVar("Result")


def check_timeout(timeout: Any) -> None:
    """Raises a ValueError if a timeout is not a number above 0."""
    check_number("timeout", timeout, lambda seconds: seconds > 0, "above 0")


class TimeLimit:
    """Time limits of the requests in one call.

    Args:
        per_request: time limit of each request in seconds, for calls without a time limit.
        per_call: time limit of the whole call in seconds, which starts now. None: no time limit.
    """

    def __init__(self, per_request: float, per_call: float | None = None):
        self._per_request = per_request
        self._deadline = None if per_call is None else time.monotonic() + per_call

    def seconds(self) -> float:
        """Returns the time limit of the next request in seconds. It is not positive after the deadline of the call."""
        return self._per_request if self._deadline is None else self._deadline - time.monotonic()


class Endpoint:
    """Model on a server, with methods that send requests to it.

    Args:
        transport: transport of the requests.
        target: server and model, for errors, and the requested version.
        timeout: default time limit of one request with its retries, in seconds.
        retries: maximum number of retries of a request.
    """

    def __init__(self, transport: Transport, target: Target, timeout: float, retries: int):
        self.target = target
        self._transport = transport
        self._timeout = timeout
        self._retries = retries

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def time_limit(self, timeout: float | None) -> TimeLimit:
        """Returns the time limit of a call. `timeout` is the limit of the whole call in seconds, or None."""
        if timeout is not None:
            check_timeout(timeout)
        return TimeLimit(self._timeout, timeout)

    def embed(self, batches: Sequence[Batch], limit: TimeLimit) -> Embeddings:
        """Returns the embeddings of all batches, computed by one version of the model."""
        restarts = self._retries
        while True:
            version = self.target.version
            parts: list[Embeddings] = []
            try:
                if version is None and not self._transport.reports_version:
                    version = self.resolve(limit)
                for batch in batches:
                    outputs, version = self.predict(batch, version, limit)
                    with self.checking(version, batch.signature):
                        parts.append(read_outputs(outputs, version))
                with self.checking(version):
                    return concatenate(parts)
            except errors.VersionNotAvailable:
                # The server unloaded the version of the first batches, so all batches are sent to another version.
                if version is None or version == self.target.version or restarts == 0:
                    raise
                restarts -= 1

    def predict(self, batch: Batch, version: int | None, limit: TimeLimit) -> tuple[dict[str, Any], Any]:
        """Returns the outputs of a batch and the version that computed them."""

        def call(timeout):
            return self._transport.predict(batch.signature, batch.inputs, version, timeout)

        outputs, received = self._request(call, limit, version, batch)
        with self.checking(received, batch.signature):
            check_version(received, version)
        return outputs, received

    def resolve(self, limit: TimeLimit, retries: int | None = None) -> int:
        """Returns the version that currently handles requests. `retries` replaces the default number of retries."""
        version = self.target.version
        received = self._request(
            lambda timeout: self._transport.resolve(version, timeout)[0], limit, version, None, retries
        )
        with self.checking(received):
            check_version(received, version)
        return received

    def version_states(self, limit: TimeLimit) -> dict[int, str]:
        """Returns `{version: state}` for the versions that the server knows."""
        return self._request(self._transport.version_states, limit)

    def signatures(self, version: int | None, limit: TimeLimit) -> dict[str, Signature]:
        """Returns the signatures of a version with their inputs and outputs. `version` is as in `predict`."""
        return self._request(lambda timeout: self._transport.signatures(version, timeout), limit, version)

    def version_errors(self, limit: TimeLimit) -> dict[int, str]:
        """Returns `{version: message}` for the versions that the server failed to load."""
        return self._request(self._transport.version_errors, limit)

    @contextlib.contextmanager
    def checking(self, version: int | None, signature: str | None = None) -> Iterator[None]:
        """Context manager that converts a ValueError for an answer to an `UnexpectedResponse`."""
        try:
            yield
        except ValueError as error:
            raise errors.UnexpectedResponse(f"{self.target.describe(version, signature)}: {error}") from error

    def _request(
        self,
        call: Callable[[float], Result],
        limit: TimeLimit,
        version: int | None = None,
        batch: Batch | None = None,
        retries: int | None = None,
    ) -> Result:
        """Calls a method of the transport with retries. A TransportError is converted to a specific error."""
        seconds = limit.seconds()
        deadline = time.monotonic() + seconds
        try:
            return retry(call, seconds, self._retries if retries is None else retries)
        except TransportError as failure:
            signature, inputs = (None, None) if batch is None else batch
            raise diagnose(failure, self._transport, self.target, deadline, version, signature, inputs) from failure
