"""Addresses, arguments and TLS."""

import subprocess
import sys

import numpy as np
import pytest
import small_models
from conftest import make_face
from server_double import ServerDouble

from keras_arcface.serving import FaceClient
from keras_arcface.serving import ServingError
from keras_arcface.serving.client import errors

FACES = np.stack([make_face(person, 0, small_models.SIZE) for person in range(3)])
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Returns a self-signed certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    paths = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", folder / "cert.pem", "-keyout", folder / "key.pem"]
    try:
        subprocess.run([*command, *paths], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is absent")
    return folder / "cert.pem", folder / "key.pem"


@PROTOCOLS
def test_tls(protocol, certificate, models, projections):
    with ServerDouble(models, certificate=certificate[0], key=certificate[1]) as double:
        address = getattr(double, protocol)
        assert address.startswith({"grpc": "grpcs://", "rest": "https://"}[protocol])
        with FaceClient(address, certificates=certificate[0]) as client:
            found = client.embed(FACES)
        np.testing.assert_allclose(found.embedding, projections[2].reference(FACES)[0], atol=1e-6)
        # Without the certificate as a root, the connection fails.
        with FaceClient(address, retries=0) as client, pytest.raises(errors.ServerUnavailable) as caught:
            client.embed(FACES)
        print(caught.value)
        with FaceClient(address.replace("s://", "://"), retries=0) as client, pytest.raises(ServingError):
            client.embed(FACES)


@PROTOCOLS
def test_client_certificates(protocol, certificate, models):
    cert, key = certificate
    with ServerDouble(models, certificate=cert, key=key, client_roots=cert) as double:
        address = getattr(double, protocol)
        with FaceClient(address, certificates=cert, client_certificate=cert, client_key=key) as client:
            assert client.embed(FACES).valid.all()
        with FaceClient(address, certificates=cert, retries=0) as client, pytest.raises(errors.ServerUnavailable):
            client.embed(FACES)


@pytest.mark.parametrize(
    "address",
    ["localhost:8500", "ftp://host", "grpc://host", "grpc://host:8500/path", "http://", "grpc://h:x", "", None],
)
def test_invalid_addresses_are_refused(address):
    with pytest.raises(ValueError, match=r"grpc://host:8500.*Received: "):
        FaceClient(address)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"version": 1, "label": "stable"},
            "version and label cannot be combined. Received: version=1, label='stable'",
        ),
        ({"version": "1"}, "version must be an integer of at least 0. Received: version='1'"),
        ({"timeout": 0}, "timeout must be above 0. Received: timeout=0"),
        ({"retries": -1}, "retries must be an integer of at least 0. Received: retries=-1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1. Received: batch_size=0"),
        (
            {"certificates": "roots.pem"},
            "address must start with grpcs:// or https:// .*Received: address='grpc://host:8500'",
        ),
        ({"client_key": "key.pem"}, "client_certificate and client_key must be given together"),
    ],
    ids=str,
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        FaceClient("grpc://host:8500", **options)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_missing_certificates_are_named(scheme):
    with pytest.raises(FileNotFoundError, match=r"A PEM file must exist. Received: roots.pem"):
        FaceClient(f"{scheme}://host:8500", certificates="roots.pem")


@pytest.mark.parametrize(("scheme", "module"), [("grpc", "grpc"), ("http", "requests")])
def test_missing_modules_are_named_with_the_command_to_install(scheme, module, monkeypatch):
    transport = "keras_arcface.serving.client." + {"grpc": "grpc_transport", "http": "rest_transport"}[scheme]
    monkeypatch.delitem(sys.modules, transport, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[serving\]'"):
        FaceClient(f"{scheme}://host:8500")
