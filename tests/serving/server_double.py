"""Test double of TensorFlow Serving: serves models that Python loads over gRPC and REST.

    python tests/serving/server_double.py models --name faces --grpc-port 8500 --rest-port 8501 --label stable=1

It imitates the source of the server: the directories `BASE/NAME/<version>/`, which it polls, with new versions loaded
before old ones are unloaded; versions and labels; Predict, GetModelMetadata, GetModelStatus and their REST forms; the
status codes and texts of errors outside the model; numbers as fields instead of bytes in gRPC answers, and the server's
number of digits in JSON; TLS; reloading of versions and labels from a file. Tests can make it fail, delay its answers,
or close connections.

It does not imitate: batching across requests, warm-up, Classify and Regress, retries of failed loads, texts of errors
inside a model, the real server's closed port before the first version is loaded, speed. For a real server, REST over
TLS needs a proxy.
"""

import argparse
import concurrent.futures
import signal
import threading
from pathlib import Path

import grpc
from model_double import ModelDouble
from model_double import Refusal
from rest_double import RestServer
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc


class ServerDouble(ModelDouble):
    """Context manager that serves one model over gRPC and REST on this machine.

    Args:
        base: folder with `name/<version>/`.
        name: name of the model.
        labels: `{label: version}`.
        latest: number of newest versions to load. None: all.
        poll_seconds: polling interval of the folder.
        grpc_port, rest_port: 0 for a free port.
        certificate, key: PEM files for TLS on both ports.
        client_roots: PEM file, if clients must have certificates.
        config: file with a ModelServerConfig for this model, whose base path is `/models/name`. It is read whenever the
            folder is polled, and replaces `labels` and `latest`.

    Attributes:
        config_error: why the last configuration was refused, or None.
        grpc, rest: addresses for `FaceClient`.
        delay: delay of every answer to Predict, in seconds.
        predicted: (signature, rows, requested version) of every Predict, including failed ones.
    """

    def __init__(
        self,
        base,
        name="faces",
        labels=None,
        latest=1,
        poll_seconds=1.0,
        grpc_port=0,
        rest_port=0,
        certificate=None,
        key=None,
        client_roots=None,
        config=None,
    ):
        super().__init__(base, name, labels, latest, poll_seconds, config)
        self._grpc, port = _start_grpc(self, grpc_port, certificate, key, client_roots)
        self.grpc = f"{'grpcs' if certificate else 'grpc'}://127.0.0.1:{port}"
        self._rest = RestServer(self, rest_port, certificate, key, client_roots)
        self.rest = f"{'https' if certificate else 'http'}://127.0.0.1:{self._rest.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self):
        """Stops immediately and closes all connections."""
        super().stop()
        self._grpc.stop(grace=None).wait()
        self._rest.stop()


def _start_grpc(double, port, certificate, key, client_roots):
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Predictions(double), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(double), server)
    if certificate:
        pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
        roots = Path(client_roots).read_bytes() if client_roots else None
        credentials = grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, double):
        self._double = double

    def Predict(self, request, context):
        return _answer(self._double.predict, request, context)

    def GetModelMetadata(self, request, context):
        return _answer(self._double.metadata, request, context)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, double):
        self._double = double

    def GetModelStatus(self, request, context):
        return _answer(self._double.status, request, context)


def _answer(method, request, context):
    try:
        return method(request)
    except Refusal as refusal:
        code, message = refusal.code, refusal.message
    except ConnectionAbortedError:
        code, message = grpc.StatusCode.UNAVAILABLE, "Socket closed"
    context.abort(code, message if len(message) <= 1024 else f"{message[:1024]}...TRUNCATED")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("base", type=Path, help="folder with NAME/<version>/")
    parser.add_argument("--name", default="faces", help="name of the model (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8500, help="0: a free port (default: %(default)s)")
    parser.add_argument("--rest-port", type=int, default=8501, help="0: a free port (default: %(default)s)")
    parser.add_argument("--label", action="append", default=[], metavar="LABEL=VERSION")
    parser.add_argument("--latest", type=int, default=1, help="number of versions to serve; 0: all (default: 1)")
    parser.add_argument("--poll", type=float, default=1.0, metavar="SECONDS", help="(default: %(default)s)")
    arguments = parser.parse_args()
    labels = {label: int(version) for label, _, version in (text.rpartition("=") for text in arguments.label)}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ServerDouble(
        arguments.base,
        arguments.name,
        labels,
        latest=arguments.latest or None,
        poll_seconds=arguments.poll,
        grpc_port=arguments.grpc_port,
        rest_port=arguments.rest_port,
    ) as double:
        print(f"A test double of TensorFlow Serving: {double.grpc} {double.rest}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
