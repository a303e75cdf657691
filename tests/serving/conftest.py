"""A server to ask: the double, or a real one whose address is in TF_SERVING_GRPC or TF_SERVING_REST.

The real one is to serve an embedder of this package under the name in TF_SERVING_MODEL ("faces" if it is not set).
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
    """One way to reach a server. `double` and `projections` are None where it is real."""

    protocol: str
    address: str
    model: str
    double: ServerDouble | None
    projections: dict | None

    def client(self, **options):
        return FaceClient(self.address, **{"model": self.model, **options})


@pytest.fixture(scope="session")
def projections():
    """Version -> the model that is served."""
    return {version: small_models.Projection(version) for version in VERSIONS}


@pytest.fixture(scope="session")
def models(projections, tmp_path_factory):
    """A base folder with two versions of `faces`."""
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
    """The double, with nothing behind it."""
    _session_double.reset()
    return _session_double


@pytest.fixture(params=PROTOCOLS)
def server(request, double, projections):
    """The double by each protocol, or a real server by those for which there is one."""
    return _servers(double, projections)[request.param]


@pytest.fixture(params=PROTOCOLS)
def fake(request, double, projections):
    """The double by each protocol, for what cannot be asked of a real server: to fail, or to have these versions."""
    if _real(request.param):
        pytest.skip("needs the double: a real server has other versions, and cannot be told to fail")
    return _servers(double, projections)[request.param]


@pytest.fixture
def both(double, projections):
    """The same server by gRPC and by REST."""
    servers = _servers(double, projections)
    if len({server.double is None for server in servers.values()}) == 2:
        pytest.skip("of the real server, only one of TF_SERVING_GRPC and TF_SERVING_REST is set")
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
    """A base path as TensorFlow Serving watches it, with versions 2, 3 and 4."""
    base = tmp_path / "models" / "faces"
    for version in (2, 3, 4):
        (base / str(version)).mkdir(parents=True)
    return base
