"""URLs, JSON and HTTP statuses of TensorFlow Serving for a `ModelDouble`. Part of `server_double`."""

import base64
import binascii
import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
import urllib.parse

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from model_double import Refusal
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2

Code = grpc.StatusCode
_MODEL = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICT = re.compile(_MODEL + ":predict", re.IGNORECASE)
_MODEL_OR_METADATA = re.compile(_MODEL + "(?:/(metadata))?", re.IGNORECASE)
_STATUSES = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}


class RestServer(http.server.ThreadingHTTPServer):
    """HTTP server with one thread per connection."""

    daemon_threads = True

    def __init__(self, double, port, certificate, key, client_roots):
        super().__init__(("127.0.0.1", port), _Handler)
        self.double = double
        self._open = set()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if client_roots:
                context.load_verify_locations(client_roots)
                context.verify_mode = ssl.CERT_REQUIRED
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Ignores clients that close the connection."""

    def stop(self):
        self.shutdown()
        self._thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self._reply(self._get)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply(lambda: self._predict(body))

    def _get(self):
        parts = _MODEL_OR_METADATA.fullmatch(self.path)
        if parts is None:
            raise Refusal(Code.INVALID_ARGUMENT, f"Malformed request: GET {self.path}")
        double = self.server.double
        if parts[4] is None:
            request = get_model_status_pb2.GetModelStatusRequest()
            _fill(request.model_spec, *parts.groups()[:3])
            return json_format.MessageToJson(double.status(request), always_print_fields_with_no_presence=True)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        _fill(request.model_spec, *parts.groups()[:3])
        response = double.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec, signatures = (
            json_format.MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for message in (response.model_spec, signatures)
        )
        return json.dumps({"model_spec": spec, "metadata": {"signature_def": signatures}})

    def _predict(self, body):
        parts = _PREDICT.fullmatch(self.path)
        if parts is None:
            raise Refusal(Code.INVALID_ARGUMENT, f"Malformed request: POST {self.path}")
        request = predict_pb2.PredictRequest()
        _fill(request.model_spec, *parts.groups())
        rows = _read_request(body, request, self.server.double.signature_inputs)
        return _write_outputs(self.server.double.predict(request).outputs, rows)

    def _reply(self, answer):
        status = 200
        if not self.path.lower().startswith("/v1/"):
            self.send_error(404)
            return
        try:
            text = answer()
        except Refusal as refusal:
            status, text = _STATUSES.get(refusal.code, 500), json.dumps({"error": refusal.message})
        except ConnectionAbortedError:
            self.close_connection = True
            return
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Logs nothing."""


def _fill(spec, name, version, label):
    spec.name = urllib.parse.unquote(name)
    if version is not None:
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = urllib.parse.unquote(label)


def _invalid(message):
    return Refusal(Code.INVALID_ARGUMENT, message)


def _read_request(body, request, inputs_of):
    """Fills a request from JSON. Returns whether it has rows ("instances"), so that the answer needs rows, too."""
    try:
        body = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise _invalid(f"JSON Value: {str(body)[:256]} Is not object")
    if "signature_name" in body:
        request.model_spec.signature_name = body["signature_name"]
    infos = inputs_of(request.model_spec)
    if "instances" in body and "inputs" in body:
        raise _invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in body:
        values = _columns(body["instances"], infos)
    elif "inputs" in body:
        values = body["inputs"]
        if not isinstance(values, dict) or _is_base64(values):
            if len(infos) > 1:
                raise _invalid(
                    "inputs is a plain value/list, but expecting an object as multiple input tensors required"
                )
            values = {next(iter(infos)): values}
    else:
        raise _invalid("Missing 'inputs' or 'instances' key")
    for name, info in infos.items():
        if name not in values:
            raise _invalid(f"Missing named input: {name} in 'inputs' object.")
        request.inputs[name].CopyFrom(_read_tensor(values[name], tf.as_dtype(info.dtype)))
    return "instances" in body


def _columns(rows, infos):
    """Converts `instances` to `inputs`."""
    if not isinstance(rows, list):
        raise _invalid("Expecting 'instances' to be an list/array")
    if not rows:
        raise _invalid("No values in 'instances' array")
    if isinstance(rows[0], dict) and not _is_base64(rows[0]):
        return {name: [row[name] for row in rows] for name in infos}
    if len(infos) > 1:
        raise _invalid("instances is a plain list, but expecting list of objects as multiple input tensors required")
    return {next(iter(infos)): rows}


def _is_base64(value):
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _read_tensor(value, dtype):
    """Converts nested lists to a TensorProto. The shape is that of the first element of every list."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves = []
    _gather(value, shape, 0, leaves)
    if dtype == tf.string:
        return tensor_pb2.TensorProto(
            dtype=dtype.as_datatype_enum,
            tensor_shape=tf.TensorShape(shape).as_proto(),
            string_val=[_read_string(leaf) for leaf in leaves],
        )
    for leaf in leaves:
        if isinstance(leaf, bool) or not isinstance(leaf, int if dtype.is_integer else (int, float)):
            raise _invalid(f"JSON Value: {str(leaf)[:256]} is not of expected type: {dtype.name}")
    return tf.make_tensor_proto(np.array(leaves).astype(dtype.as_numpy_dtype).reshape(shape))


def _gather(value, shape, level, leaves):
    if not isinstance(value, list):
        if level != len(shape):
            raise _invalid(
                f"JSON Value: {str(value)[:256]} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                f"level: {len(shape)}"
            )
        leaves.append(value)
        return
    if level >= len(shape):
        raise _invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise _invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _gather(item, shape, level + 1, leaves)


def _read_string(leaf):
    if isinstance(leaf, str):
        return leaf.encode()
    if not _is_base64(leaf):
        raise _invalid(f"JSON Value: {str(leaf)[:256]} not formatted correctly for base64 data")
    try:
        return base64.b64decode(leaf["b64"], validate=True)
    except binascii.Error as error:
        raise _invalid("Unable to base64 decode") from error


def _write_outputs(outputs, rows):
    texts = {}
    for name, tensor in sorted(outputs.items()):
        array = tf.make_ndarray(tensor)
        texts[name] = [_text(row, name) for row in array] if rows else _text(array, name)
    if rows:
        by_row = zip(*texts.values(), strict=True)
        named = (
            ", ".join(f"{json.dumps(name)}: {text}" for name, text in zip(texts, row, strict=True)) for row in by_row
        )
        items = texts[next(iter(texts))] if len(texts) == 1 else [f"{{{text}}}" for text in named]
        return f'{{"predictions": [{", ".join(items)}]}}'
    whole = ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items())
    return f'{{"outputs": {next(iter(texts.values())) if len(texts) == 1 else f"{{{whole}}}"}}}'


def _text(value, name):
    if isinstance(value, np.ndarray) and value.ndim:
        return f"[{', '.join(_text(item, name) for item in value)}]"
    value = value.item() if isinstance(value, np.ndarray) else value
    if isinstance(value, bytes):
        return json.dumps({"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode())
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return decimal(np.float32(value))


def decimal(value):
    """Formats a float32 as the server does: with six digits if they restore the number, otherwise with nine."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if np.float32(text) != value:
        text = f"{value:.9g}"
    return text if "." in text or "e" in text else f"{text}.0"
