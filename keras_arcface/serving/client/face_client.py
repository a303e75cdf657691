"""A client for what `export_saved_model` writes, wherever TensorFlow Serving serves it."""

import json
import math
import time

import numpy as np

from keras_arcface.serving.client import errors
from keras_arcface.serving.client.connection import connect
from keras_arcface.serving.client.diagnosis import Target
from keras_arcface.serving.client.diagnosis import diagnose
from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.images import Embeddings
from keras_arcface.serving.client.images import check_images
from keras_arcface.serving.client.images import join
from keras_arcface.serving.client.images import make_batches
from keras_arcface.serving.client.images import read_answer
from keras_arcface.serving.client.retry import retry
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES

_POLL = 0.2  # seconds between two looks at a server that is not ready
# What a server says that is starting.
_NOT_YET = (
    errors.ServerUnavailable,
    errors.RequestTimeout,
    errors.ModelNotFound,
    errors.VersionNotAvailable,
    errors.LabelNotFound,
)


class FaceClient:
    """Embeds faces on a server, by gRPC or REST with the same results.

    A request that failed is sent again where that is safe and may help: see `retrying.retry`. Where no `version` is
    given, the server may go on to another one at any time; the images of one call are answered by one version all the
    same.

    Args:
        address: `grpc://host:8500`, `grpcs://host:8500` (TLS), `http://host:8501` or `https://host:8501`; the last two
            may go on with a path, if a proxy wants one.
        model: the name under which the server has the model.
        version: of the model; by default the latest.
        label: instead of a version, such as "stable".
        timeout: seconds that a request may take with all its tries.
        retries: how many tries may follow the first.
        batch_size: most images in a request; a server that gathers requests refuses larger ones than its largest batch.
        certificates: for TLS, a PEM file with the roots to trust; None for those that grpcio and requests bring.
        client_certificate, client_key: PEM files, for a server that wants to know its clients.
        max_message_bytes: longest message by gRPC, either way. gRPC's own limit is 4 MiB.

    Raises:
        FileNotFoundError: if a certificate or key is absent.
        ModuleNotFoundError: saying what to install.
        ValueError: if the address or another argument cannot be.

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
        certificates=None,
        client_certificate=None,
        client_key=None,
        max_message_bytes: int = 64 * 2**20,
    ):
        if version is not None and label is not None:
            raise ValueError(f"Expected: a version or a label. Received: version={version!r} and label={label!r}")
        if version is not None and not (isinstance(version, int) and version >= 0):
            raise ValueError(f"Expected: version as an integer, 0 or above. Received: version={version!r}")
        if not timeout > 0 or retries < 0 or batch_size < 1:
            raise ValueError(
                "Expected: timeout above 0, retries 0 or above, batch_size 1 or above. "
                f"Received: timeout={timeout}, retries={retries}, batch_size={batch_size}"
            )
        self._target = Target(address, model, version, label)
        self._timeout = timeout
        self._retries = retries
        self._batch_size = batch_size
        self._metadata = {}
        self._transport = connect(
            address, model, label, certificates, client_certificate, client_key, max_message_bytes
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the connection."""
        self._transport.close()

    def embed(self, images) -> Embeddings:
        """Embeds any number of faces, `batch_size` in a request, and keeps their order.

        Args:
            images: an array `(n, height, width, 3)`, uint8 RGB, of the model's own size; or a sequence of `bytes`, each
                an encoded image of any size: JPEG or PNG, or a GIF or BMP that the server shows as `cv2.imread` does
                (docs/serving.md, "Image formats"). Either way aligned as in the training.

        Returns:
            `n` rows. An image that the server cannot decode costs its own row only, and is not `valid`.

        Raises:
            ServingError: of one of its subclasses, if there is no good answer.
            ValueError: if the images are something else, or none.
        """
        return self._answers(make_batches([check_images(images, "images")], self._batch_size))

    def compare(self, first, second) -> np.ndarray:
        """The cosines between the faces of `first` and those of `second`, row by row.

        Args:
            first, second: images as for `embed`, equally many; one may be an array and the other bytes.

        Returns:
            `(n,)` float32. NaN, which no threshold accepts, where one of the two images cannot be decoded.

        Raises:
            ServingError: of one of its subclasses, if there is no good answer.
            ValueError: if the images are something else, or not equally many.
        """
        first, second = check_images(first, "first"), check_images(second, "second")
        if len(first) != len(second):
            raise ValueError(f"Expected: equally many images. Received: {len(first)} first, {len(second)} second")
        faces = self._answers(make_batches(join(first, second), self._batch_size))
        (a, b), (a_valid, b_valid) = np.split(faces.embedding, 2), np.split(faces.valid, 2)
        return np.where(a_valid & b_valid, np.sum(a * b, axis=1), np.float32(np.nan))

    def metadata(self, version: int | None = None) -> dict:
        """What the exporter wrote down of the model: alignment, image size, thresholds and so on.

        `["alignment"]["method"]` says how the faces of the training were aligned, and so those sent must be:
        "five_points", with the `"template"` beside it, "none", or "not stated".

        It is asked for once for each version. Which version is meant by a label, or is the latest, is asked every time.

        Args:
            version: of which; by default the one that would answer now.

        Raises:
            ServingError: of one of its subclasses; `SignatureNotFound` if this package has not exported the model.
        """
        return self._describe(version)[1]

    def threshold(self, far: float, version: int | None = None) -> float:
        """The cosine from which on two faces are taken for one person's.

        Args:
            far: the false accept rate, one of those for which the exported model was calibrated.
            version: of the model, such as `Embeddings.version`; by default the one that would answer now.

        Raises:
            ThresholdNotFound: if there is none for this FAR, naming those for which there is.
            ServingError: of another of its subclasses, if there is no good answer.
        """
        return float(self.operating_point(far, version)["threshold"])

    def operating_point(self, far: float, version: int | None = None) -> dict:
        """The threshold for a FAR, with its confidence interval and the number of impostor pairs.

        Args:
            far, version: as for `threshold`.

        Returns:
            What the export has: "threshold"; "far" and "tar", the shares of impostor and genuine pairs that it
            accepted; "impostors_accepted" of "impostors"; and "far_interval", the 95% confidence interval of its FAR.

        Raises:
            ServingError: as `threshold` does.
        """
        version, metadata = self._describe(version)
        calibrated = metadata.get("thresholds") or {}
        for known, point in calibrated.items():
            if math.isclose(float(known), far, rel_tol=1e-6):
                return point
        raise errors.ThresholdNotFound(
            f"{self._target.where(version)}: no threshold for a FAR of {far:g}. "
            f"Calibrated: {', '.join(calibrated) or 'none, the model was exported without an evaluation'}"
        )

    def status(self) -> dict[int, str]:
        """`{version: state}` of the versions of which the server knows: "AVAILABLE", "LOADING", "END" and so on.

        Raises:
            ModelNotFound: if it knows of none.
            ServingError: of another of its subclasses, if there is no good answer.
        """
        return self._ask(self._transport.states)

    def wait_until_ready(self, timeout: float = 60.0) -> int:
        """Waits until the model, in the version or with the label asked for, would answer.

        Args:
            timeout: seconds.

        Returns:
            The version that would answer.

        Raises:
            ServingError: after that time, of the subclass that says what is missing still.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._resolve(retries=0, timeout=max(min(self._timeout, deadline - time.monotonic()), _POLL))
            except _NOT_YET as error:
                if time.monotonic() + _POLL >= deadline:
                    raise type(error)(f"Not ready within {timeout:g} s. {error}") from error
            time.sleep(_POLL)

    def _describe(self, version):
        """`(version, its metadata)`."""
        version = self._target.version if version is None else version
        version = self._resolve() if version is None else version
        if version not in self._metadata:
            outputs, _ = self._predict("describe", {"request": [b""]}, version)
            try:
                ((text,),) = outputs.values()
                self._metadata[version] = dict(json.loads(text))
            except (TypeError, ValueError) as error:
                where = self._target.where(version, "describe")
                raise errors.UnexpectedAnswer(
                    f"{where}: expected metadata as JSON. Received: {str(outputs)[:200]}"
                ) from error
        return version, self._metadata[version]

    def _answers(self, batches) -> Embeddings:
        """The answers to all batches, in order and all of one version."""
        restarts = self._retries
        while True:
            version, answers = self._target.version, []
            try:
                if version is None and not self._transport.names_version:
                    version = self._resolve()
                for signature, inputs in batches:
                    outputs, version = self._predict(signature, inputs, version)
                    answers.append(self._read(outputs, version, signature, inputs))
                return Embeddings(*map(np.concatenate, zip(*answers, strict=True)), version)
            except errors.VersionNotAvailable:
                # The version that gave the first answers is gone: another one has to give them all.
                if version is None or version == self._target.version or restarts == 0:
                    raise
                restarts -= 1

    def _read(self, outputs, version, signature, inputs):
        try:
            return read_answer(outputs, signature, inputs)
        except ValueError as error:
            raise errors.UnexpectedAnswer(f"{self._target.where(version, signature)}: {error}") from error

    def _predict(self, signature, inputs, version):
        predict = self._transport.predict
        return self._ask(lambda left: predict(signature, inputs, version, left), version, signature, inputs)

    def _resolve(self, retries=None, timeout=None):
        version = self._target.version
        call = self._transport.resolve
        return self._ask(lambda left: call(version, left)[0], version, retries=retries, timeout=timeout)

    def _ask(self, call, version=None, signature=None, inputs=None, retries=None, timeout=None):
        try:
            return retry(call, timeout or self._timeout, self._retries if retries is None else retries)
        except Failure as failure:
            raise diagnose(failure, self._transport, self._target, version, signature, inputs) from failure
