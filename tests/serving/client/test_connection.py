"""Addresses, arguments and TLS."""

import base64
import http.server
import re
import subprocess
import sys
import traceback
import urllib.parse

import numpy as np
import pytest
import small_models
from bad_servers import listening
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


def test_missing_modules_are_named_with_the_command_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_arcface.serving.client.grpc_transport", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-arcface\[serving\]'"):
        FaceClient("grpc://host:8500")
    FaceClient("http://host:8501").close()  # needs no additional module


SECRET = "pa/ss?w#rd@1"


@pytest.mark.parametrize(
    "address",
    [
        "http://user:%s@127.0.0.1:%d",
        "http://user:%s@127.0.0.1:%d/path?token=%s",
        "https://user:%s@127.0.0.1:%d#%s",
        "http://127.0.0.1:%d/?token=%s",
        "grpc://user:%s@127.0.0.1:%d",
        "ftp://user:%s@127.0.0.1:%d",
        "user:%s@127.0.0.1:%d",
        "http://[user:%s@127.0.0.1:%d",
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "secret", urllib.parse.quote(SECRET, safe="")])
def test_credentials_do_not_appear_in_errors(address, secret):
    values = [secret if part.startswith("s") else 1 for part in re.findall("%([sd])", address)]

    def ask():
        with FaceClient(address % tuple(values), retries=0) as client:
            shown = repr(client) + repr(vars(client)) + repr(client._endpoint.target)
            assert not any(part in shown for part in (secret, "ss?w", "token"))
            client.status()

    with pytest.raises((ValueError, ServingError)) as caught:
        ask()
    shown = "".join(traceback.format_exception(caught.value))
    shown = "\n".join(line for line in shown.splitlines() if not line.startswith("    "))  # lines of code
    assert not any(part in shown for part in (secret, "pa'", "ss?w", "w#rd", "rd@1")), shown
    assert "***" in shown


def test_credentials_are_sent_as_basic_authentication():
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path, self.headers["Authorization"]))
            self.send_error(401)

        def log_message(self, *arguments):
            pass

    with listening(Handler) as address:
        address = address.replace("//", "//user:p%40ss@") + "/a proxy/"
        with FaceClient(address) as client, pytest.raises(errors.RequestRefused) as caught:
            client.status()
    assert received == [("/a%20proxy/v1/models/faces", f"Basic {base64.b64encode(b'user:p@ss').decode()}")]
    assert "ss@" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_keys_with_a_password_and_other_files_are_refused(scheme, certificate, tmp_path):
    cert, key = certificate
    encrypted, other = tmp_path / "encrypted.pem", tmp_path / "other.pem"
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    other.write_text("no certificate")

    def ask(**options):
        with FaceClient(f"{scheme}://127.0.0.1:1", retries=0, **options) as client:
            client.status()

    for options in ({"client_certificate": cert, "client_key": encrypted}, {"certificates": other}):
        with pytest.raises((ValueError, ServingError), match=r"must be PEM files|no response"):
            ask(**options)
