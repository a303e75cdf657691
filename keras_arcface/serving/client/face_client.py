"""Client of an embedder that was exported with `export_saved_model` and is served by TensorFlow Serving."""

import math
import os
import time

import numpy as np

from keras_arcface._arguments import check_integer
from keras_arcface._choices import BATCH_SIZES
from keras_arcface.serving.client import errors
from keras_arcface.serving.client.answer_checks import read_metadata
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.connection import connect
from keras_arcface.serving.client.connection import without_credentials
from keras_arcface.serving.client.diagnosis import Target
from keras_arcface.serving.client.embeddings import Embeddings
from keras_arcface.serving.client.endpoint import Endpoint
from keras_arcface.serving.client.endpoint import TimeLimit
from keras_arcface.serving.client.endpoint import check_timeout
from keras_arcface.serving.client.images import Batch
from keras_arcface.serving.client.images import check_images
from keras_arcface.serving.client.images import merge
from keras_arcface.serving.client.images import split_into_batches

_POLL_SECONDS = 0.2  # pause between two requests to a server that is not ready
# Errors that may end when a server has started.
_NOT_READY = (
    errors.ServerUnavailable,
    errors.RequestTimeout,
    errors.ModelNotFound,
    errors.VersionNotAvailable,
    errors.LabelNotFound,
)


