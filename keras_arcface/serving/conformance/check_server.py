"""Runs all conformance checks of a server."""

import contextlib
import os
from collections.abc import Sequence

from tqdm import tqdm

from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.endpoint import check_timeout
from keras_arcface.serving.client.errors import ServingError
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.check import skipped
from keras_arcface.serving.conformance.checks import CHECKS
from keras_arcface.serving.conformance.checks import PROTOCOL_CHECKS
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.conformance.error_causes import explain_error
from keras_arcface.serving.conformance.export_reference import ExportReference
from keras_arcface.serving.conformance.remote_model import RemoteModel
from keras_arcface.serving.conformance.report import CheckResult
from keras_arcface.serving.conformance.report import ConformanceReport
from keras_arcface.serving.saved_model.export_check import default_tolerance

_TOLERANCE = 1e-4


def check_server(
    addresses: str | Sequence[str],
    model: str = "faces",
    version: int | None = None,
    label: str | None = None,
    export: str | os.PathLike | None = None,
    tolerance: float | None = None,
    timeout: float = 10.0,
    retries: int = 3,
    certificates: str | os.PathLike | None = None,
    client_certificate: str | os.PathLike | None = None,
    client_key: str | os.PathLike | None = None,
    progress: bool = False,
) -> ConformanceReport:
    """Checks whether a running server serves an exported embedder correctly.

    Use it after a new server, a new configuration or a new version. Without `export`, it checks what needs no
    reference: signatures, versions and errors, lengths of embeddings, image formats, damaged images, batch sizes,
    concurrent requests. With `export`, the answers, signatures and metadata must also be those of the SavedModel, and
    a difference is explained, if possible, for example by swapped colors. With an address of each protocol, both are
    checked, and their answers must be equal bit for bit.

    The requests use one version, the one that answers first, and do not disturb other clients, except by about a
    hundred requests of up to 33 images.

    Args:
        addresses: address of the server as for `FaceClient`, or a sequence of a gRPC and an HTTP address.
        model: name of the model on the server.
        version: version of the model. None: the newest available version.
        label: label of a version, such as "stable". It cannot be combined with `version`.
        export: directory of the SavedModel that the server should serve, or a base path with numbered versions, of
            which the newest is used. None: the answers are not compared with an export.
        tolerance: allowed absolute difference of embeddings and cosines, and allowed relative difference of norms.
            None: 1e-4, or 3e-2 if the metadata say that the model computes in 16 bits. On the CPU, and with the
            TensorFlow version of the server, the answers are usually equal bit for bit, otherwise within about 1e-6.
        timeout: time limit of each request with its retries, in seconds.
        retries: maximum number of retries of a request.
        certificates: path of the PEM file with root certificates for TLS, as for `FaceClient`.
        client_certificate: path of the PEM file with the client certificate.
        client_key: path of the PEM file with the private key of the client certificate.
        progress: if true, shows a progress bar.

    Returns:
        The results of all checks, including failed connections.

    Raises:
        FileNotFoundError: if `export` contains no SavedModel, or a PEM file does not exist.
        ModuleNotFoundError: if the modules for gRPC or for warm-up requests are not installed.
        ValueError: if an address or another argument is not valid, there are two addresses of the same protocol, or
            the SavedModel cannot be loaded.

    Examples:
        >>> addresses = ["grpc://localhost:8500", "http://localhost:8501"]
        >>> report = serving.check_server(addresses, export="models/faces")  # doctest: +SKIP
        >>> assert report.passed, report.causes  # doctest: +SKIP

        Nothing listens at this port:

        >>> report = serving.check_server("http://localhost:1", retries=0)
        >>> report.passed, report.causes
        (False, ('nothing listens at this port: ...',))
    """
    remotes = _make_remotes(
        addresses, model, version, label, timeout, retries, PemFiles(certificates, client_certificate, client_key)
    )
    if tolerance is not None:
        check_number("tolerance", tolerance, lambda value: 0 <= value <= 1, "in [0, 1]")
    with contextlib.ExitStack() as stack:
        for remote in remotes:
            stack.callback(remote.close)
        reference = None if export is None else ExportReference(export)
        total = (1 + len(CHECKS)) * len(remotes) + (len(PROTOCOL_CHECKS) if len(remotes) == 2 else 0)
        bar = stack.enter_context(
            tqdm(total=total, desc="checking", unit=" checks", disable=not progress, leave=False, dynamic_ncols=True)
        )
        return _Run(remotes, reference, tolerance, bar).report(label)


