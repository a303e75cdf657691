"""Selection of the transport by the scheme of an address."""

import dataclasses
import os
import urllib.parse
from pathlib import Path
from typing import Any

from keras_arcface._optional import optional_import
from keras_arcface.serving.client.transport import Transport

_FORMS = "grpc://host:8500, grpcs://host:8500, http://host:8501 or https://host:8501"
_SCHEMES = {"grpc": False, "grpcs": True, "http": False, "https": True}  # whether the connection is encrypted


@dataclasses.dataclass(frozen=True)
class PemFiles:
    """PEM files of a connection with TLS.

    Attributes:
        certificates: path of the root certificates. None: the default root certificates of the library.
        client_certificate: path of the client certificate. None: no client certificate.
        client_key: path of the private key of the client certificate.
    """

    certificates: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None

    def paths(self) -> list[str | os.PathLike]:
        """Returns the paths that are not None."""
        paths = (self.certificates, self.client_certificate, self.client_key)
        return [path for path in paths if path is not None]


def connect(address: str, model: str, label: str | None, files: PemFiles, max_message_bytes: int) -> Transport:
    """Returns the transport for a model. It does not send a request.

    Args:
        address, model, label, max_message_bytes: arguments of `FaceClient`.
        files: certificates and key for TLS.

    Raises:
        FileNotFoundError: if a PEM file does not exist.
        ModuleNotFoundError: if the module for the protocol is not installed.
        ValueError: if the address is not valid, or certificates are given for an address without TLS.
    """
    scheme, server = _split_address(address)
    if (files.client_certificate is None) != (files.client_key is None):
        raise ValueError(
            "client_certificate and client_key must be given together. "
            f"Received: client_certificate={files.client_certificate!r}, client_key={files.client_key!r}"
        )
    if files.paths() and not _SCHEMES[scheme]:
        raise ValueError(
            f"address must start with grpcs:// or https:// to use certificates. Received: address={address!r}"
        )
    for path in files.paths():
        if not Path(path).is_file():
            raise FileNotFoundError(f"A PEM file must exist. Received: {path}")
    with optional_import("serving", f"FaceClient with {scheme}://"):
        if scheme in ("http", "https"):
            from keras_arcface.serving.client.rest_transport import RestTransport

            return RestTransport(address, model, label, files)
        from keras_arcface.serving.client.grpc_transport import GrpcTransport

        return GrpcTransport(server, model, label, files if _SCHEMES[scheme] else None, max_message_bytes)


def _split_address(address: Any) -> tuple[str, str]:
    """Returns the scheme of an address, and the part between the scheme and the path."""
    error = ValueError(f"address must have one of the forms {_FORMS}. Received: address={address!r}")
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError) as cause:
        raise error from cause
    if not host or parts.scheme not in _SCHEMES or parts.query or parts.fragment:
        raise error
    if parts.scheme in ("grpc", "grpcs") and (port is None or parts.path.strip("/")):
        raise ValueError(
            f"address must have a host, a port and no path for gRPC, such as grpc://host:8500. "
            f"Received: address={address!r}"
        )
    return parts.scheme, parts.netloc
