"""A test double of TensorFlow Serving's model server, and not the server: gRPC and REST over models that Python loads.

    python tests/serving/server_double.py models --name faces --grpc-port 8500 --rest-port 8501 --label stable=1

It imitates, from the server's source: the layout `BASE/NAME/<version>/`, polled, with the newest versions loaded before
others are unloaded; versions and labels; Predict, GetModelMetadata, GetModelStatus and their REST forms; the status
codes and the wording of errors up to where the model runs; numbers as fields, not as bytes, in gRPC's answers, and in
JSON the digits that the server prints; TLS. Tests may make it fail, wait or hang up.

It does not: batching across requests, warm-up, model.config and its reloading, Classify and Regress, loading again
after a failed load; the wording of errors from inside a model; the wait of a starting server for its first version,
without which the real one opens no port; speed. REST by TLS is what a proxy does for the real server.
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
    """One model, served by gRPC and REST on this machine. A context manager.

    Args:
        base: the folder that holds `name/<version>/`.
        name: the model's.
        labels: label -> version.
        latest: how many of the newest versions to load; None for all.
        poll_seconds: between two looks at the disk.
        grpc_port, rest_port: 0 for any that is free.
        certificate, key: PEM files, for TLS on both.
        client_roots: a PEM file, if clients are to have certificates too.

    Attributes:
        grpc, rest: the addresses, for `FaceClient`.
        delay: seconds by which every Predict is answered later.
        predicted: (signature, rows, version asked for) of every Predict that came in, those made to fail included.
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
    ):
        super().__init__(base, name, labels, latest, poll_seconds)
        self._grpc, port = _start_grpc(self, grpc_port, certificate, key, client_roots)
        self.grpc = f"{'grpcs' if certificate else 'grpc'}://127.0.0.1:{port}"
        self._rest = RestServer(self, rest_port, certificate, key, client_roots)
        self.rest = f"{'https' if certificate else 'http'}://127.0.0.1:{self._rest.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self):
        """Stops at once, and hangs up on everyone."""
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
    parser.add_argument("base", type=Path, help="folder that holds NAME/<version>/")
    parser.add_argument("--name", default="faces", help="of the model (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8500, help="0: any (default: %(default)s)")
    parser.add_argument("--rest-port", type=int, default=8501, help="0: any (default: %(default)s)")
    parser.add_argument("--label", action="append", default=[], metavar="LABEL=VERSION")
    parser.add_argument("--latest", type=int, default=1, help="how many versions to serve; 0: all (default: 1)")
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