class _Run:
    """One run of all checks.

    Args:
        remotes: models on the server, one per protocol.
        export: the SavedModel, or None.
        tolerance: argument of `check_server`.
        bar: progress bar, which is updated after each check.
    """

    def __init__(
        self, remotes: Sequence[RemoteModel], export: ExportReference | None, tolerance: float | None, bar: tqdm
    ):
        self._remotes = remotes
        self._export = export
        self._tolerance = tolerance
        self._bar = bar
        self._results: list[CheckResult] = []

    def report(self, label: str | None) -> ConformanceReport:
        """Runs the checks and returns their results."""
        contexts = [context for remote in self._remotes if (context := self._connect(remote)) is not None]
        if self._tolerance is None:
            self._tolerance = _tolerance_of(self._export, contexts)
        for context in contexts:
            context.tolerance = self._tolerance
        for check in CHECKS:
            for context in contexts:
                self._run(check, context.remote.protocol, context)
        if len(contexts) == 2:
            for check in PROTOCOL_CHECKS:
                self._run(check, "both", *contexts)
        return ConformanceReport(
            addresses=tuple(remote.address for remote in self._remotes),
            model=self._remotes[0].model,
            version=next((context.remote.current for context in contexts), None),
            label=label,
            export=None if self._export is None else str(self._export.directory),
            tolerance=self._tolerance,
            results=tuple(self._results),
        )

    def _connect(self, remote: RemoteModel) -> Context | None:
        self._bar.set_postfix_str(f"connection, {remote.protocol}")
        expected = f"an answer of model {remote.model!r}"
        try:
            remote.connect()
        except ServingError as error:
            finding = failed(remote.shorten(error), explain_error(error), expected)
            self._add("connection", remote.protocol, finding)
            self._add("all other checks", remote.protocol, skipped("no connection"))
            self._bar.update(len(CHECKS) - 1)
            return None
        self._add("connection", remote.protocol, passed(f"version {remote.current}", expected))
        return Context(remote, self._export, self._tolerance or _TOLERANCE)

    def _run(self, check: Check, protocol: str, *contexts: Context) -> None:
        self._bar.set_postfix_str(f"{check.name}, {protocol}")
        obstacle = check.obstacle(*contexts)
        try:
            finding = skipped(obstacle) if obstacle else check.run(*contexts)
        except ServingError as error:
            finding = failed(contexts[0].remote.shorten(error), explain_error(error))
        self._add(check.name, protocol, finding, check.expected)

    def _add(self, name: str, protocol: str, finding: Finding, expected: str = "") -> None:
        self._results.append(
            CheckResult(name, protocol, finding.result, finding.expected or expected, finding.received, finding.cause)
        )
        self._bar.update()


def _make_remotes(addresses, model, version, label, timeout, retries, files) -> list[RemoteModel]:
    addresses = [addresses] if isinstance(addresses, str) else list(addresses)
    if not 1 <= len(addresses) <= 2:
        raise ValueError(f"addresses must be one or two addresses. Received: {len(addresses)} addresses")
    if version is not None and label is not None:
        raise ValueError(f"version and label cannot be combined. Received: {version=}, {label=}")
    if version is not None:
        check_integer("version", version, 0)
    check_timeout(timeout)
    check_integer("retries", retries, 0)
    remotes = []
    try:
        for address in addresses:
            remotes.append(RemoteModel(address, model, version, label, timeout, retries, files))
        protocols = [remote.protocol for remote in remotes]
        if len(set(protocols)) != len(protocols):
            shown = ", ".join(remote.address for remote in remotes)
            raise ValueError(f"addresses must be one of gRPC and one of HTTP. Received: {shown}")
    except BaseException:
        for remote in remotes:
            remote.close()
        raise
    return remotes


def _tolerance_of(export: ExportReference | None, contexts: Sequence[Context]) -> float:
    """Returns the default tolerance for the export, otherwise for the metadata of the served model."""
    metadata = export.metadata if export is not None else next((c.metadata for c in contexts if c.metadata), None)
    return default_tolerance(metadata or {})
