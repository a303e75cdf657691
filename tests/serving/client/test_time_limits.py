"""`timeout` limits a whole call, whatever the server does. Each server would keep the client for 10 seconds."""

import contextlib
import json
import select
import socket
import threading
import time
import types

import bad_servers
import numpy as np
import pytest

from keras_arcface.serving import FaceClient
from keras_arcface.serving.client import diagnosis
from keras_arcface.serving.client import errors
from keras_arcface.serving.client import http_connection

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
LARGE = [bytes(15 * 2**20)]  # more than the buffers of the sockets
SLOW = 4.0  # seconds; the timeouts are 0.5 s, and the machine may be busy


def drip(data):
    """Returns a handler that reads a request, and answers with a byte every 0.1 s."""

    def handle(connection, stopping):
        bad_servers.read_request(connection)
        for index in range(len(data)):
            connection.sendall(data[index : index + 1])
            if stopping.wait(0.1):
                return

    return handle


def never_read(connection, stopping):
    stopping.wait(30)


def continue_forever(connection, stopping):
    bad_servers.read_request(connection)
    while not stopping.wait(0.05):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def empty_chunks(connection, stopping):
    bad_servers.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not stopping.wait(0.05):
        connection.sendall(b"1\r\n \r\n")


def unavailable(connection, stopping):
    bad_servers.read_request(connection)
    stopping.wait(0.1)
    connection.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n"
SERVERS = {
    "nothing": lambda connection, stopping: never_read(connection, stopping),
    "slow status line": drip(HEAD + bytes(200)),
    "slow headers": drip(b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 100),
    "slow content": lambda connection, stopping: [connection.sendall(HEAD), drip(b" " * 200)(connection, stopping)],
    "continue forever": continue_forever,
    "empty chunks": empty_chunks,
    "unavailable": unavailable,
}
CALLS = {
    "embed": lambda client, **limit: client.embed(IMAGES, **limit),
    "threshold": lambda client, **limit: client.threshold(1e-3, **limit),
    "status": lambda client, **limit: client.status(**limit),
}


def check_ends(call, expected=(errors.RequestTimeout, errors.ServerUnavailable)):
    started = time.monotonic()
    with pytest.raises(expected) as caught:
        call()
    seconds = time.monotonic() - started
    print(f"{seconds:.2f} s: {caught.value}")
    assert seconds < SLOW


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
@pytest.mark.parametrize("server", SERVERS)
def test_slow_servers(server, scheme):
    with (
        bad_servers.SocketServer(SERVERS[server]) as running,
        FaceClient(f"{scheme}://127.0.0.1:{running.port}", timeout=60, retries=100) as client,
    ):
        check_ends(lambda: client.status(timeout=0.5))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("of_call", [True, False])
def test_slow_answers_to_each_call(call, of_call):
    with (
        bad_servers.SocketServer(SERVERS["slow headers"]) as running,
        FaceClient(f"http://127.0.0.1:{running.port}", version=1, timeout=60 if of_call else 0.5) as client,
    ):
        check_ends(lambda: CALLS[call](client, **({"timeout": 0.5} if of_call else {})))


def test_a_server_that_does_not_read():
    with (
        bad_servers.SocketServer(never_read) as running,
        FaceClient(f"http://127.0.0.1:{running.port}", version=1) as client,
    ):
        check_ends(lambda: client.embed(LARGE, timeout=0.5))


def test_a_server_that_reads_slowly():
    def handle(connection, stopping):
        while not stopping.wait(0.1) and connection.recv(1 << 17):
            pass

    with (
        bad_servers.SocketServer(handle) as running,
        FaceClient(f"http://127.0.0.1:{running.port}", version=1) as client,
    ):
        check_ends(lambda: client.embed(LARGE, timeout=0.5))


