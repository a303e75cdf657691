"""One model on a server, over one protocol, with unchecked outputs."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_arcface.serving.client import errors
from keras_arcface.serving.client.answer_checks import read_metadata
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.connection import connect
from keras_arcface.serving.client.connection import without_credentials
from keras_arcface.serving.client.diagnosis import Target
from keras_arcface.serving.client.endpoint import Endpoint
from keras_arcface.serving.client.images import Batch
from keras_arcface.serving.client.transport import Signature

_MAX_MESSAGE_BYTES = 256 * 2**20
_MAX_ROWS = 1024  # of a request, which limits the length of the answers that are accepted


class RemoteModel:
    """Model that a server serves.

    Unlike those of `FaceClient`, its methods return the outputs as they are. They raise the same errors.

    Args:
        address, model, version, label, timeout, retries: arguments of `FaceClient`.
        files: certificates and key for TLS.

    Attributes:
        protocol: "grpc" or "rest".
        address: address without credentials.
        current: version that handles requests, after `connect`.
        signatures: signatures of that version, after `connect`.
        max_rows: largest number of images in a request, which is smaller after a server refused a larger one.
    """

    def __init__(
        self,
        address: str,
        model: str,
        version: int | None,
        label: str | None,
        timeout: float,
        retries: int,
        files: PemFiles,
    ):
        self._arguments = (address, timeout, retries, files)
        self.model, self.version, self.label = model, version, label
        self.protocol = protocol_of(address)
        self.address = without_credentials(address)
        self.current: int | None = None
        self.signatures: dict[str, Signature] = {}
        self.max_rows = _MAX_ROWS
        self._endpoint = self._make_endpoint(model, version, label)
        self._limit = self._endpoint.time_limit(None)

    def connect(self) -> None:
        """Requests the current version and its signatures. All other requests are sent to this version."""
        version = self._endpoint.resolve(self._limit)
        self.signatures = self._endpoint.signatures(version, self._limit)
        self.current = version

    def close(self) -> None:
        """Closes the connection."""
        self._endpoint.close()

    def other(self, model: str | None = None, version: int | None = None, label: str | None = None) -> "RemoteModel":
        """Returns another model, version or label on the same server, over a separate connection."""
        address, timeout, retries, files = self._arguments
        return RemoteModel(address, model or self.model, version, label, timeout, retries, files)

    def request(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature for arrays or lists of bytes, in one request."""
        return self._endpoint.predict(Batch(signature, inputs), self.current, self._limit)[0]

    def run(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature, in several requests if the server refuses a batch of this size."""
        rows = len(next(iter(inputs.values())))
        if rows <= self.max_rows:
            try:
                return self.request(signature, **inputs)
            except errors.RequestRefused as error:
                limit = batch_limit(error)
                if limit is None or not 1 <= limit < rows:
                    raise
                self.max_rows = limit
        starts = range(0, rows, self.max_rows)
        chunks = [{name: value[start : start + self.max_rows] for name, value in inputs.items()} for start in starts]
        outputs = [self.request(signature, **chunk) for chunk in chunks]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def embed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `embedding` and `norm` of uint8 images `(n, height, width, 3)`, see `run`."""
        return self.run("serving_default", images=images)

    def embed_bytes(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns `embedding`, `norm` and `valid` of encoded images, see `run`."""
        return self.run("serve_bytes", image_bytes=list(images))

    def describe(self, rows: int = 1) -> list[str]:
        """Returns the metadata as text, once per row."""
        return list(self.request("describe", request=[b""] * rows)["metadata"])

    def metadata(self) -> dict[str, Any]:
        """Returns the metadata.

        Raises:
            UnexpectedResponse: if it is not the metadata of an embedder.
        """
        (text,) = self.describe()
        with self._endpoint.checking(self.current, "describe"):
            return read_metadata(text)

    def answering_version(self) -> int:
        """Returns the version that answers requests without a version number, but with the requested label."""
        return self._endpoint.resolve(self._limit)

    def predicting_version(self) -> int | None:
        """Returns the version that computes such requests, or None if the protocol does not report it."""
        return self._endpoint.predict(Batch("describe", {"request": [b""]}), self.version, self._limit)[1]

    def version_states(self) -> dict[int, str]:
        """Returns the states of all versions."""
        return self._endpoint.version_states(self._limit)

    def version_errors(self) -> dict[int, str]:
        """Returns the messages of the versions that did not load."""
        return self._endpoint.version_errors(self._limit)

    def shorten(self, error: errors.ServingError) -> str:
        """Returns the message of an error without the address, model, version and signature at its start."""
        start = re.escape(self.address) + r", model '[^']*'(, label '[^']*')?(, version \d+)?(, signature '[^']*')?: "
        return f"{type(error).__name__}: {re.sub(f'^{start}', '', str(error))}"

    def _make_endpoint(self, model: str, version: int | None, label: str | None) -> Endpoint:
        address, timeout, retries, files = self._arguments
        transport = connect(address, model, label, files, _MAX_MESSAGE_BYTES, _MAX_ROWS)
        return Endpoint(transport, Target(self.address, model, version, label), timeout, retries)


def batch_limit(error: errors.ServingError) -> int | None:
    """Returns the largest batch of a server that refused a larger one, or None for another error."""
    found = re.search(r"larger than maximum input batch size (\d{1,9})", str(error))
    return int(found[1]) if found else None


def protocol_of(address: str) -> str:
    """Returns "grpc" or "rest" for a valid address."""
    return "grpc" if address.startswith("grpc") else "rest"
