"""Transport of requests to TensorFlow Serving over HTTP, with JSON."""

import base64
import json
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
import urllib3

from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import Inputs
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError

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
_CHUNK_BYTES = 1 << 16
_UNNAMED = "(unnamed)"  # the JSON of a single output does not contain its name
_SHOWN = 300  # number of characters of an unexpected response in an error


class RestTransport(Transport):
    """Transport over one HTTP session.

    Args:
        address: address of the server, `http://host:port` or `https://host:port`, optionally with the path of a proxy.
        model: name of the model.
        label: label that selects the version of requests without a version. None: the latest version.
        files: certificates and key for TLS.
    """

    reports_version = False

    def __init__(self, address: str, model: str, label: str | None, files: PemFiles):
        self._model = f"{address.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}"
        self._label = label
        self._session = requests.Session()
        self._tls: dict[str, Any] = {
            "verify": True if files.certificates is None else str(files.certificates),
            "cert": None if files.client_key is None else (str(files.client_certificate), str(files.client_key)),
        }

    def close(self) -> None:
        self._session.close()

    def predict(
        self, signature: str, inputs: Inputs, version: int | None, timeout: float
    ) -> tuple[dict[str, Any], int | None]:
        body = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        response = self._request("POST", f"{self._version_path(version)}:predict", timeout, body)
        outputs = _get(response, "outputs")
        return outputs if isinstance(outputs, dict) else {_UNNAMED: outputs}, version

    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        response = self._request("GET", f"{self._version_path(version)}/metadata", timeout)
        signatures = _get(response, "metadata", "signature_def", "signature_def")
        return int(_get(response, "model_spec", "version")), tuple(signatures)

    def version_states(self, timeout: float) -> dict[int, str]:
        response = self._request("GET", "", timeout)
        return {int(status["version"]): status["state"] for status in _get(response, "model_version_status")}

    def _version_path(self, version: int | None) -> str:
        if version is not None:
            return f"/versions/{version}"
        return "" if self._label is None else f"/labels/{urllib.parse.quote(self._label, safe='')}"

    def _request(self, method: str, path: str, timeout: float, body: dict | None = None) -> dict[str, Any]:
        """Sends a request and returns the JSON object of the response."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        status, content = self._send(method, self._model + path, data, timeout)
        try:
            response = json.loads(content)
        except ValueError:
            response = None
        if status == 200 and isinstance(response, dict):
            return response
        if isinstance(response, dict) and "error" in response:
            raise TransportError(_KINDS.get(status, FailureKind.FAILED), f"HTTP {status}: {response['error']}")
        kind = _KINDS.get(status, FailureKind.UNEXPECTED)
        # A response with status 404 and without JSON comes from a proxy or from a different kind of server.
        kind = FailureKind.UNEXPECTED if kind is FailureKind.NOT_FOUND else kind
        raise TransportError(kind, f"HTTP {status}: {content[:_SHOWN].decode(errors='replace')!r}")

    def _send(self, method: str, url: str, data: bytes | None, timeout: float) -> tuple[int, bytes]:
        """Sends a request and returns the status code and the content of the response."""
        timeout = max(timeout, 1e-3)  # requests refuses 0
        deadline = time.monotonic() + timeout
        headers = {"Content-Type": "application/json"}
        try:
            with self._session.request(
                method, url, data=data, headers=headers, timeout=timeout, stream=True, **self._tls
            ) as response:
                return response.status_code, _read_until(deadline, response.raw)
        except requests.Timeout as error:
            raise TransportError(FailureKind.TIMEOUT, _reason(error)) from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            kind = FailureKind.TIMEOUT if time.monotonic() >= deadline else FailureKind.UNAVAILABLE
            raise TransportError(kind, _reason(error)) from error
        except requests.RequestException as error:
            raise TransportError(FailureKind.FAILED, str(error)) from error


def _read_until(deadline: float, raw: Any) -> bytes:
    """Reads a response. `requests` applies its timeout to each chunk, so the deadline is checked between chunks."""
    chunks = [raw.read1(_CHUNK_BYTES, decode_content=True)]
    while chunks[-1]:
        if time.monotonic() > deadline:
            raise TransportError(FailureKind.TIMEOUT, "The response is not complete.")
        chunks.append(raw.read1(_CHUNK_BYTES, decode_content=True))
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    """Returns the cause of an error of `requests`, whose text is "Max retries exceeded" even after one attempt."""
    return str(getattr(error.args[0] if error.args else None, "reason", error))


def _to_json(value: np.ndarray | Sequence[bytes]) -> list:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [{"b64": base64.b64encode(item).decode()} for item in value]


def _get(response: dict[str, Any], *keys: str) -> Any:
    """Returns a nested value of a response."""
    value: Any = response
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            shown = json.dumps(response)[:_SHOWN]
            raise TransportError(
                FailureKind.UNEXPECTED, f"expected a response with {'.'.join(keys)}. Received: {shown}"
            )
        value = value[key]
    return value