def test_the_deadline_is_checked_before_each_part_of_an_upload(monkeypatch):
    now, timeouts = [1000.0], []

    class SlowSocket:
        def settimeout(self, seconds):
            timeouts.append(seconds)

        def send(self, data):
            now[0] += 1.0
            return 1

    monkeypatch.setattr(http_connection, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(TimeoutError):
        http_connection._LimitedSocket(SlowSocket(), 1003.0, 0).sendall(bytes(100))
    assert timeouts == [3.0, 2.0, 1.0]


def connect_slowly(monkeypatch, wrap_socket):
    """Connects by TLS until the time 1003. `connect` takes 2 seconds. Returns what was done with the socket."""
    now, done = [1000.0], []

    class SlowSocket:
        def __init__(self, *_):
            pass

        def settimeout(self, seconds):
            done.append(seconds)

        def connect(self, address):
            now[0] += 2.0

        def setsockopt(self, *_):
            pass

        def close(self):
            done.append("closed")

    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
    constants = {"IPPROTO_TCP": socket.IPPROTO_TCP, "TCP_NODELAY": socket.TCP_NODELAY}
    monkeypatch.setattr(http_connection, "_look_up", lambda *_: [address])
    monkeypatch.setattr(http_connection, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(http_connection, "socket", types.SimpleNamespace(socket=SlowSocket, **constants))
    with contextlib.suppress(ValueError):
        http_connection._connect("name", 1, types.SimpleNamespace(wrap_socket=wrap_socket), 1003.0)
    return done


def test_the_handshake_has_the_time_that_is_left(monkeypatch):
    assert connect_slowly(monkeypatch, lambda connection, server_hostname: connection) == [3.0, 1.0]


def test_sockets_are_closed_after_a_name_that_tls_refuses(monkeypatch):
    def refuse(connection, server_hostname):
        raise ValueError("server_hostname cannot start with a dot")

    assert connect_slowly(monkeypatch, refuse) == [3.0, 1.0, "closed"]


def test_a_handshake_in_small_pieces():
    def handle(connection, stopping):
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16384 bytes
        while not stopping.wait(0.05):
            connection.sendall(b"\x02")

    with (
        bad_servers.SocketServer(handle) as running,
        FaceClient(f"https://127.0.0.1:{running.port}", timeout=60) as client,
    ):
        check_ends(lambda: client.status(timeout=0.5), errors.RequestTimeout)


def test_a_server_that_accepts_no_connection():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # they fill the queue
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        with FaceClient(f"http://127.0.0.1:{port}") as client:
            check_ends(lambda: client.status(timeout=0.5))
        for connection in waiting:
            connection.close()


def test_the_lookup_of_a_name(monkeypatch):
    def slow_lookup(*arguments, **options):
        time.sleep(10)

    monkeypatch.setattr(socket, "getaddrinfo", slow_lookup)
    with FaceClient("http://slow.invalid:8501") as client:
        check_ends(lambda: client.status(timeout=0.5), errors.RequestTimeout)


def test_the_request_that_explains_an_error(monkeypatch):
    """The first request is refused. The next one, which lists the versions, is slow."""
    monkeypatch.setattr(diagnosis, "_TIMEOUT", 60.0)

    def handle(connection, stopping):
        request = bad_servers.read_request(connection)
        if request.startswith(b"POST"):
            content = json.dumps({"error": "Servable not found"}).encode()
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        else:
            drip(HEAD + bytes(200))(connection, stopping)

    with (
        bad_servers.SocketServer(handle) as running,
        FaceClient(f"http://127.0.0.1:{running.port}", version=1) as client,
    ):
        started = time.monotonic()
        with pytest.raises(errors.VersionNotAvailable, match="unknown"):
            client.embed(IMAGES, timeout=2)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status):
    requests = []

    def elsewhere(connection, stopping):
        requests.append(bad_servers.read_request(connection))

    with bad_servers.SocketServer(elsewhere) as target:
        location = f"http://user:secret@127.0.0.1:{target.port}/v1?token=secret"
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        with (
            bad_servers.SocketServer(bad_servers.answer_once(answer)) as server,
            FaceClient(f"http://127.0.0.1:{server.port}", version=1) as client,
        ):
            with pytest.raises(errors.UnexpectedResponse, match=f"HTTP {status}: a redirect to 127.0.0.1") as caught:
                client.embed(IMAGES)
            assert server.connections == 1
    assert "secret" not in str(caught.value)
    assert requests == []


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_long_timeouts(timeout, protocol, double):
    with FaceClient(getattr(double, protocol), timeout=timeout) as client:
        assert client.status() == client.status(timeout=timeout) == {1: "AVAILABLE", 2: "AVAILABLE"}


def test_connections_are_reused_and_bytes_without_a_request_are_not_an_answer():
    sent = threading.Event()

    def states(version):
        content = json.dumps({"model_version_status": [{"version": str(version), "state": "AVAILABLE"}]}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)

    def handle(connection, stopping):
        for version in (1, 2, 3):
            bad_servers.read_request(connection)
            connection.sendall(states(version))
        sent.wait(20)
        connection.sendall(states(4))
        stopping.wait(20)

    with bad_servers.SocketServer(handle) as server, FaceClient(f"http://127.0.0.1:{server.port}") as client:
        assert [list(client.status()) for _ in range(3)] == [[1], [2], [3]]
        sent.set()
        select.select([client._endpoint._transport._connection._socket], [], [], 20)
        assert list(client.status()) == [1]
        assert server.connections == 2


def test_an_early_answer_to_a_long_request_is_read():
    def handle(connection, stopping):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with (
        bad_servers.SocketServer(handle) as server,
        FaceClient(f"http://127.0.0.1:{server.port}", version=1) as client,
        pytest.raises(errors.RequestRefused, match="HTTP 413"),
    ):
        client.embed(LARGE)


def test_every_address_of_a_host_is_tried(double, monkeypatch):
    port = int(double.rest.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        other = closed.getsockname()[1]
    kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    addresses = [(*kind, ("127.0.0.1", other)), (*kind, ("127.0.0.1", port))]
    monkeypatch.setattr(http_connection.socket, "getaddrinfo", lambda *arguments, **options: addresses)
    with FaceClient("http://two-addresses.invalid:8501") as client:
        assert client.status() == {1: "AVAILABLE", 2: "AVAILABLE"}
