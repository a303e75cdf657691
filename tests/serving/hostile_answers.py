"""Answers of a server that is broken, of another kind, or hostile, and the errors of the client.

    python tests/serving/hostile_answers.py

prints for each answer the error, the seconds, and the memory (with the server, which runs in the same process). It
counts the errors that are not a `ServingError`. `client/test_hostile_answers.py` tests the same answers.
"""

import argparse
import dataclasses
import gzip
import json
import struct
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import bad_servers
import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2

sys.path.append(str(Path(__file__).parents[1]))
import peak_memory

from keras_arcface.serving import FaceClient
from keras_arcface.serving import ServingError
from keras_arcface.serving.client.endpoint import TimeLimit

IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
VERSION = 1
ROWS = [[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
NORMS = [2.0, 3.0]
GOOD = {"embedding": ROWS, "norm": NORMS}

CALLS = {
    "embed": lambda client: client.embed(IMAGES),
    "embed bytes": lambda client: client.embed([b"a", b"b"]),
    "metadata": lambda client: client.metadata(),
    "threshold": lambda client: client.threshold(1e-3),
    "status": lambda client: client.status(),
    "version": lambda client: client.wait_until_ready(0.5),
    "signatures": lambda client: client._endpoint.signatures(VERSION, TimeLimit(2)),
    "load errors": lambda client: client._endpoint.version_errors(TimeLimit(2)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """An answer to one call.

    Attributes:
        name: what is wrong with the answer.
        call: key of `CALLS`.
        answer: for REST, the bytes on the connection. For gRPC, a message, a function of the context that returns one,
            `Frames`, or a `Connection`.
        accepted: whether the client returns a result.
    """

    name: str
    call: str
    answer: bytes | Callable
    accepted: bool = False


# REST


def http(content, status="200 OK", headers=("Content-Type: application/json",), length=None):
    """Returns an HTTP response with this content."""
    if not isinstance(content, bytes):
        content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(content) if length is None else length}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def outputs(**changes):
    """Returns the response with good outputs, some of them replaced or, if None, removed."""
    changed = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return http({"outputs": changed})


def raw(text):
    """Returns the response with good outputs, the embedding replaced by JSON text."""
    return http(f'{{"outputs": {{"embedding": {text}, "norm": [1.0, 1.0]}}}}')


def described(metadata):
    return http({"outputs": [metadata if isinstance(metadata, str) else json.dumps(metadata)]})


def point(**values):
    return described({"thresholds": {"0.001": {"threshold": 0.5} | values}})


def chunked(*chunks):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


def _rest():
    good = json.dumps({"outputs": GOOD}).encode()
    state = {"version": "1", "state": "AVAILABLE"}
    info = {"model_spec": {"version": "1"}, "metadata": {"signature_def": {"signature_def": {}}}}
    status = {
        "version": lambda value: http({"model_version_status": [state | {"version": value}]}),
        "state": lambda value: http({"model_version_status": [state | {"state": value}]}),
    }
    yield Case("good", "embed", http(good), accepted=True)
    yield Case("other content type", "embed", http(good, headers=("Content-Type: text/html",)), accepted=True)
    yield Case("additional output", "embed", outputs(extra=[[1]]), accepted=True)
    yield Case("whole numbers", "embed", outputs(embedding=[[1, 0], [0, 1]]), accepted=True)
    yield Case("HTTP 0.9", "embed", good)
    yield Case("HTTP 3", "embed", b"HTTP/3.0 200 OK\r\n\r\n" + good)
    yield Case("HTTP 1.0 without length", "embed", b"HTTP/1.0 200 OK\r\n\r\n" + good, accepted=True)
    yield Case("continue first", "embed", b"HTTP/1.1 100 Continue\r\n\r\n" + http(good), accepted=True)
    # Content
    yield Case("empty content", "embed", http(""))
    yield Case("not UTF-8", "embed", http(b'{"outputs": "\xff\xfe"}'))
    yield Case("UTF-16", "embed", http(good.decode().encode("utf-16")))
    yield Case("truncated JSON", "embed", http(good[:-8]))
    yield Case("HTML", "embed", http("<html>" * 1000))
    for text in ("null", "[]", "1", '"text"', "NaN", "{}", '{"outputs": null}', '{"outputs": []}', '{"outputs": {}}'):
        yield Case(f"JSON {text}", "embed", http(text))
    yield Case("nested lists", "embed", http("[" * 10_000))
    yield Case("many nested lists", "embed", http("[" * 100_000))
    yield Case("nested embedding", "embed", raw("[" * 900 + "]" * 900))
    yield Case("nested objects", "embed", http('{"a":' * 100_000))
    yield Case("a million lists", "embed", raw(f"[{'[],' * 10**6}[]]"))
    yield Case("lists in a row", "embed", raw(f"[[{'[],' * 4000}[]], [1]]"))
    yield Case("long", "embed", http(b'{"outputs": "' + b" " * 2**25 + b'"}'))
    yield Case("an integer of 10,000 digits", "embed", raw(f"[[{'9' * 10_000}], [1]]"))
    yield Case("an integer of 400 digits", "embed", raw(f"[[{'9' * 400}], [1]]"))
    for number in ("1e999", "-1e999", "NaN", "Infinity", "1e300", "1e39", "0.5", "1.01"):
        yield Case(f"number {number}", "embed", raw(f"[[{number}], [1]]"))
    # Outputs
    for name in GOOD:
        yield Case(f"no {name}", "embed", outputs(**{name: None}))
        wrong = ("text", 1, True, {"a": 1}, {}, [], [None, None], ["1", "2"], [[], []], [[1.0]], [True, False])
        for value in (*wrong, [{}, {}], [[1.0], [1.0, 0.0]], [[[1.0]], [[1.0]]], [1.0, [1.0]]):
            yield Case(f"{name} {json.dumps(value)}", "embed", outputs(**{name: value}))
    for value in ([["0.6", "0.8"], ["1", "0"]], [[None], [1.0]], [[True], [True]], [[{}], [{}]]):
        yield Case(f"embedding {json.dumps(value)}", "embed", outputs(embedding=value))
    yield Case("three rows", "embed", outputs(embedding=[*ROWS, ROWS[0]]))
    yield Case("one row", "embed", outputs(embedding=ROWS[:1], norm=NORMS[:1]))
    yield Case("zero rows", "embed", outputs(embedding=[[0.0], [1.0]], norm=[0.0, 1.0]))
    yield Case("10,000 numbers", "embed", outputs(embedding=[[0.01] * 10_000] * 2))
    yield Case("norm NaN", "embed", http('{"outputs": {"embedding": [[1], [1]], "norm": [NaN, 1]}}'))
    yield Case("norm negative", "embed", outputs(norm=[-1.0, 1.0]))
    for value in ([1, 1], ["true", "true"], [None, None], [0.5, 1.0], True, [[True], [True]], [True]):
        yield Case(f"valid {json.dumps(value)}", "embed bytes", outputs(valid=value))
    yield Case("no valid", "embed bytes", outputs())
    yield Case("embedding of an invalid image", "embed bytes", outputs(valid=[True, False]))
    # HTTP
    for code in (101, 199, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 399, 400, 404, 418, 500, 502, 599, 999):
        yield Case(f"HTTP {code}", "embed", http(good, status=f"{code} Odd"))
    for error in (
        {"error": None},
        {"error": {"a": []}},
        {"error": "x" * 10**5},
        {"error": "\x1b[2J\nroot: \ud800"},
        [],
    ):
        yield Case(f"HTTP 400 {json.dumps(error)[:30]}", "embed", http(error, status="400 Bad Request"))
    for target in ("http://user:secret@elsewhere/?token=secret", "http://[", "", "//", "/v1", "http://a" + "a" * 9999):
        redirect = (f"Location: {target}",)
        yield Case(f"redirect to {target[:40]}", "embed", http("", status="307 Temporary", headers=redirect))
    yield Case("negative status", "embed", http(good, status="-200 OK"))
    yield Case("status text", "embed", http(good, status="OK"))
    yield Case("no status line", "embed", b"\r\n\r\n\r\n")
    yield Case("binary", "embed", bytes(range(256)) * 100)
    yield Case("TLS alert", "embed", b"\x15\x03\x01\x00\x02\x02\x0a")
    yield Case(
        "gRPC", "embed", b"\0\0\x18\x04\0\0\0\0\0\0\x04\0?\xff\xff\0\x05\0?\xff\xff\0\x06\0\0 \0\xfe\x03\0\0\0\1"
    )
    yield Case("no answer", "embed", b"")
    yield Case("half a status line", "embed", b"HTTP/1.1 20")
    yield Case("half of the headers", "embed", b"HTTP/1.1 200 OK\r\nContent-")
    yield Case("long header", "embed", b"HTTP/1.1 200 OK\r\nA: " + b"a" * 2**20)
    yield Case("many headers", "embed", b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 1000 + b"\r\n" + good)
    yield Case("headers without end", "embed", b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 10**6)
    yield Case("continue without end", "embed", b"HTTP/1.1 100 Continue\r\n\r\n" * 10**6)
    for length in (len(good) + 1, len(good) - 1, 10**18):
        yield Case(f"Content-Length {length}", "embed", http(good, length=length))
    for length in (-1, "x", "9" * 5000):  # http.client ignores these, and reads until the connection is closed
        yield Case(f"Content-Length {str(length)[:9]}", "embed", http(good, length=length), accepted=True)
    yield Case("chunks", "embed", chunked(b"%x\r\n" % len(good) + good + b"\r\n0\r\n\r\n"), accepted=True)
    for size in (b"x", b"", b"-1", b"-5", b"F" * 40, b"F" * 10**5, b"7fffffffffffffff"):
        yield Case(f"chunk of {size[:20].decode()}", "embed", chunked(size + b"\r\n" + good + b"\r\n0\r\n\r\n"))
    yield Case("chunk without end", "embed", chunked(b"%x\r\n" % len(good) + good))
    yield Case("long trailer", "embed", chunked(b"0\r\n" + b"a: a\r\n" * 10**6))
    bomb = gzip.compress(bytes(2**20), 9) * 2**8  # members of a gzip file follow each other
    for encoding in ("gzip", "deflate", "br", "x", "gzip, gzip"):
        headers = (f"Content-Encoding: {encoding}",)
        yield Case(f"{encoding} of 256 MiB", "embed", http(bomb, headers=headers))
    # Metadata, versions and states
    for metadata in (
        "",
        "null",
        "[]",
        "[[]]",
        "1",
        "{",
        "[" * 10**5,
        "[" + "[]," * 10**5 + "[]]",
        '{"thresholds": [1]}',
    ):
        yield Case(f"metadata {metadata[:20]}", "metadata", described(metadata))
    yield Case("metadata as an object", "metadata", http({"outputs": [{"a": 1}]}))
    yield Case("metadata as a number", "metadata", http({"outputs": [1]}))
    yield Case("two metadata", "metadata", http({"outputs": ["{}", "{}"]}))
    yield Case("no metadata", "metadata", http({"outputs": []}))
    yield Case("good threshold", "threshold", point(), accepted=True)
    for value in ("0.5", None, True, 2, -2, 10**400, [], {}, float("nan"), float("inf")):
        yield Case(f"threshold {str(value)[:9]}", "threshold", point(threshold=value))
    for changes in ({"far": 2}, {"tar": "x"}, {"impostors": -1}, {"far_interval": [1]}, {"far_interval": ["a", "b"]}):
        yield Case(f"operating point {changes}", "threshold", point(**changes))
    for thresholds in (
        {"x": {}},
        {"nan": {"threshold": 0}},
        {"5": {"threshold": 0}},
        {"0.1": 0.5},
        {"0.001": None},
        {"x" * 10**5: 1},
    ):
        yield Case(f"thresholds {str(thresholds)[:40]}", "threshold", described({"thresholds": thresholds}))
    yield Case("good status", "status", http({"model_version_status": [state]}), accepted=True)
    for value in ("x", "-1", "1.0", "9" * 30, "9" * 5000, "", " 1", "\u0661", None, 1.5, True, [], {}):
        yield Case(f"status of version {str(value)[:9]!r}", "status", status["version"](value))
    for value in ("GOOD", None, 1, [], {}):
        yield Case(f"state {value!r}", "status", status["state"](value))
    for value in (None, {}, 1, "x", [None], [1], [[]], [{}]):
        yield Case(f"states {value!r}", "status", http({"model_version_status": value}))
    yield Case("good version", "version", http(info), accepted=True)
    for value in (2, "2", None, {}, {"version": None}, {"version": "x"}, {"version": "2"}, {"version": -1}):
        yield Case(f"version {value!r}", "version", http(info | {"model_spec": value}))
    for value in (None, [], 1, {"signature_def": None}, {"signature_def": {"signature_def": 5}}):
        yield Case(f"signatures {value!r}", "version", http(info | {"metadata": value}))
    spec = {"dtype": "DT_UINT8", "tensor_shape": {"dim": [{"size": "-1"}, {"size": 112}], "unknown_rank": False}}

    def described_signature(inputs):
        signatures = {"serving_default": {"inputs": inputs, "outputs": {}}}
        return http(info | {"metadata": {"signature_def": {"signature_def": signatures}}})

    for good_spec in (spec, spec | {"tensor_shape": {"unknown_rank": True}}, spec | {"tensor_shape": {}}):
        case = described_signature({"images": good_spec})
        yield Case(f"signature with {good_spec['tensor_shape']}", "signatures", case, accepted=True)
    for value in (None, 1, [], [spec], {"images": None}, {"images": {}}, {"images": {"dtype": "DT_UINT8"}}):
        yield Case(f"inputs {str(value)[:30]}", "signatures", described_signature(value))
    for value in (None, 1, []):
        yield Case(f"type {value}", "signatures", described_signature({"images": spec | {"dtype": value}}))
    for value in ("x", 1, [1], {"dim": 1}, {"dim": [1]}, {"dim": [{}]}):
        yield Case(f"shape {value}", "signatures", described_signature({"images": spec | {"tensor_shape": value}}))
    for value in ("x", "-2", -2, 1.5, None, True, "9" * 5000):
        shape = {"tensor_shape": {"dim": [{"size": value}]}}
        yield Case(f"size {str(value)[:9]!r}", "signatures", described_signature({"images": spec | shape}))
    for value in (None, 1, "x", {"signature_def": []}, {"signature_def": {"signature_def": {"a": None}}}):
        yield Case(f"signatures with {value!r}", "signatures", http(info | {"metadata": value}))
    for value in (None, 1, [], {}, {"error_message": None}, {"error_message": ""}, {"error_message": "x\x1b" * 9999}):
        content = {"model_version_status": [state | {"status": value}]}
        yield Case(f"status {str(value)[:30]}", "load errors", http(content), accepted=True)
    for value in (None, {}, [None], [{}], [{"version": "x", "status": {"error_message": "x"}}]):
        yield Case(f"statuses {value!r}", "load errors", http({"model_version_status": value}))


# gRPC


def tensor(values, dtype=tf.float32, shape=None, **fields):
    """Returns a TensorProto with values in the field of its type."""
    values = np.asarray(values, object if dtype == tf.string else dtype.as_numpy_dtype)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **fields)
    for size in values.shape if shape is None else shape:
        proto.tensor_shape.dim.add(size=size)
    names = {tf.float32: "float_val", tf.float64: "double_val", tf.int32: "int_val", tf.bool: "bool_val"}
    names |= {tf.string: "string_val", tf.float16: "half_val", tf.int64: "int64_val"}
    flat = values.view(np.uint16) if dtype == tf.float16 else values
    getattr(proto, names[dtype]).extend(flat.ravel().tolist())
    return proto


def predicted(version=VERSION, **changes):
    """Returns a function that answers with good outputs, some of them replaced or, if None, removed."""
    response = predict_pb2.PredictResponse()
    if version is not None:
        response.model_spec.version.value = version
    for name, value in ({"embedding": tensor(ROWS), "norm": tensor(NORMS)} | changes).items():
        if value is not None:
            response.outputs[name].CopyFrom(value)
    return response.SerializeToString()


def with_content(content, **changes):
    embedding = tensor([], shape=(2, 3), tensor_content=content)
    return predicted(**({"embedding": embedding} | changes))


def grpc_metadata(text, **changes):
    return predicted(embedding=None, norm=None, metadata=tensor([text], tf.string, **changes))


def grpc_status(version=1, state=30):
    response = get_model_status_pb2.GetModelStatusResponse()
    response.model_version_status.add(version=version, state=state)
    return response.SerializeToString()


def grpc_load_error(version=1, message="Op type not registered"):
    response = get_model_status_pb2.GetModelStatusResponse()
    response.model_version_status.add(version=version, state=50).status.error_message = message
    return response.SerializeToString()


def grpc_signature(*sizes, dtype=4, unknown_rank=False):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    images = signatures.signature_def["serving_default"].inputs["images"]
    images.dtype, images.tensor_shape.unknown_rank = dtype, unknown_rank
    for size in sizes:
        images.tensor_shape.dim.add(size=size)
    packed = any_pb2.Any()
    packed.Pack(signatures)
    return grpc_version(value=packed)


def grpc_version(version=VERSION, value=None, key="signature_def"):
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    if version is not None:
        response.model_spec.version.value = version
    if value is None:
        value = any_pb2.Any()
        value.Pack(get_model_metadata_pb2.SignatureDefMap())
    response.metadata[key].CopyFrom(value)
    return response.SerializeToString()


class Connection(bytes):
    """Bytes that a server sends on a connection, instead of a message of gRPC."""


class Frames(bytes):
    """Frames of HTTP/2 that a server sends after the first headers of a request, instead of a message of gRPC."""


def http2(headers):
    """Returns the frames of an HTTP/2 server that answers the first request with these headers only."""
    headers = {b":status": b"200", b"content-type": b"application/grpc"} | headers
    block = b"".join(
        b"\x00" + b"".join(_hpack_length(len(text)) + text for text in header) for header in headers.items()
    )
    return Frames(_frame(block, kind=1, flags=5, stream=1))  # headers: the end of the headers and of the stream


def _frame(content, kind, flags, stream):
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


_SETTINGS = _frame(b"", 4, 0, 0) + _frame(b"", 4, 1, 0)  # settings, and the acknowledgment of the client's


def _hpack_length(length):
    if length < 127:
        return bytes([length])
    length, result = length - 127, b"\x7f"
    while length >= 128:
        length, result = length >> 7, result + bytes([length & 127 | 128])
    return result + bytes([length])


def compressed(length):
    def answer(context):
        context.set_compression(grpc.Compression.Gzip)
        return bytes(length)

    return answer


def abort(code, details="", trailers=()):
    def answer(context):
        context.set_trailing_metadata(trailers)
        context.abort(code, details)

    return answer


def _grpc():
    good = np.array(ROWS, "<f4").tobytes()
    yield Case("good", "embed", predicted(), accepted=True)
    yield Case("good content", "embed", with_content(good), accepted=True)
    yield Case("additional output", "embed", predicted(extra=tensor([1], shape=(10**9,))), accepted=True)
    yield Case("good valid", "embed bytes", predicted(valid=tensor([True, True], tf.bool)), accepted=True)
    valid_content = tensor([], tf.bool, (2,), tensor_content=b"\1\1")
    yield Case("valid as content", "embed bytes", predicted(valid=valid_content), accepted=True)
    yield Case("empty message", "embed", b"")
    yield Case("garbage", "embed", b"\xff" * 100)
    yield Case("truncated", "embed", predicted()[:-3])
    yield Case("HTML", "embed", b"<html>" * 100)
    yield Case("long", "embed", bytes(2**25))
    yield Case("compressed 32 MiB", "embed", compressed(2**25))
    for name in GOOD:
        yield Case(f"no {name}", "embed", predicted(**{name: None}))
        for dtype in (tf.float64, tf.int32, tf.bool, tf.string, tf.float16, tf.int64):
            values = np.full(np.shape(GOOD[name]), b"1" if dtype == tf.string else 1)
            yield Case(f"{name} {dtype.name}", "embed", predicted(**{name: tensor(values, dtype)}))
        yield Case(f"{name} type 0", "embed", predicted(**{name: tensor_pb2.TensorProto()}))
        yield Case(f"{name} type 999", "embed", predicted(**{name: tensor_pb2.TensorProto(dtype=999)}))
        shapes = ((), (2,), (2, 0), (0, 3), (2, -1), (-2, -3), (3, 2), (2, 3, 1), (1,) * 1000, (2**62, 4), (2, 2**62))
        for shape in shapes:
            if shape != np.shape(GOOD[name]):
                changed = tensor(np.ravel(GOOD[name]), shape=shape)
                yield Case(f"{name} of shape {shape[:5]}", "embed", predicted(**{name: changed}))
        unknown = tensor(GOOD[name])
        unknown.tensor_shape.unknown_rank = True
        yield Case(f"{name} of unknown rank", "embed", predicted(**{name: unknown}))
    yield Case("one value for (2, 3e8)", "embed", predicted(embedding=tensor([1], shape=(2, 3 * 10**8))))
    yield Case("one value for (2, 3)", "embed", predicted(embedding=tensor([1], shape=(2, 3))))
    yield Case("no value for (2, 3e8)", "embed", predicted(embedding=tensor([], shape=(2, 3 * 10**8))))
    yield Case("more values than the shape", "embed", predicted(embedding=tensor([0.6] * 7, shape=(2, 3))))
    for length in (0, 1, 23, 25, 48):
        yield Case(f"content of {length} bytes", "embed", with_content((good * 2)[:length]))
    both = tensor(ROWS, tensor_content=good)
    yield Case("values and content", "embed", predicted(embedding=both))
    for value in (np.nan, np.inf, -np.inf, 3e38, 0.5, 0.0):
        wrong = tensor([[value, 0, 0], ROWS[1]])
        yield Case(f"number {value}", "embed", predicted(embedding=wrong))
    for value in (np.nan, np.inf, -1.0):
        yield Case(f"norm {value}", "embed", predicted(norm=tensor([value, 1])))
    for version in (None, 0, 2, -1, 2**63 - 1):
        yield Case(f"version {version}", "embed", predicted(version=version))
    yield Case("no valid", "embed bytes", predicted())
    for dtype in (tf.float32, tf.int32, tf.string):
        values = [b"1", b"1"] if dtype == tf.string else [1, 1]
        yield Case(f"valid {dtype.name}", "embed bytes", predicted(valid=tensor(values, dtype)))
    yield Case("valid (2, 1)", "embed bytes", predicted(valid=tensor([[True], [True]], tf.bool)))
    invalid = tensor([True, False], tf.bool)
    yield Case("embedding of an invalid image", "embed bytes", predicted(valid=invalid))
    # Status codes
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            yield Case(f"{code.name}", "embed", abort(code, "x" * 2000 + "\n\x1b[2J"))
    yield Case("trailers of 100 kB", "embed", abort(grpc.StatusCode.INTERNAL, "", (("a", "a" * 10**5),)))
    yield Case("details with emoji", "embed", abort(grpc.StatusCode.INTERNAL, "\U0001f600"))
    for code in (b"99", b"-1", b"x", b"", b"\xff", b"0"):
        yield Case(f"trailer grpc-status {code}", "embed", http2({b"grpc-status": code}))
    for details in (b"%ff%fe", b"\xff", b"%", b"a" * 4000):
        yield Case(f"trailer {details[:9]}", "embed", http2({b"grpc-status": b"13", b"grpc-message": details}))
    yield Case("no trailer", "embed", http2({}))
    yield Case("HTTP 404", "embed", http2({b":status": b"404", b"content-type": b"text/html"}))
    yield Case("HTTP 307", "embed", http2({b":status": b"307", b"location": b"http://elsewhere"}))
    for raw_bytes in (b"", b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(256)), b"\x15\x03\x01\x00\x02\x02\x0a"):
        yield Case(f"connection with {raw_bytes[:9]}", "embed", Connection(raw_bytes))
    # Metadata, versions and states
    for metadata in (b"", b"null", b"[]", b"1", b"{", b"[" * 10**5, b"\xff", b'{"thresholds": {"x": {}}}'):
        yield Case(f"metadata {metadata[:20]}", "metadata", grpc_metadata(metadata))
    yield Case("metadata (10^9,)", "metadata", grpc_metadata(b"{}", shape=(10**9,)))
    yield Case("metadata scalar", "metadata", grpc_metadata(b"{}", shape=()))
    yield Case("metadata float", "metadata", predicted(metadata=tensor([1])))
    content = tensor([], tf.string, (1,), tensor_content=b"{}")
    yield Case("metadata as content", "metadata", predicted(metadata=content))
    good_point = b'{"thresholds": {"0.001": {"threshold": 0.5}}}'
    yield Case("good threshold", "threshold", grpc_metadata(good_point), accepted=True)
    for value in (b'"0.5"', b"null", b"2", b"NaN", b"Infinity", b"1" * 5000, b"[]", b"true"):
        yield Case(f"threshold {value[:9]}", "threshold", grpc_metadata(good_point.replace(b"0.5", value)))
    yield Case("good status", "status", grpc_status(), accepted=True)
    for state in (5, 99, -1, 2**31 - 1):
        yield Case(f"state {state}", "status", grpc_status(state=state))
    yield Case("status of version -1", "status", grpc_status(version=-1))
    yield Case("status garbage", "status", b"\xff" * 9)
    yield Case("good version", "version", grpc_version(), accepted=True)
    for version in (None, 2, -1):
        yield Case(f"metadata of version {version}", "version", grpc_version(version))
    yield Case("no signatures", "version", grpc_version(key="x"))
    yield Case("signatures of another type", "version", grpc_version(value=any_pb2.Any(type_url="x/y", value=b"z")))
    broken = any_pb2.Any(type_url="type.googleapis.com/tensorflow.serving.SignatureDefMap", value=b"\xff\xff")
    yield Case("signatures as garbage", "version", grpc_version(value=broken))
    for sizes in ((), (-1, 112, 112, 3), (-1,) * 100_000):
        yield Case(f"signature with {sizes[:4]}", "signatures", grpc_signature(*sizes), accepted=True)
    yield Case("signature of unknown rank", "signatures", grpc_signature(unknown_rank=True), accepted=True)
    yield Case("signature of type 999", "signatures", grpc_signature(dtype=999), accepted=True)
    yield Case("signature with size -2", "signatures", grpc_signature(-2))
    yield Case("no signatures to describe", "signatures", grpc_version(key="x"))
    yield Case("load error", "load errors", grpc_load_error(message="x\x1b" * 9999), accepted=True)
    yield Case("load error of version -1", "load errors", grpc_load_error(-1))


REST, GRPC = list(_rest()), list(_grpc())


def check_result(number, client):
    """Makes a call, and checks its result or its error. `number` selects the call."""
    calls = list(CALLS)
    name = calls[number % len(calls)]
    try:
        result = CALLS[name](client)
    except ServingError as error:
        check_error(error)
        return
    if name.startswith("embed"):
        length = np.linalg.norm(result.embedding.astype(np.float64), axis=1)
        np.testing.assert_allclose(length, result.valid, atol=1e-3)
        assert result.norm.shape == result.valid.shape == (2,)
        assert np.isfinite(result.norm).all()
        assert (result.embedding.dtype, result.norm.dtype, result.valid.dtype) == (np.float32, np.float32, bool)
        assert result.version == VERSION
    elif name == "threshold":
        assert -1.01 <= result <= 1.01
    elif name == "version":
        assert result == VERSION
    else:
        assert type(result) is dict


def check_error(error):
    """Checks that an error is short, has no control characters and no password."""
    assert len(str(error)) < 2500
    assert str(error).isprintable()
    assert "secret" not in str(error)


def call(case, protocol):
    """Returns the result of a call that receives the answer, or raises its error."""
    if protocol == "rest":
        with bad_servers.SocketServer(bad_servers.answer_once(case.answer)) as server:
            return _call(case, f"http://127.0.0.1:{server.port}")

    if isinstance(case.answer, Connection | Frames):
        handle = bad_servers.answer_first_stream(
            *((_SETTINGS, case.answer) if isinstance(case.answer, Frames) else (case.answer, b""))
        )
        with bad_servers.SocketServer(handle) as server:
            return _call(case, f"grpc://127.0.0.1:{server.port}")

    def answer(method, context):
        return case.answer if isinstance(case.answer, bytes) else case.answer(context)

    with bad_servers.grpc_server(answer) as port:
        return _call(case, f"grpc://127.0.0.1:{port}")


def _call(case, address):
    with FaceClient(address, version=VERSION, timeout=2, retries=0) as client:
        return CALLS[case.call](client)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    warnings.simplefilter("error")
    counts = {}
    for protocol, cases in (("rest", REST), ("grpc", GRPC)):
        for case in cases:
            started, memory = time.perf_counter(), peak_memory.reset_peak()
            try:
                result = call(case, protocol)
                kind = "accepted" if case.accepted else "WRONGLY ACCEPTED"
                said = repr(result)
            except ServingError as error:
                kind, said = "WRONGLY REFUSED" if case.accepted else "ServingError", f"{type(error).__name__}: {error}"
            except BaseException as error:
                kind, said = "OTHER ERROR", f"{type(error).__name__}: {str(error)[:80]}"
            said = ascii(said[:150])
            counts.setdefault(protocol, {}).setdefault(kind, []).append(case.name)
            seconds = time.perf_counter() - started
            growth = peak_memory.peak() - memory
            print(f"{protocol} {case.name[:40]:40} {kind:16} {seconds:6.2f} s +{growth:5.0f} MiB  {said[:150]}")
    for protocol, kinds in counts.items():
        print(protocol, ", ".join(f"{kind}: {len(names)}" for kind, names in sorted(kinds.items())))


if __name__ == "__main__":
    main()
