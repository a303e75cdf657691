"""Transport of requests to TensorFlow Serving over HTTP, with JSON."""

import base64
import contextlib
import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_arcface._messages import short
from keras_arcface.serving.client import answer_checks
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.http_connection import HttpConnection
from keras_arcface.serving.client.http_connection import Response
from keras_arcface.serving.client.http_connection import ResponseTooLong
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import Inputs
from keras_arcface.serving.client.transport import Signature
from keras_arcface.serving.client.transport import TensorSpec
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError
from keras_arcface.serving.client.transport import printable

# HTTP status codes of TensorFlow Serving, and 502, which a proxy returns if the server is unreachable.
_KINDS = {
    400: FailureKind.REFUSED,
    401: FailureKind.REFUSED,
    403: FailureKind.REFUSED,
    404: FailureKind.NOT_FOUND,
    413: FailureKind.REFUSED,
    429: FailureKind.REFUSED,
    501: FailureKind.REFUSED,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.TIMEOUT,
}
_PORTS = {"http": 80, "https": 443}
_SHOWN = 300  # number of characters of an unexpected response in an error


class RestTransport(Transport):
    """Transport over one HTTP connection.

    Args:
        address: parts of the address `http://host:port` or `https://host:port`, optionally with the path of a proxy. A
            user and a password are sent as basic authentication.
        model: name of the model.
        label: label that selects the version of requests without a version. None: the latest version.
        files: certificates and key for TLS. None: no encryption.

    Raises:
        ValueError: if a PEM file is not valid.
    """

    reports_version = False

    def __init__(self, address: urllib.parse.SplitResult, model: str, label: str | None, files: PemFiles | None):
        base = urllib.parse.quote(address.path.rstrip("/"), safe="/%")
        self._model = f"{base}/v1/models/{urllib.parse.quote(model, safe='')}"
        self._label = label
        self._headers = {"Content-Type": "application/json"}
        if address.username is not None:
            user = urllib.parse.unquote(f"{address.username}:{address.password or ''}")
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        port = address.port or _PORTS[address.scheme]
        tls = None if files is None else _tls_context(files)
        self._connection = HttpConnection(address.hostname or "", port, tls)

    def close(self) -> None:
        self._connection.close()

    def predict(
        self, signature: str, inputs: Inputs, version: int | None, timeout: float
    ) -> tuple[dict[str, Any], int | None]:
        deadline = time.monotonic() + timeout
        rows = len(next(iter(inputs.values())))
        body = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        response = self._request("POST", f"{self._version_path(version)}:predict", deadline, body, signature, rows)
        with _checked():
            outputs = _get(response, "outputs")
            if not isinstance(outputs, dict):  # the JSON of a single output does not contain its name
                names = list(answer_checks.OUTPUTS.get(signature, ()))
                outputs = {names[0] if len(names) == 1 else "(unnamed)": outputs}
            expected = answer_checks.check_names(signature, outputs)
            return {name: _read(name, output, outputs[name], rows) for name, output in expected.items()}, version

    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        response, signatures = self._metadata(version, timeout)
        with _checked():
            return answer_checks.read_version(_get(response, "model_spec", "version")), tuple(signatures)

    def signatures(self, version: int | None, timeout: float) -> dict[str, Signature]:
        _, signatures = self._metadata(version, timeout)
        with _checked():
            return {name: _read_signature(signature) for name, signature in signatures.items()}

    def version_states(self, timeout: float) -> dict[int, str]:
        statuses = self._status(timeout)
        with _checked():
            return answer_checks.read_states((_get(status, "version"), _get(status, "state")) for status in statuses)

    def version_errors(self, timeout: float) -> dict[int, str]:
        messages = {}
        for status in self._status(timeout):
            with _checked():
                version = answer_checks.read_version(_get(status, "version"))
                detail = status.get("status")
                message = detail.get("error_message") if isinstance(detail, dict) else None
            if isinstance(message, str) and message:
                messages[version] = printable(message)
        return messages

    def _metadata(self, version: int | None, timeout: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the metadata of a version, and the signatures in it."""
        deadline = time.monotonic() + timeout
        response = self._request("GET", f"{self._version_path(version)}/metadata", deadline)
        with _checked():
            signatures = _get(response, "metadata", "signature_def", "signature_def")
            if not isinstance(signatures, dict):
                raise ValueError("expected signature_def as an object")
        return response, signatures

    def _status(self, timeout: float) -> list:
        response = self._request("GET", "", time.monotonic() + timeout)
        with _checked():
            statuses = _get(response, "model_version_status")
            if not isinstance(statuses, list):
                raise ValueError("expected model_version_status as a list")
        return statuses

    def _version_path(self, version: int | None) -> str:
        if version is not None:
            return f"/versions/{version}"
        return "" if self._label is None else f"/labels/{urllib.parse.quote(self._label, safe='')}"

    def _request(
        self,
        method: str,
        path: str,
        deadline: float,
        body: dict | None = None,
        signature: str | None = None,
        rows: int = 0,
    ) -> dict[str, Any]:
        """Sends a request and returns the JSON object of the response, of at most the length for `rows` rows."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        status, headers, content = self._send(
            method, self._model + path, data, deadline, answer_checks.max_bytes(signature, rows)
        )
        if 300 <= status < 400:
            raise TransportError(
                FailureKind.UNEXPECTED,
                f"HTTP {status}: a redirect to {_redirect_host(headers.get('Location'))}. Redirects are not followed.",
            )
        if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise TransportError(FailureKind.UNEXPECTED, f"HTTP {status}: expected content without compression")
        response, reason = None, "expected a JSON object"
        try:
            response = answer_checks.load_json(content, answer_checks.max_values(signature, rows))
        except ValueError as error:
            reason = str(error)
        if status == 200 and isinstance(response, dict):
            return response
        if isinstance(response, dict) and isinstance(response.get("error"), str):
            raise TransportError(_KINDS.get(status, FailureKind.FAILED), f"HTTP {status}: {response['error']}")
        kind = _KINDS.get(status, FailureKind.UNEXPECTED)
        # A response with status 404 and without JSON comes from a proxy or from a different kind of server.
        kind = FailureKind.UNEXPECTED if kind is FailureKind.NOT_FOUND else kind
        if status != 200:
            reason = "expected the JSON of TensorFlow Serving: the address may be that of another kind of server"
        raise TransportError(kind, f"HTTP {status}: {content[:_SHOWN].decode(errors='replace')!r}. {reason}")

    def _send(self, method: str, path: str, data: bytes | None, deadline: float, max_bytes: int) -> Response:
        """Sends a request and returns the response."""
        try:
            return self._connection.request(method, path, self._headers, data, deadline, max_bytes)
        except TimeoutError as error:
            raise TransportError(FailureKind.TIMEOUT, str(error)) from error
        except ResponseTooLong as error:
            message = f"expected a response of at most {max_bytes:,} bytes. Received: more"
            raise TransportError(FailureKind.UNEXPECTED, message) from error
        except (OSError, http.client.IncompleteRead) as error:
            raise TransportError(FailureKind.UNAVAILABLE, f"{type(error).__name__}: {error}") from error
        except (http.client.HTTPException, ValueError) as error:
            message = f"expected an HTTP response. Received: {type(error).__name__}: {error}"
            raise TransportError(FailureKind.UNEXPECTED, message) from error


