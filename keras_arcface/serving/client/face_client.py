"""Client for an embedder that `export_saved_model` wrote and TensorFlow Serving serves."""

import json
import math
import os
import time

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface.serving.client import errors
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.connection import connect
from keras_arcface.serving.client.diagnosis import Target
from keras_arcface.serving.client.embeddings import Embeddings
from keras_arcface.serving.client.endpoint import Endpoint
from keras_arcface.serving.client.endpoint import TimeLimit
from keras_arcface.serving.client.endpoint import check_timeout
from keras_arcface.serving.client.images import Batch
from keras_arcface.serving.client.images import check_images
from keras_arcface.serving.client.images import merge
from keras_arcface.serving.client.images import split_into_batches
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES

_POLL_SECONDS = 0.2  # pause between two requests to a server that is not ready
# Errors of a server that is still starting.
_NOT_READY = (
    errors.ServerUnavailable,
    errors.RequestTimeout,
    errors.ModelNotFound,
    errors.VersionNotAvailable,
    errors.LabelNotFound,
)


class FaceClient:
    """Client for an exported embedder on TensorFlow Serving. gRPC and REST give the same results.

    Temporary failures are retried, see `retry.retry`. One version of the model answers all images of a call, even if
    the server changes versions during the call.

    Every method has an argument `timeout`: the time limit of the whole call in seconds, with all its requests and
    retries. After it the method raises `RequestTimeout`, or `ServerUnavailable` if it was retrying. Without it each
    request of the call has the client's `timeout`.

    Only one thread at a time may use a client. Create one per thread and per process.

    Args:
        address: `grpc://host:8500`, `grpcs://host:8500` (TLS), `http://host:8501` or `https://host:8501`. HTTP
            addresses may continue with the path of a proxy.
        model: name of the model on the server.
        version: version of the model. None: the latest version.
        label: label of a version, such as "stable", instead of `version`.
        timeout: time limit of one request with its retries, in seconds.
        retries: maximum number of retries of a request.
        batch_size: maximum number of images in a request. A server with batching refuses requests that are larger than
            its largest batch.
        certificates: PEM file with the root certificates for TLS. None: those of grpcio and requests.
        client_certificate, client_key: PEM files, for servers that require a client certificate.
        max_message_bytes: size limit of gRPC messages in both directions. gRPC's own limit is 4 MiB.

    Raises:
        FileNotFoundError: if a certificate or the key does not exist.
        ModuleNotFoundError: if the module for the protocol is not installed.
        ValueError: if the address or another argument is not valid.

    >>> with FaceClient("grpc://localhost:8500", label="stable") as client:  # doctest: +SKIP
    ...     same = client.compare(first, second) >= client.threshold(far=1e-4)
    """

    def __init__(
        self,
        address: str,
        model: str = "faces",
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        retries: int = 3,
        batch_size: int = BATCH_SIZES[-1],
        certificates: str | os.PathLike | None = None,
        client_certificate: str | os.PathLike | None = None,
        client_key: str | os.PathLike | None = None,
        max_message_bytes: int = 64 * 2**20,
    ):
        if version is not None and label is not None:
            raise ValueError(f"version and label exclude each other. Received: {version=}, {label=}")
        if version is not None:
            check_integer("version", version, 0)
        check_timeout(timeout)
        check_integer("retries", retries, 0)
        check_integer("batch_size", batch_size, 1)
        files = PemFiles(certificates, client_certificate, client_key)
        transport = connect(address, model, label, files, max_message_bytes)
        self._endpoint = Endpoint(transport, Target(address, model, version, label), timeout, retries)
        self._timeout = timeout
        self._batch_size = batch_size
        self._metadata: dict[int, dict] = {}

    def __enter__(self) -> "FaceClient":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._endpoint.close()

    def embed(self, images, timeout: float | None = None) -> Embeddings:
        """Embeds any number of faces, in requests of at most `batch_size` images.

        Args:
            images: a uint8 RGB array `(n, height, width, 3)` of the model's image size, or a sequence of `bytes`,
                each an encoded image of any size: JPEG or PNG, or one of the GIF and BMP files that docs/serving.md
                lists under "Image formats". Faces must be aligned as in training.
            timeout: time limit of the call in seconds. None: the client's `timeout` for each request.

        Returns:
            `n` rows in the order of the images. The row of an image that the server cannot decode has `valid` false;
            other rows are not affected.

        Raises:
            ServingError: one of its subclasses, if the server does not return embeddings.
            ValueError: if `images` has another type or shape, or is empty.
        """
        batches = split_into_batches([check_images(images, "images")], self._batch_size)
        return self._endpoint.embed(batches, self._endpoint.time_limit(timeout))

    def compare(self, first, second, timeout: float | None = None) -> np.ndarray:
        """Returns the cosine between each face of `first` and the face of `second` in the same row.

        Args:
            first, second: images as for `embed`, of the same number. One may be an array, the other bytes.
            timeout: time limit of the call in seconds. None: the client's `timeout` for each request.

        Returns:
            `(n,)` float32. NaN, which no threshold accepts, if one of the two images cannot be decoded.

        Raises:
            ServingError: one of its subclasses, if the server does not return embeddings.
            ValueError: if the images have another type or shape, or their numbers differ.
        """
        first, second = check_images(first, "first"), check_images(second, "second")
        if len(first) != len(second):
            raise ValueError(
                f"first and second must have the same number of images. Received: {len(first)} first, "
                f"{len(second)} second"
            )
        faces = self._endpoint.embed(
            split_into_batches(merge(first, second), self._batch_size), self._endpoint.time_limit(timeout)
        )
        (a, b), (a_valid, b_valid) = np.split(faces.embedding, 2), np.split(faces.valid, 2)
        return np.where(a_valid & b_valid, np.sum(a * b, axis=1), np.float32(np.nan))

    def metadata(self, version: int | None = None, timeout: float | None = None) -> dict:
        """Returns the metadata of the export: alignment, image size, thresholds and more.

        `["alignment"]["method"]` is how the faces of the training were aligned: "five_points", with the `"template"`
        beside it, "none", or "not stated". Faces in requests must be aligned in the same way.

        The client keeps the metadata of each version. The version behind a label, or the latest one, is requested in
        every call.

        Args:
            version: version of the model. None: the version that would answer now.
            timeout: time limit of the call in seconds. None: the client's `timeout` for each request.

        Raises:
            ServingError: one of its subclasses; `SignatureNotFound` if this package did not export the model.
        """
        return self._describe(version, self._endpoint.time_limit(timeout))[1]

    def threshold(self, far: float, version: int | None = None, timeout: float | None = None) -> float:
        """Returns the cosine from which two faces count as the same person.

        Args:
            far: false accept rate, one of those for which the export has a threshold.
            version: version of the model, such as `Embeddings.version`. None: the version that would answer now.
            timeout: time limit of the call in seconds. None: the client's `timeout` for each request.

        Raises:
            ThresholdNotFound: if the export has no threshold for this rate. The message lists the available rates.
            ServingError: another of its subclasses, if the server does not return the metadata.
        """
        return float(self.operating_point(far, version, timeout)["threshold"])

    def operating_point(self, far: float, version: int | None = None, timeout: float | None = None) -> dict:
        """Returns the threshold for a false accept rate, with its confidence interval and the number of pairs.

        Args:
            far, version, timeout: see `threshold`.

        Returns:
            The entry of the export: "threshold"; "far" and "tar", the accepted shares of impostor and genuine pairs;
            "impostors_accepted" of "impostors" pairs; "far_interval", the 95% confidence interval of the rate.

        Raises:
            ServingError: see `threshold`.
        """
        version, metadata = self._describe(version, self._endpoint.time_limit(timeout))
        calibrated = metadata.get("thresholds") or {}
        for known, point in calibrated.items():
            if math.isclose(float(known), far, rel_tol=1e-6):
                return point
        available = ", ".join(calibrated) or "none, the model was exported without an evaluation"
        raise errors.ThresholdNotFound(
            f"{self._endpoint.target.describe(version)}: no threshold for a FAR of {far:g}. Available: {available}"
        )

    def status(self, timeout: float | None = None) -> dict[int, str]:
        """Returns `{version: state}` for the versions that the server knows: "AVAILABLE", "LOADING", "END" and others.

        Args:
            timeout: time limit of the call in seconds. None: the client's `timeout`.

        Raises:
            ModelNotFound: if the server knows no version.
            ServingError: another of its subclasses, if the server does not answer.
        """
        return self._endpoint.version_states(self._endpoint.time_limit(timeout))

    def wait_until_ready(self, timeout: float = 60.0) -> int:
        """Waits until the model, in the version or with the label of this client, would answer.

        Args:
            timeout: time limit in seconds.

        Returns:
            The version that would answer.

        Raises:
            ServingError: the subclass that says what is missing when the time is over.
        """
        check_timeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            remaining = max(deadline - time.monotonic(), _POLL_SECONDS)
            try:
                return self._endpoint.resolve(TimeLimit(min(self._timeout, remaining)), retries=0)
            except _NOT_READY as error:
                if time.monotonic() + _POLL_SECONDS >= deadline:
                    raise type(error)(f"Not ready within {timeout:g} s. {error}") from error
            time.sleep(_POLL_SECONDS)

    def _describe(self, version: int | None, limit: TimeLimit) -> tuple[int, dict]:
        """Returns the version and its metadata."""
        version = self._endpoint.target.version if version is None else version
        version = self._endpoint.resolve(limit) if version is None else version
        if version not in self._metadata:
            outputs, _ = self._endpoint.predict(Batch("describe", {"request": [b""]}), version, limit)
            try:
                ((text,),) = outputs.values()
                self._metadata[version] = dict(json.loads(text))
            except (TypeError, ValueError) as error:
                where = self._endpoint.target.describe(version, "describe")
                raise errors.UnexpectedAnswer(
                    f"{where}: expected metadata as JSON. Received: {str(outputs)[:200]}"
                ) from error
        return version, self._metadata[version]
