"""Requests to TensorFlow Serving by HTTP and JSON."""

import base64
import json
import time
import urllib.parse

import numpy as np
import requests
import urllib3

from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.errors import Kind

# TensorFlow Serving's statuses; 502 is what a proxy says whose server is away.
_KINDS = {
    400: Kind.REFUSED,
    401: Kind.REFUSED,
    403: Kind.REFUSED,
    404: Kind.NOT_FOUND,
    413: Kind.REFUSED,
    429: Kind.REFUSED,
    501: Kind.REFUSED,
    502: Kind.UNAVAILABLE,
    503: Kind.UNAVAILABLE,
    504: Kind.TIMEOUT,
}
_PIECE = 1 << 16
_UNNAMED = "(unnamed)"  # the JSON of a single output is without its name
_SHOWN = 300  # characters of an answer that is not understood


class RestTransport:
    """One model behind one HTTP address.

    Args:
        address: `http://host:port`, `https://host:port`, with the path in front of `/v1` if a proxy wants one.
        model: the model's name.
        label: of the version to ask where a request names none; None for the latest.
        certificates, client_certificate, client_key: paths of PEM files, or None.
    """

    # Answers do not say which version gave them: it must be asked for, and named in the request.
    names_version = False

    def __init__(self, address, model, label, certificates, client_certificate, client_key):
        self._model = f"{address.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}"
        self._label = label
        self._verify = True if certificates is None else str(certificates)
        self._certificate = None if client_certificate is None else (str(client_certificate), str(client_key))
        self._session = requests.Session()

    def close(self):
        self._session.close()

    def predict(self, signature, inputs, version, timeout):
        """Asks a signature.

        Args:
            signature: its name.
            inputs: `{name: uint8 array, or list of bytes}`.
            version: to ask, or None for the label's, or the latest.
            timeout: seconds.

        Returns:
            `({output: array or nested list}, version that answered or None)`.

        Raises:
            Failure: if there is no answer, or no good one.
        """
        body = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        answer = self._ask("POST", f"{self._version(version)}:predict", timeout, body)
        answer = _part(answer, "outputs")
        return answer if isinstance(answer, dict) else {_UNNAMED: answer}, version

    def resolve(self, version, timeout):
        """`(version, names of its signatures)`: what a request would be answered by."""
        answer = self._ask("GET", f"{self._version(version)}/metadata", timeout)
        signatures = _part(answer, "metadata", "signature_def", "signature_def")
        return int(_part(answer, "model_spec", "version")), tuple(signatures)

    def states(self, timeout):
        """`{version: state}` of all versions that the server knows of."""
        answer = self._ask("GET", "", timeout)
        return {int(status["version"]): status["state"] for status in _part(answer, "model_version_status")}

    def _version(self, version):
        if version is not None:
            return f"/versions/{version}"
        return "" if self._label is None else f"/labels/{urllib.parse.quote(self._label, safe='')}"

    def _ask(self, method, path, timeout, body=None):
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        status, content = self._send(method, self._model + path, data, timeout)
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and "error" in answer:
            raise Failure(_KINDS.get(status, Kind.FAILED), f"HTTP {status}: {answer['error']}")
        kind = _KINDS.get(status, Kind.UNEXPECTED)
        # "Not found" in other words than TensorFlow Serving's is of another server, or of a proxy.
        kind = Kind.UNEXPECTED if kind is Kind.NOT_FOUND else kind
        raise Failure(kind, f"HTTP {status}: {content[:_SHOWN].decode(errors='replace')!r}")

    def _send(self, method, url, data, timeout):
        timeout = max(timeout, 1e-3)  # requests refuses 0
        deadline = time.monotonic() + timeout
        headers = {"Content-Type": "application/json"}
        try:
            with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=timeout,
                stream=True,
                verify=self._verify,
                cert=self._certificate,
            ) as response:
                # requests' own timeout is that of each piece of an answer, and begins again with the next.
                pieces = [response.raw.read1(_PIECE, decode_content=True)]
                while pieces[-1]:
                    if time.monotonic() > deadline:
                        raise Failure(Kind.TIMEOUT, "the answer comes too slowly")
                    pieces.append(response.raw.read1(_PIECE, decode_content=True))
                return response.status_code, b"".join(pieces)
        except requests.Timeout as error:
            raise Failure(Kind.TIMEOUT, _reason(error)) from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            kind = Kind.TIMEOUT if time.monotonic() >= deadline else Kind.UNAVAILABLE
            raise Failure(kind, _reason(error)) from error
        except requests.RequestException as error:
            raise Failure(Kind.FAILED, str(error)) from error


def _reason(error):
    """What lies behind an error of requests, which says "Max retries exceeded" of a connection refused once."""
    return str(getattr(error.args[0] if error.args else None, "reason", error))


def _to_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [{"b64": base64.b64encode(item).decode()} for item in value]


def _part(answer, *keys):
    part = answer
    for key in keys:
        if not isinstance(part, dict) or key not in part:
            shown = json.dumps(answer)[:_SHOWN]
            raise Failure(Kind.UNEXPECTED, f"an answer with {'.'.join(keys)} was expected. Received: {shown}")
        part = part[key]
    return part
