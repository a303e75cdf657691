"""Selection of the transport by the scheme of an address."""

import dataclasses
import os
import re
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


def without_credentials(address: Any) -> str:
    """Returns an address for errors, without user, password, query and fragment, which may contain secrets."""
    if not isinstance(address, str):
        return f"an address of type {type(address).__name__}"
    shown = re.sub(r"^([A-Za-z]*://)?.*@", r"\1***@", address, flags=re.DOTALL)
    return re.sub(r"([?#]).*", r"\1***", shown, flags=re.DOTALL)


def connect(
    address: str, model: str, label: str | None, files: PemFiles, max_message_bytes: int, batch_size: int
) -> Transport:
    """Returns the transport for a model. It does not send a request.

    Args:
        address, model, label, max_message_bytes, batch_size: arguments of `FaceClient`.
        files: certificates and key for TLS.

    Raises:
        FileNotFoundError: if a PEM file does not exist.
        ModuleNotFoundError: if the module for gRPC is not installed.
        ValueError: if the address or a PEM file is not valid, or certificates are given for an address without TLS.
    """
    parts = _split_address(address)
    scheme = parts.scheme
    if (files.client_certificate is None) != (files.client_key is None):
        raise ValueError(
            "client_certificate and client_key must be given together. "
            f"Received: client_certificate={files.client_certificate!r}, client_key={files.client_key!r}"
        )
    if files.paths() and not _SCHEMES[scheme]:
        raise ValueError(
            "address must start with grpcs:// or https:// to use certificates. "
            f"Received: address={without_credentials(address)!r}"
        )
    for path in files.paths():
        if not Path(path).is_file():
            raise FileNotFoundError(f"A PEM file must exist. Received: {path}")
    tls = files if _SCHEMES[scheme] else None
    if scheme in ("http", "https"):
        from keras_arcface.serving.client.rest_transport import RestTransport

        return RestTransport(parts, model, label, tls)
    with optional_import("serving", f"FaceClient with {scheme}://"):
        from keras_arcface.serving.client.grpc_transport import GrpcTransport

        return GrpcTransport(parts.netloc, model, label, tls, max_message_bytes, batch_size)


def _split_address(address: Any) -> urllib.parse.SplitResult:
    """Returns the parts of an address."""
    received = f"Received: address={without_credentials(address)!r}"
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        # The cause is left out, since its message may contain a part of a password.
        raise ValueError(f"address must have one of the forms {_FORMS}. {received}") from None
    if not host or parts.scheme not in _SCHEMES or parts.query or parts.fragment:
        raise ValueError(f"address must have one of the forms {_FORMS}. {received}")
    if parts.scheme in ("grpc", "grpcs") and (port is None or parts.path.strip("/") or "@" in parts.netloc):
        raise ValueError(
            "address must have a host, a port, no path and no user for gRPC, such as grpc://host:8500. " + received
        )
    return parts
