"""HTTP/1.1 connection whose requests have a limit on their time and on the length of the response."""

import contextlib
import http.client
import io
import queue
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple


class Response(NamedTuple):
    """Status, headers and content of an HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes


class ResponseTooLong(Exception):
    """Error for a response that is longer than its limit."""


class HttpConnection:
    """Connection to one server. It connects at the first request, and again after a failure.

    Args:
        host: name or address of the server.
        port: port of the server.
        tls: context of the encryption. None: no encryption.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None):
        self._host = host
        self._port = port
        self._tls = tls
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Closes the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, deadline: float, max_bytes: int
    ) -> Response:
        """Sends a request and returns the response. Redirects are not followed.

        Args:
            method, path, headers, body: the request.
            deadline: time of `time.monotonic()` at which the request fails, whatever has been received.
            max_bytes: maximum length of the response with its headers.

        Raises:
            TimeoutError: at the deadline.
            ResponseTooLong: if the response is longer than `max_bytes`.
            OSError: if the connection fails or ends early.
            http.client.HTTPException: if the response is not HTTP.
        """
        # Received bytes without a request are the end of the connection, or belong to no request.
        if self._socket is not None and _is_readable(self._socket):
            self.close()
        if self._socket is None:
            self._socket = _connect(self._host, self._port, self._tls, deadline)
        exchange = http.client.HTTPConnection(self._host, self._port)
        exchange.sock = _LimitedSocket(self._socket, deadline, max_bytes)
        reusable = False
        try:
            # A server may answer before it has received the whole request, and close the connection.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                exchange.request(method, path, body, dict(headers))
            response = exchange.getresponse()
            content = response.read(max_bytes)
            if response.length:
                raise http.client.IncompleteRead(content, response.length)
            reusable = not response.will_close and response.isclosed()
            return Response(response.status, response.headers, content)
        finally:
            if not reusable:
                self.close()


class _LimitedSocket:
    """Interface of a socket for `http.client`, with limits for a whole request.

    The timeout of a socket applies to each operation, so that a server that sends a byte at a time is never late.
    `http.client` limits the length of a line and the number of headers, but not what follows them.
    """

    def __init__(self, connection: socket.socket, deadline: float, max_bytes: int):
        self._connection = connection
        self._deadline = deadline
        self._bytes_left = max_bytes

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._connection.settimeout(_seconds_until(self._deadline))
            view = view[self._connection.send(view) :]

    def receive_into(self, buffer: Any) -> int:
        self._connection.settimeout(_seconds_until(self._deadline))
        received = self._connection.recv_into(buffer)
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise ResponseTooLong
        return received

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Does nothing. `http.client` closes the socket before it has read the response; `HttpConnection` closes it."""


class _Reader(io.RawIOBase):
    def __init__(self, source: _LimitedSocket):
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.receive_into(buffer)


def _connect(host: str, port: int, tls: ssl.SSLContext | None, deadline: float) -> socket.socket:
    """Returns a socket that is connected to the first address of a host that accepts a connection."""
    failure: Exception = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in _look_up(host, port, deadline):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_seconds_until(deadline))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is None:
                return connection
            connection.settimeout(_seconds_until(deadline))  # of the whole handshake
            return tls.wrap_socket(connection, server_hostname=host)
        except (OSError, ValueError) as error:  # a ValueError of a name for which no certificate is possible
            failure = error
            connection.close()
    raise failure


def _look_up(host: str, port: int, deadline: float) -> list[tuple]:
    """Returns the addresses of a host, as `socket.getaddrinfo` does. A lookup has no timeout, so a thread runs it."""
    results: queue.SimpleQueue = queue.SimpleQueue()

    def look_up():
        try:
            results.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            results.put(OSError(f"{host} has no address: {error}"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = results.get(timeout=_seconds_until(deadline))
    except queue.Empty:
        raise TimeoutError(f"the lookup of {host} takes too long") from None
    if isinstance(result, OSError):
        raise result
    return result


def _is_readable(connection: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
