"""Errors of the client over gRPC and REST."""

import contextlib
import http.server
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import small_models
import tensorflow as tf
from bad_servers import listening
from conftest import make_face
from server_double import ServerDouble

from keras_arcface.serving import FaceClient
from keras_arcface.serving.client import errors

FACES = np.stack([make_face(person, 0, small_models.SIZE) for person in range(3)])
PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def base(tmp_path):
    (tmp_path / "faces").mkdir()
    return tmp_path


def test_missing_models_are_named(server):
    with server.client(model="nobody") as client:
        for ask in (lambda: client.embed(FACES), client.status, client.metadata):
            with pytest.raises(errors.ModelNotFound) as caught:
                ask()
            assert server.address in str(caught.value)
            assert "model 'nobody'" in str(caught.value)
    with server.client(model="nobody", version=7) as client, pytest.raises(errors.ModelNotFound, match="version 7"):
        client.embed(FACES)
    with server.client(model="nobody", label="stable") as client, pytest.raises(errors.ModelNotFound, match="'stable'"):
        client.embed(FACES)


def test_missing_versions_are_named_with_the_available_ones(server):
    told = (
        r"model '.*', version 999999, signature 'serving_default': not available\. Available: \d+.*Servable not found"
    )
    with server.client(version=999999) as client, pytest.raises(errors.VersionNotAvailable, match=told) as caught:
        client.embed(FACES)
    if server.double:
        assert "Available: 1, 2. Server message" in str(caught.value)
        assert len(server.double.predicted) <= 1  # REST requests the version first


def test_a_version_that_was_unloaded_is_named(base, projections):
    small_models.write(projections[1], base / "faces" / "1")
    with ServerDouble(base, poll_seconds=60) as double:
        small_models.write(projections[2], base / "faces" / "2")
        double.poll()
        for address in (double.grpc, double.rest):
            told = pytest.raises(errors.VersionNotAvailable, match=r"Available: 2; 1 is END")
            with FaceClient(address, version=1) as client, told:
                client.embed(FACES)


def test_missing_labels_are_named(server):
    told = r"label 'nightly'.*: no such label\. Available: \d+.*Unrecognized servable version label: nightly"
    with server.client(label="nightly") as client:
        for ask in (lambda: client.embed(FACES), client.metadata):
            with pytest.raises(errors.LabelNotFound, match=told):
                ask()


def test_a_label_of_a_version_that_is_not_loaded(base, projections):
    small_models.write(projections[2], base / "faces" / "2")
    with ServerDouble(base, labels={"stable": 1}) as double:
        for address in (double.grpc, double.rest):
            told = pytest.raises(errors.VersionNotAvailable, match=r"label 'stable'.*Available: 2")
            with FaceClient(address, label="stable") as client, told:
                client.embed(FACES)


@PROTOCOLS
def test_missing_signatures_are_named_with_the_existing_ones(protocol, base, projections):
    small_models.write(projections[1], base / "faces" / "1", ("serving_default",))
    with ServerDouble(base) as double, FaceClient(getattr(double, protocol)) as client:
        told = r"signature 'serve_bytes': no such signature\. The model has serving_default\. Server message: "
        with pytest.raises(errors.SignatureNotFound, match=told):
            client.embed([b"image"])
        with pytest.raises(errors.SignatureNotFound, match="signature 'describe'"):
            client.threshold(1e-3)


@PROTOCOLS
@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (lambda images: {"output_0": tf.zeros((3, 8)), "n": tf.zeros(3)}, "expected the outputs embedding, norm. "),
        (lambda images: {"output_0": tf.zeros((3, 8))}, "expected the outputs embedding, norm. Received: "),
        (lambda images: {"embedding": tf.zeros((2, 8)), "norm": tf.zeros(3)}, r"expected 3 rows. .*\(2, 8\)"),
        (lambda images: {"embedding": tf.zeros(3), "norm": tf.zeros(3)}, r"expected 3 rows. .*embedding \(3,\)"),
    ],
    ids=["names", "one", "rows", "rank"],
)
def test_other_models_are_recognized(outputs, told, protocol, base):
    module = tf.Module()
    spec = tf.TensorSpec((None, *small_models.SIZE, 3), tf.uint8, "images")
    tf.saved_model.save(module, str(base / "faces" / "1"), tf.function(outputs, input_signature=[spec]))
    unexpected = pytest.raises(errors.UnexpectedResponse, match=told)
    with ServerDouble(base) as double, FaceClient(getattr(double, protocol)) as client, unexpected:
        client.embed(FACES)


def test_refused_requests_are_not_retried(server):
    wrong = np.zeros((2, 5, 4, 3), np.uint8)
    with server.client() as client, pytest.raises(errors.RequestRefused) as caught:
        client.embed(wrong)
    print(caught.value)
    assert str(caught.value).endswith("Sent: images (2, 5, 4, 3) uint8")
    if server.double:
        assert len(server.double.predicted) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, errors.ServerFailed),
        (grpc.StatusCode.UNKNOWN, errors.ServerFailed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.RequestRefused),
        (grpc.StatusCode.PERMISSION_DENIED, errors.RequestRefused),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.RequestTimeout),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_other_failures_are_not_retried(code, error, fake):
    fake.double.fail_next(1, code, "the reason")
    with fake.client() as client, pytest.raises(error, match="the reason"):
        client.embed(FACES)
    assert len(fake.double.predicted) == 1


def test_requests_above_the_limit_of_the_server_are_refused(fake):
    fake.double.fail_next(1, grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 8)")
    with fake.client() as client, pytest.raises(errors.RequestRefused, match="larger than max"):
        client.embed(FACES)


def test_unavailable_servers_are_retried(fake):
    fake.double.fail_next(2)
    with fake.client() as client:
        assert client.embed(FACES).valid.all()
    assert len(fake.double.predicted) == 3


