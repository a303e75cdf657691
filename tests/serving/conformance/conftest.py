"""A server double with a healthy exported model, into whose answers tests plant faults."""

import contextlib

import exported_models
import pytest
from server_double import ServerDouble

from keras_arcface.serving import check_server
from keras_arcface.serving.conformance import check_server as runner
from keras_arcface.serving.conformance import checks


@pytest.fixture(scope="session")
def network():
    return exported_models.make_network()


@pytest.fixture(scope="session")
def base(network, tmp_path_factory):
    """Returns a folder with version 2 of the model `faces`."""
    base = tmp_path_factory.mktemp("healthy")
    exported_models.export_model(network, base / "faces" / "2")
    return base


@pytest.fixture(scope="session")
def _session_double(base):
    with ServerDouble(base, labels={"stable": 2}) as double:
        yield double


@pytest.fixture
def double(_session_double):
    """Returns a double of the healthy model, without faults of earlier tests."""
    servable = _session_double.find()
    signatures = dict(servable.signatures)
    yield _session_double
    servable.__dict__.pop("run", None)
    servable.signatures = signatures
    _session_double.reset()


@pytest.fixture
def plant(double):
    """Returns a function that replaces the answers of the double.

    It takes a function with the arguments `(run, signature, inputs)`, which returns the outputs. `run(signature,
    inputs)` is the healthy model.
    """
    servable = double.find()
    healthy = servable.run

    def replace(fault):
        servable.run = lambda name, inputs: fault(healthy, name, inputs)

    return replace


@pytest.fixture
def check(double, base):
    """Returns a function that checks the double over both protocols, or over one."""

    def run(*protocols, export=base / "faces" / "2", **options):
        addresses = [getattr(double, protocol) for protocol in protocols or ("grpc", "rest")]
        return check_server(addresses, **{"export": export, "timeout": 60} | options)

    return run


@pytest.fixture
def only(monkeypatch):
    """Returns a function that limits `check_server` to the checks with these names, to save time."""

    def limit(*names):
        needed = {"serving_default", "serve_bytes", *names}
        assert needed <= {each.name for each in (*checks.CHECKS, *checks.PROTOCOL_CHECKS)}
        for kind in ("CHECKS", "PROTOCOL_CHECKS"):
            chosen = [each for each in getattr(checks, kind) if each.name in needed]
            monkeypatch.setattr(runner, kind, chosen)

    return limit


@pytest.fixture
def served(tmp_path):
    """Returns a function that serves another exported model: `with served(export) as double`."""

    @contextlib.contextmanager
    def serve(write, version=2):
        write(tmp_path / "faces" / str(version))
        with ServerDouble(tmp_path) as double:
            yield double

    return serve
