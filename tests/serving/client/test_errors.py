"""What the client says when there is no good answer, by gRPC and by REST."""

import http.server
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import small_models
import tensorflow as tf
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


def test_an_absent_model_is_named(server):
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


def test_an_absent_version_is_named_with_those_that_are_there(server):
    told = r"model '.*', version 999999, signature 'serving_default': not there\. Available: \d+.*Servable not found"
    with server.client(version=999999) as client, pytest.raises(errors.VersionNotAvailable, match=told) as caught:
        client.embed(FACES)
    if server.double:
        assert "Available: 1, 2. The server said" in str(caught.value)
        assert len(server.double.predicted) <= 1  # REST's side looks for the model before anything is predicted


def test_a_version_that_was_unloaded_is_named(base, projections):
    small_models.write(projections[1], base / "faces" / "1")
    with ServerDouble(base, poll_seconds=60) as double:
        small_models.write(projections[2], base / "faces" / "2")
        double.poll()
        for address in (double.grpc, double.rest):
            told = pytest.raises(errors.VersionNotAvailable, match=r"Available: 2; 1 is END")
            with FaceClient(address, version=1) as client, told:
                client.embed(FACES)


def test_an_absent_label_is_named(server):
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
def test_an_absent_signature_is_named_with_those_that_are_there(protocol, base, projections):
    small_models.write(projections[1], base / "faces" / "1", ("serving_default",))
    with ServerDouble(base) as double, FaceClient(getattr(double, protocol)) as client:
        told = r"signature 'serve_bytes': no such signature\. The model has serving_default\. The server said: "
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
def test_another_model_is_told_from_an_embedder(outputs, told, protocol, base):
    module = tf.Module()
    spec = tf.TensorSpec((None, *small_models.SIZE, 3), tf.uint8, "images")
    tf.saved_model.save(module, str(base / "faces" / "1"), tf.function(outputs, input_signature=[spec]))
    unexpected = pytest.raises(errors.UnexpectedAnswer, match=told)
    with ServerDouble(base) as double, FaceClient(getattr(double, protocol)) as client, unexpected:
        client.embed(FACES)


def test_a_refused_request_is_not_sent_again(server):
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
def test_other_failures_are_not_tried_again(code, error, fake):
    fake.double.fail_next(1, code, "the reason")
    with fake.client() as client, pytest.raises(error, match="the reason"):
        client.embed(FACES)
    assert len(fake.double.predicted) == 1


def test_what_is_unavailable_twice_is_there_the_third_time(fake):
    fake.double.fail_next(2)
    with fake.client() as client:
        assert client.embed(FACES).valid.all()
    assert len(fake.double.predicted) == 3


def test_a_connection_that_breaks_off_is_tried_again(fake):
    with fake.client() as client:
        client.embed(FACES)
        fake.double.hang_up_next(2)
        assert client.embed(FACES).valid.all()
    assert len(fake.double.predicted) == 4


@pytest.mark.parametrize("retries", [0, 2])
def test_what_stays_unavailable_is_said_with_the_tries(retries, fake):
    fake.double.fail_next(10)
    tries = r"no answer after 1 try in" if retries == 0 else r"no answer after 3 tries in 0\.\d+ s"
    with fake.client(retries=retries) as client, pytest.raises(errors.ServerUnavailable, match=tries) as caught:
        client.embed(FACES)
    assert "told to fail" in str(caught.value)
    assert len(fake.double.predicted) == retries + 1


def test_the_timeout_is_that_of_all_tries_together(fake):
    fake.double.fail_next(100)
    started = time.monotonic()
    with fake.client(timeout=0.5, retries=100) as client, pytest.raises(errors.ServerUnavailable):
        client.embed(FACES)
    assert time.monotonic() - started < 1.0


def test_a_slow_answer_is_not_waited_for(fake):
    fake.double.delay = 30
    started = time.monotonic()
    with fake.client(timeout=0.3) as client, pytest.raises(errors.RequestTimeout, match=r"no answer within 0\.3\d* s"):
        client.embed(FACES)
    assert 0.2 < time.monotonic() - started < 2
    assert len(fake.double.predicted) == 1


def test_an_answer_that_trickles_in_is_not_waited_for():
    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)

        def log_message(self, *arguments):
            pass

    with listening(Trickle) as address, FaceClient(address, timeout=0.3) as client:
        started = time.monotonic()
        with pytest.raises(errors.RequestTimeout):
            client.status()
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(("status", "error"), [(404, errors.UnexpectedAnswer), (200, errors.UnexpectedAnswer)])
def test_another_http_server_is_told_from_tensorflow_serving(status, error):
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


class listening:
    """An HTTP server with this handler, for the time of a `with`."""

    def __init__(self, handler):
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.handle_error = lambda *_: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exception):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_address_where_nobody_is(scheme):
    address = f"{scheme}://127.0.0.1:{free_port()}"
    with FaceClient(address, retries=1) as client:
        for ask in (lambda: client.embed(FACES), client.status):
            with pytest.raises(errors.ServerUnavailable, match=f"{address}, model 'faces'.*after 2 tries") as caught:
                ask()
            print(caught.value)


@PROTOCOLS
def test_a_server_that_comes_back_is_found_again(protocol, models):
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