def _tls_context(files: PemFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.certificates)
        if files.client_certificate is not None:
            # Without the password, OpenSSL would ask for the password of an encrypted key on the terminal.
            context.load_cert_chain(files.client_certificate, files.client_key, password="")
    except ssl.SSLError as error:
        paths = ", ".join(str(path) for path in files.paths())
        raise ValueError(
            f"certificates, client_certificate and client_key must be PEM files that belong together, with a key "
            f"without password. Received: {paths}: {error}"
        ) from error
    return context


@contextlib.contextmanager
def _checked() -> Iterator[None]:
    """Converts a ValueError for an answer to a TransportError."""
    try:
        yield
    except ValueError as error:
        raise TransportError(FailureKind.UNEXPECTED, str(error)) from error


def _redirect_host(location: str | None) -> str:
    """Returns the host of a redirect's target. The rest of the target may contain credentials."""
    try:
        return urllib.parse.urlsplit(location or "").hostname or "the same host"
    except ValueError:
        return "an invalid address"


def _to_json(value: np.ndarray | Sequence[bytes]) -> list:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [{"b64": base64.b64encode(item).decode()} for item in value]


def _read(name: str, output: answer_checks.Output, value: Any, rows: int) -> np.ndarray:
    """Converts an output from JSON to an array."""
    shape: list[int] = []
    first = value
    while isinstance(first, list) and len(shape) < 3:
        shape.append(len(first))
        first = first[0] if first else None
    answer_checks.check_shape(name, output, tuple(shape), rows)
    lists = value if output.is_matrix else [value]
    if not all(isinstance(row, list) and len(row) == shape[-1] for row in lists):
        raise ValueError(f"expected rows of the same length. Received: {name} with rows of different lengths")
    allowed = {int, float} if output.dtype is np.float32 else {output.dtype}
    wrong = {type(item) for row in lists for item in row} - allowed
    if wrong:
        expected = " or ".join(sorted(kind.__name__ for kind in allowed))
        received = ", ".join(sorted(kind.__name__ for kind in wrong))
        raise ValueError(f"expected {name} with values of type {expected}. Received: {received}")
    try:
        with np.errstate(over="ignore"):  # an infinite number is refused with the others
            return np.array(value, object if output.dtype is str else output.dtype)
    except OverflowError as error:
        raise ValueError(f"expected {name} with float32 numbers. Received: an integer outside their range") from error


def _read_signature(signature: Any) -> Signature:
    parts = []
    for part in ("inputs", "outputs"):
        tensors = _get(signature, part)
        if not isinstance(tensors, dict):
            raise ValueError(f"expected the {part} of a signature as an object. Received: {short(tensors)}")
        parts.append({name: _read_spec(tensor) for name, tensor in tensors.items()})
    return Signature(*parts)


def _read_spec(tensor: Any) -> TensorSpec:
    dtype = _get(tensor, "dtype")
    if not isinstance(dtype, str):
        raise ValueError(f"expected the name of a type. Received: {short(dtype)}")
    shape = _get(tensor, "tensor_shape")
    if isinstance(shape, dict) and shape.get("unknown_rank") is True:
        sizes = None
    else:
        dims = _get(shape, "dim") if shape else []
        if not isinstance(dims, list):
            raise ValueError(f"expected the axes of a tensor as a list. Received: {short(dims)}")
        sizes = answer_checks.read_shape(_get(dim, "size") for dim in dims)
    name = dtype.removeprefix("DT_").lower()
    return TensorSpec({"float": "float32", "double": "float64", "half": "float16"}.get(name, name), sizes)


def _get(response: Any, *keys: str) -> Any:
    """Returns a nested value of a response."""
    for key in keys:
        if not isinstance(response, dict) or key not in response:
            raise ValueError(f"expected a response with {'.'.join(keys)}. Received: {short(response, _SHOWN)}")
        response = response[key]
    return response
