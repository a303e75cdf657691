"""From an address to the transport that reaches it."""

import urllib.parse
from pathlib import Path

_FORMS = "grpc://host:8500, grpcs://host:8500, http://host:8501 or https://host:8501"


def connect(address, model, label, certificates, client_certificate, client_key, max_message_bytes):
    """A transport for one model; nothing is sent yet. See `FaceClient` for the arguments.

    Raises:
        FileNotFoundError: if a certificate or key is absent.
        ModuleNotFoundError: saying what to install.
        ValueError: if the address is none, or TLS is configured for an address that has none.
    """
    scheme, server = _split(address)
    files = (certificates, client_certificate, client_key)
    if (client_certificate is None) != (client_key is None):
        raise ValueError(
            "Expected: client_certificate and client_key, or neither. "
            f"Received: client_certificate={client_certificate!r}, client_key={client_key!r}"
        )
    if scheme in ("grpc", "http") and any(file is not None for file in files):
        raise ValueError(f"Certificates are for grpcs:// and https://: {address} is not encrypted")
    for file in files:
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"There is no PEM file at {file}")
    try:
        if scheme in ("http", "https"):
            from keras_arcface.serving.client.rest_transport import RestTransport

            return RestTransport(address, model, label, *files)
        from keras_arcface.serving.client.grpc_transport import GrpcTransport

        return GrpcTransport(server, model, label, scheme == "grpcs", *files, max_message_bytes)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{scheme}:// needs the module {error.name}: pip install 'keras-arcface[serving]'"
        ) from error


def _split(address):
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"Expected: an address as {_FORMS}. Received: {address!r}") from error
    by_grpc = parts.scheme in ("grpc", "grpcs")
    if not host or not (by_grpc or parts.scheme in ("http", "https")) or parts.query or parts.fragment:
        raise ValueError(f"Expected: an address as {_FORMS}. Received: {address!r}")
    if by_grpc and (port is None or parts.path.strip("/")):
        raise ValueError(f"Expected: host and port, and no path, as in grpc://host:8500. Received: {address!r}")
    return parts.scheme, parts.netloc