class FaceClient:
    """Client of an exported embedder on TensorFlow Serving, with the same results over gRPC and REST.

    The server must serve an embedder that `export_saved_model` wrote. One version of the model embeds all images of a
    call, even if the server changes versions during the call.

    Failures that may be temporary are retried after pauses of 0.1 s to 5 s: an unreachable server, a server that starts
    or stops, and a full batching queue.

    The methods that send requests have an argument `timeout`, the time limit of the whole call in seconds, including
    all its requests and retries. After the time limit they raise `RequestTimeout`, or `ServerUnavailable` during a
    retry. If it is None, each request of the call has the time limit of the client. Both limits include the lookup of
    the server's name, the connection, and additional requests that determine the cause of an error.

    A client is not thread-safe. Create one client per thread and per process, and close it with `close` or by a `with`
    statement.

    Args:
        address: `grpc://host:8500`, `grpcs://host:8500` (TLS), `http://host:8501` or `https://host:8501`. HTTP
            addresses may contain the path of a proxy, and a user with a password (`https://user:password@host`).
        model: name of the model on the server.
        version: version of the model. None: the latest version.
        label: label of a version, such as "stable". It cannot be combined with `version`.
        timeout: time limit of one request with its retries, in seconds.
        retries: maximum number of retries of a request.
        batch_size: maximum number of images in a request, at least 1. A server with batching refuses requests that are
            larger than its largest batch.
        certificates: path of the PEM file with root certificates for TLS. None: the defaults of grpcio for gRPC, and
            those of the operating system for HTTP.
        client_certificate: path of the PEM file with the client's certificate, for servers that require one.
        client_key: path of the PEM file with the private key of `client_certificate`.
        max_message_bytes: size limit of gRPC messages in both directions. The default of gRPC itself is 4 MiB. Answers
            are limited further, over both protocols, by the number of images in the request.

    Raises:
        FileNotFoundError: if a PEM file does not exist.
        ModuleNotFoundError: if the module for gRPC is not installed. The message says what to install.
        ValueError: if the address or another argument is not valid, `version` and `label` are combined, or certificates
            are given for an address without TLS.

    Examples:
        Two photos of aligned faces (the constructor sends no request):

        >>> from pathlib import Path
        >>> client = FaceClient("grpc://localhost:8500", label="stable")
        >>> first, second = Path("photos/ann/0.jpg").read_bytes(), Path("photos/ann/1.jpg").read_bytes()
        >>> cosines = client.compare([first], [second])  # doctest: +SKIP
        >>> cosines.shape, cosines.dtype  # doctest: +SKIP
        ((1,), dtype('float32'))
        >>> same = cosines >= client.threshold(far=1e-3)  # doctest: +SKIP

        Embeddings, for a gallery. The second image is damaged:

        >>> faces = client.embed([first, second[:40]])  # doctest: +SKIP
        >>> faces  # doctest: +SKIP
        Embeddings(images=2, dim=512, valid=1, version=1)
        >>> faces.valid  # doctest: +SKIP
        array([ True, False])

        The state of the server:

        >>> client.wait_until_ready(timeout=60)  # doctest: +SKIP
        1
        >>> client.status()  # doctest: +SKIP
        {2: 'AVAILABLE', 1: 'AVAILABLE'}
        >>> client.close()
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
            raise ValueError(f"version and label cannot be combined. Received: {version=}, {label=}")
        if version is not None:
            check_integer("version", version, 0)
        check_timeout(timeout)
        check_integer("retries", retries, 0)
        check_integer("batch_size", batch_size, 1)
        files = PemFiles(certificates, client_certificate, client_key)
        transport = connect(address, model, label, files, max_message_bytes, batch_size)
        target = Target(without_credentials(address), model, version, label)
        self._endpoint = Endpoint(transport, target, timeout, retries)
        self._timeout = timeout
        self._batch_size = batch_size
        self._metadata: dict[int, dict] = {}

    def __enter__(self) -> "FaceClient":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. The client cannot be used afterwards."""
        self._endpoint.close()

    def embed(self, images, timeout: float | None = None) -> Embeddings:
        """Embeds any number of faces, in requests of at most `batch_size` images.

        Args:
            images: uint8 RGB array `(n, height, width, 3)` with the model's image size, or sequence of encoded images
                of any size as `bytes`: JPEG or PNG files, or the BMP files that docs/serving.md lists under "Image
                formats". Faces must be aligned as in training.
            timeout: time limit of the call in seconds. None: the time limit of the client for each request.

        Returns:
            Embeddings with `n` rows in the order of the images. For an image that the server cannot decode, `valid` is
            false. It does not affect other rows.

        Raises:
            ServingError: if the server does not return embeddings. The subclass describes the cause.
            ValueError: if `images` has a different type or shape, or is empty.
        """
        batches = split_into_batches([check_images(images, "images")], self._batch_size)
        return self._endpoint.embed(batches, self._endpoint.time_limit(timeout))

    def compare(self, first, second, timeout: float | None = None) -> np.ndarray:
        """Returns the cosine similarity of each face in `first` to the face in the same row of `second`.

        Args:
            first: n images in a format of `embed`.
            second: n images in a format of `embed`, which may differ from that of `first`.
            timeout: time limit of the call in seconds. None: the time limit of the client for each request.

        Returns:
            Float32 cosines `(n,)`. If one of the two images cannot be decoded, the cosine is NaN, which no threshold
            accepts.

        Raises:
            ServingError: if the server does not return embeddings. The subclass describes the cause.
            ValueError: if the images have a different type or shape, or the numbers of images differ.
        """
        first, second = check_images(first, "first"), check_images(second, "second")
        if len(first) != len(second):
            raise ValueError(
                f"first and second must have the same number of images. Received: len(first)={len(first)}, "
                f"len(second)={len(second)}"
            )
        faces = self._endpoint.embed(
            split_into_batches(merge(first, second), self._batch_size), self._endpoint.time_limit(timeout)
        )
        (a, b), (a_valid, b_valid) = np.split(faces.embedding, 2), np.split(faces.valid, 2)
        return np.where(a_valid & b_valid, np.sum(a * b, axis=1), np.float32(np.nan))

    def metadata(self, version: int | None = None, timeout: float | None = None) -> dict:
        """Returns the metadata of the export, such as the alignment, the image size and the thresholds.

        `metadata["alignment"]["method"]` is the alignment of the training faces: "five_points", "none" or "not stated".
        For "five_points", `metadata["alignment"]["template"]` contains the five points. Align faces in requests in the
        same way.

        The client caches the metadata of each version. If `version` is None, each call requests the number of the
        current version.

        Args:
            version: version of the model. None: the version that currently handles requests of this client.
            timeout: time limit of the call in seconds. None: the time limit of the client for each request.

        Returns:
            Dictionary of the JSON that `export_saved_model` wrote.

        Raises:
            SignatureNotFound: if the model was not exported by this package.
            ServingError: if the server does not return the metadata. The subclass describes the cause.
        """
        return self._version_and_metadata(version, self._endpoint.time_limit(timeout))[1]

    def threshold(self, far: float, version: int | None = None, timeout: float | None = None) -> float:
        """Returns the minimum cosine similarity of two faces of the same person at a false accept rate.

        Args:
            far: false accept rate. The export must have a threshold for it.
            version: version of the model, such as `Embeddings.version`. None: the version that currently handles
                requests of this client.
            timeout: time limit of the call in seconds. None: the time limit of the client for each request.

        Returns:
            The cosine, in [-1, 1]. Two faces match if their cosine is at or above it.

        Raises:
            ThresholdNotFound: if the export has no threshold for this rate. The message lists the available rates.
            ServingError: if the server does not return the metadata. The subclass describes the cause.
        """
        return float(self.operating_point(far, version, timeout)["threshold"])

    def operating_point(self, far: float, version: int | None = None, timeout: float | None = None) -> dict:
        """Returns the threshold for a false accept rate, with its confidence interval and the number of pairs.

        Args:
            far: false accept rate. The export must have a threshold for it.
            version: version of the model, such as `Embeddings.version`. None: the version that currently handles
                requests of this client.
            timeout: time limit of the call in seconds. None: the time limit of the client for each request.

        Returns:
            Dictionary with "threshold"; "far" and "tar", the accept rates of impostor and genuine pairs;
            "impostors_accepted" and "impostors", the numbers of accepted impostor pairs and of all impostor pairs; and
            "far_interval", the 95% confidence interval of the false accept rate.

        Raises:
            ThresholdNotFound: if the export has no threshold for this rate. The message lists the available rates.
            ServingError: if the server does not return the metadata. The subclass describes the cause.
        """
        version, metadata = self._version_and_metadata(version, self._endpoint.time_limit(timeout))
        calibrated = metadata.get("thresholds", {})
        for known, point in calibrated.items():
            if math.isclose(float(known), far, rel_tol=1e-6):
                return point
        available = ", ".join(calibrated) or "none, because the model was exported without an evaluation"
        raise errors.ThresholdNotFound(
            f"{self._endpoint.target.describe(version)}: far must be a rate with a threshold. "
            f"Available: {available}. Received: far={far:g}"
        )

    def status(self, timeout: float | None = None) -> dict[int, str]:
        """Returns `{version: state}` for the versions that the server knows: "AVAILABLE", "LOADING", "END" and others.

        Args:
            timeout: time limit of the call in seconds. None: the time limit of the client.

        Returns:
            The state of each version.

        Raises:
            ModelNotFound: if the server does not know the model.
            ServingError: if the server does not return the states. The subclass describes the cause.
        """
        return self._endpoint.version_states(self._endpoint.time_limit(timeout))

    def wait_until_ready(self, timeout: float = 60.0) -> int:
        """Waits until the server can handle requests of this client.

        Args:
            timeout: time limit in seconds.

        Returns:
            The version that currently handles requests of this client.

        Raises:
            ServingError: if the server is not ready within the time limit. The subclass describes the cause.
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

    def _version_and_metadata(self, version: int | None, limit: TimeLimit) -> tuple[int, dict]:
        """Returns the version that handles requests of this client, or the given version, and its metadata."""
        version = self._endpoint.target.version if version is None else version
        version = self._endpoint.resolve(limit) if version is None else version
        if version not in self._metadata:
            outputs, _ = self._endpoint.predict(Batch("describe", {"request": [b""]}), version, limit)
            with self._endpoint.checking(version, "describe"):
                self._metadata[version] = read_metadata(outputs["metadata"][0])
        return version, self._metadata[version]
