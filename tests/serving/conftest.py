"""Servers for the tests: the double, or a real server with its address in TF_SERVING_GRPC or TF_SERVING_REST.

A real server must serve an embedder of this package under the name in TF_SERVING_MODEL (default: "faces").
"""

import dataclasses
import os

import pytest
import small_models
from server_double import ServerDouble

from keras_arcface.serving import FaceClient

PROTOCOLS = ("grpc", "rest")
VERSIONS = (1, 2)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server over one protocol. `double` and `projections` are None for a real server."""

    protocol: str
    address: str
    model: str
    double: ServerDouble | None
    projections: dict | None

    def client(self, **options):
        return FaceClient(self.address, **{"model": self.model, **options})


@pytest.fixture(scope="session")
def projections():
    """Returns `{version: served model}`."""
    return {version: small_models.Projection(version) for version in VERSIONS}


@pytest.fixture(scope="session")
def models(projections, tmp_path_factory):
    """Returns a folder with two versions of the model `faces`."""
    base = tmp_path_factory.mktemp("models")
    (base / "faces").mkdir()
    for version, projection in projections.items():
        small_models.write(projection, base / "faces" / str(version))
    return base


@pytest.fixture(scope="session")
def _session_double(models):
    with ServerDouble(models, labels={"stable": 1, "canary": 2}, latest=None) as double:
        yield double


@pytest.fixture
def double(_session_double):
    """Returns the double without recorded requests and faults."""
    _session_double.reset()
    return _session_double


@pytest.fixture(params=PROTOCOLS)
def server(request, double, projections):
    """Returns a server for each protocol: a real one if its address is set, otherwise the double."""
    return _servers(double, projections)[request.param]


@pytest.fixture(params=PROTOCOLS)
def fake(request, double, projections):
    """Returns the double for each protocol, for tests that need its versions or its faults."""
    if _real(request.param):
        pytest.skip("needs the versions and the faults of the double")
    return _servers(double, projections)[request.param]


@pytest.fixture
def both(double, projections):
    """Returns the same server over gRPC and over REST."""
    servers = _servers(double, projections)
    if len({server.double is None for server in servers.values()}) == 2:
        pytest.skip("only one of TF_SERVING_GRPC and TF_SERVING_REST is set")
    return servers


def _servers(double, projections):
    servers = {}
    for protocol in PROTOCOLS:
        real = _real(protocol)
        if real:
            model = os.environ.get("TF_SERVING_MODEL", "faces")
            servers[protocol] = Server(protocol, real, model, None, None)
        else:
            servers[protocol] = Server(protocol, getattr(double, protocol), "faces", double, projections)
    return servers


def _real(protocol):
    address = os.environ.get(f"TF_SERVING_{protocol.upper()}")
    if not address or "://" in address:
        return address
    return f"{'grpc' if protocol == 'grpc' else 'http'}://{address}"


@pytest.fixture
def base(tmp_path):
    """Returns a base path with the versions 2, 3 and 4."""
    base = tmp_path / "models" / "faces"
    for version in (2, 3, 4):
        (base / str(version)).mkdir(parents=True)
    return base
