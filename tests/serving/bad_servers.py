"""Servers on this machine that answer with given bytes, at a given speed, or not at all."""

import concurrent.futures
import contextlib
import http.server
import socket
import threading

import grpc


class listening:
    """Context manager of an HTTP server with a handler. It returns the address."""

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


class SocketServer:
    """Context manager of a server that handles each connection with a function `handle(connection, stopping)`.

    `stopping` is a `threading.Event`: `stopping.wait(seconds)` is a pause that ends when the server stops.

    Attributes:
        port: port of the server.
        connections: number of connections so far.
    """

    def __init__(self, handle):
        self._handle = handle
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._open = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *exception):
        self._stopping.set()
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._threads.append(threading.Thread(target=self._run, args=(connection,)))
            self._threads[-1].start()

    def _run(self, connection):
        connection.settimeout(20)
        with connection, contextlib.suppress(OSError):
            self._handle(connection, self._stopping)
        self._open.discard(connection)


def read_request(connection):
    """Reads an HTTP request and returns its bytes."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(1 << 16)
        if not received:
            raise ConnectionError("no request")
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def answer_once(answer):
    """Returns a handler that reads a request, sends the answer, and closes the connection."""

    def handle(connection, stopping):
        read_request(connection)
        connection.sendall(answer)

    return handle


def answer_first_stream(settings, answer):
    """Returns a handler that sends an HTTP/2 server's settings, and the answer after the headers of a request."""

    def handle(connection, stopping):
        connection.sendall(settings)
        stream = connection.makefile("rb")
        stream.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        while head := stream.read(9):
            stream.read(int.from_bytes(head[:3]))
            if head[3] == 1:
                connection.sendall(answer)

    return handle


@contextlib.contextmanager
def grpc_server(answer, **options):
    """Context manager of a gRPC server whose methods all call `answer(method name, context)`, which returns bytes."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, call):
            name = call.method.rpartition("/")[2]
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(name, context))

    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(2),
        [Handler()],
        options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)],
        **options,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()