def test_broken_connections_are_retried(fake):
    with fake.client() as client:
        client.embed(FACES)
        fake.double.hang_up_next(2)
        assert client.embed(FACES).valid.all()
    assert len(fake.double.predicted) == 4


@pytest.mark.parametrize("retries", [0, 2])
def test_the_number_of_attempts_is_in_the_error(retries, fake):
    fake.double.fail_next(10)
    tries = r"no response after 1 attempt in" if retries == 0 else r"no response after 3 attempts in 0\.\d+ s"
    with fake.client(retries=retries) as client, pytest.raises(errors.ServerUnavailable, match=tries) as caught:
        client.embed(FACES)
    assert "told to fail" in str(caught.value)
    assert len(fake.double.predicted) == retries + 1


# A busy machine may reach the time limit in a request instead of between two requests.
LATE = (errors.ServerUnavailable, errors.RequestTimeout)


def test_the_timeout_limits_all_attempts_together(fake):
    fake.double.fail_next(100)
    started = time.monotonic()
    with fake.client(timeout=0.5, retries=100) as client, pytest.raises(LATE):
        client.embed(FACES)
    assert time.monotonic() - started < 10


CALLS = {
    "embed": lambda client, **options: client.embed(FACES, **options),
    "compare": lambda client, **options: client.compare(FACES, FACES, **options),
    "metadata": lambda client, **options: client.metadata(**options),
    "threshold": lambda client, **options: client.threshold(1e-3, **options),
    "operating_point": lambda client, **options: client.operating_point(1e-3, **options),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_timeout_of_a_call_overrides_the_clients(call, fake):
    with fake.client(timeout=30) as patient, fake.client(timeout=0.1) as impatient:
        fake.double.delay = 6
        started = time.monotonic()
        with pytest.raises(errors.RequestTimeout, match=r"no response within \d+\.\d+ s"):
            CALLS[call](patient, timeout=0.1)
        assert time.monotonic() - started < 5
        fake.double.delay = 0.2
        CALLS[call](impatient, timeout=30)


def test_the_timeout_of_a_call_includes_all_its_requests(fake):
    fake.double.delay = 0.3
    with fake.client(batch_size=1) as client:
        assert len(client.embed(FACES).valid) == 3
        with pytest.raises(errors.RequestTimeout):
            client.embed(FACES, timeout=0.5)


@PROTOCOLS
def test_the_timeout_of_status(protocol):
    with silent_server() as port:
        address = f"{'grpc' if protocol == 'grpc' else 'http'}://127.0.0.1:{port}"
        with FaceClient(address, timeout=30, retries=0) as client:
            started = time.monotonic()
            with pytest.raises(errors.ServingError):
                client.status(timeout=0.2)
            assert time.monotonic() - started < 10


@pytest.mark.parametrize("timeout", [0, -1.0, "1"])
def test_invalid_timeouts_of_a_call_are_refused(timeout, double):
    with FaceClient(double.grpc) as client:
        for call in (*CALLS.values(), lambda client, **options: client.status(**options)):
            with pytest.raises(ValueError, match=f"timeout must be above 0. Received: timeout={timeout!r}"):
                call(client, timeout=timeout)


@contextlib.contextmanager
def silent_server():
    """Yields the port of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(("status", "error"), [(404, errors.UnexpectedResponse), (200, errors.UnexpectedResponse)])
def test_other_http_servers_are_recognized(status, error):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *arguments):
            pass

    with (
        listening(Page) as address,
        FaceClient(address) as client,
        pytest.raises(error, match=r"HTTP \d+: '<html>Welc"),
    ):
        client.status()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_address_without_a_server(scheme):
    address = f"{scheme}://127.0.0.1:{free_port()}"
    with FaceClient(address, retries=1) as client:
        for ask in (lambda: client.embed(FACES), client.status):
            with pytest.raises(errors.ServerUnavailable, match=f"{address}, model 'faces'.*after 2 attempts") as caught:
                ask()
            print(caught.value)


@PROTOCOLS
def test_a_restarted_server_is_found(protocol, models):
    ports = {"grpc_port": free_port(), "rest_port": free_port()}
    with ServerDouble(models, **ports) as double:
        address = getattr(double, protocol)
        client = FaceClient(address, timeout=20, retries=20)
        expected = client.embed(FACES)
    with pytest.raises(errors.ServerUnavailable), FaceClient(address, retries=0) as impatient:
        impatient.embed(FACES)
    restarted = []
    thread = threading.Timer(0.5, lambda: restarted.append(ServerDouble(models, **ports)))
    thread.start()
    try:
        np.testing.assert_array_equal(client.embed(FACES).embedding, expected.embedding)
    finally:
        thread.join()
        client.close()
        restarted[0].stop()


@PROTOCOLS
def test_waiting_for_a_version_that_is_being_published(protocol, base, projections):
    with ServerDouble(base, poll_seconds=0.05) as double, FaceClient(getattr(double, protocol)) as client:
        with pytest.raises(errors.ModelNotFound, match=r"Not ready within 0\.3 s\. .*no such model"):
            client.wait_until_ready(0.3)
        thread = threading.Timer(0.3, small_models.write, (projections[1], base / "faces" / "1"))
        thread.start()
        assert client.wait_until_ready(30) == 1
        thread.join()
        assert client.embed(FACES).version == 1


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_waiting_for_a_server_that_never_comes(scheme):
    with FaceClient(f"{scheme}://127.0.0.1:{free_port()}") as client:
        started = time.monotonic()
        with pytest.raises(errors.ServerUnavailable, match=r"Not ready within 0\.5 s"):
            client.wait_until_ready(0.5)
        assert time.monotonic() - started < 2
