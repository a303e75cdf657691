"""Transport of requests to TensorFlow Serving over gRPC."""

import math
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_arcface.serving.client import answer_checks
from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import Inputs
from keras_arcface.serving.client.transport import Signature
from keras_arcface.serving.client.transport import TensorSpec
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError
from keras_arcface.serving.client.transport import printable

_KINDS = {
    grpc.StatusCode.UNAVAILABLE: FailureKind.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: FailureKind.TIMEOUT,
    grpc.StatusCode.NOT_FOUND: FailureKind.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: FailureKind.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: FailureKind.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: FailureKind.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FailureKind.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: FailureKind.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: FailureKind.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: FailureKind.REFUSED,
}
# The dtype and the field of a TensorProto for each type of an output.
_FIELDS: dict[type, tuple[tf.DType, str]] = {
    np.float32: (tf.float32, "float_val"),
    bool: (tf.bool, "bool_val"),
    str: (tf.string, "string_val"),
}


class GrpcTransport(Transport):
    """Transport over one gRPC channel.

    Args:
        server: host and port of the server, `host:port`.
        model: name of the model.
        label: label that selects the version of requests without a version. None: the latest version.
        files: certificates and key for TLS. None: no encryption.
        max_message_bytes: size limit of messages in both directions. Messages that are received have a smaller limit if
            no answer can need more.
        batch_size: maximum number of images in a request.
    """

    reports_version = True

    def __init__(
        self,
        server: str,
        model: str,
        label: str | None,
        files: PemFiles | None,
        max_message_bytes: int,
        batch_size: int,
    ):
        self._model = model
        self._label = label
        max_answer = max(answer_checks.max_bytes(*request) for request in (("serve_bytes", batch_size), (None, 0)))
        options = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", min(max_message_bytes, max_answer)),
            # The limit applies to compressed messages, so none may be compressed.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # By default a channel waits up to two minutes before it connects again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if files is None:
            self._channel = grpc.insecure_channel(server, options)
        else:
            credentials = grpc.ssl_channel_credentials(
                _read_file(files.certificates), _read_file(files.client_key), _read_file(files.client_certificate)
            )
            self._channel = grpc.secure_channel(server, credentials, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def predict(
        self, signature: str, inputs: Inputs, version: int | None, timeout: float
    ) -> tuple[dict[str, Any], int | None]:
        request = predict_pb2.PredictRequest(model_spec=self._model_spec(version))
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(_to_tensor(value))
        response = _send(self._prediction.Predict, request, timeout)
        rows = len(next(iter(inputs.values())))
        try:
            expected = answer_checks.check_names(signature, response.outputs)
            outputs = {name: _read(name, output, response.outputs[name], rows) for name, output in expected.items()}
            return outputs, _read_version(response)
        except ValueError as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error

    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        response, signatures = self._metadata(version, timeout)
        try:
            return _read_version(response), tuple(signatures)
        except ValueError as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error

    def signatures(self, version: int | None, timeout: float) -> dict[str, Signature]:
        _, signatures = self._metadata(version, timeout)
        try:
            return {
                name: Signature(_read_specs(signature.inputs), _read_specs(signature.outputs))
                for name, signature in signatures.items()
            }
        except ValueError as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error

    def version_states(self, timeout: float) -> dict[int, str]:
        response = self._status(timeout)
        names = get_model_status_pb2.ModelVersionStatus.State.DESCRIPTOR.values_by_number
        try:
            return answer_checks.read_states(
                (status.version, names[status.state].name if status.state in names else str(status.state))
                for status in response.model_version_status
            )
        except ValueError as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error

    def version_errors(self, timeout: float) -> dict[int, str]:
        statuses = self._status(timeout).model_version_status
        try:
            return {
                answer_checks.read_version(status.version): printable(status.status.error_message)
                for status in statuses
                if status.status.error_message
            }
        except ValueError as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error

    def _metadata(self, version: int | None, timeout: float) -> tuple[Any, Any]:
        """Returns the answer of GetModelMetadata, and its map of signatures."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self._model_spec(version))
        request.metadata_field.append("signature_def")
        response = _send(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        try:
            if not response.metadata["signature_def"].Unpack(signatures):
                raise ValueError("expected metadata with signature_def")
        except (ValueError, DecodeError) as error:
            raise TransportError(FailureKind.UNEXPECTED, str(error)) from error
        return response, signatures.signature_def

    def _status(self, timeout: float) -> Any:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=self._model))
        return _send(self._models.GetModelStatus, request, timeout)

    def _model_spec(self, version: int | None) -> Any:
        spec = model_pb2.ModelSpec(name=self._model)
        if version is not None:
            spec.version.value = version
        elif self._label is not None:
            spec.version_label = self._label
        return spec


def _send(method: Callable, request: Any, timeout: float) -> Any:
    try:
        response = method(request, timeout=timeout)
    except grpc.RpcError as error:
        kind = _KINDS.get(error.code(), FailureKind.FAILED)
        # A server that refuses a long request answers with the same status, and with "SERVER: Received message...".
        if "CLIENT: Received message larger than max" in (error.details() or ""):
            kind = FailureKind.UNEXPECTED
        raise TransportError(kind, f"{error.code().name}: {error.details()}") from error
    if response is None:  # the status OK without a message
        raise TransportError(FailureKind.UNEXPECTED, "expected a message. Received: the status OK without a message")
    return response


def _to_tensor(value: np.ndarray | Sequence[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        return tf.make_tensor_proto(value)
    # A NumPy array would remove trailing zero bytes from the strings.
    return tensor_pb2.TensorProto(
        dtype=tf.string.as_datatype_enum, tensor_shape=tf.TensorShape([len(value)]).as_proto(), string_val=value
    )


def _read_version(response: Any) -> int:
    if not response.model_spec.HasField("version"):
        raise ValueError("expected an answer with the version of the model. Received: no version")
    return answer_checks.read_version(response.model_spec.version.value)


def _read(name: str, output: answer_checks.Output, tensor: Any, rows: int) -> np.ndarray:
    """Converts an output from a TensorProto to an array.

    `tf.make_ndarray` repeats the last value until the shape is filled, so that a few bytes can become gigabytes. Here
    the number of values must be that of the shape, which a server always sends.
    """
    dtype, field = _FIELDS[output.dtype]
    if tensor.dtype != dtype.as_datatype_enum:
        raise ValueError(f"expected {name} of type {dtype.name}. Received: {_dtype_name(tensor.dtype)}")
    dims = () if tensor.tensor_shape.unknown_rank else tensor.tensor_shape.dim
    shape = tuple(dim.size for dim in dims[:8])
    answer_checks.check_shape(name, output, shape, rows)
    values, content = getattr(tensor, field), tensor.tensor_content
    if content and (values or output.dtype is str):
        raise ValueError(f"expected {name} with values in one field. Received: tensor_content and {field}")
    count = math.prod(shape)
    received = len(content) / np.dtype(output.dtype).itemsize if content else len(values)
    if received != count:
        raise ValueError(f"expected {name} with {count} values for the shape {shape}. Received: {received:g} values")
    if output.dtype is str:
        return np.array([value.decode() for value in values], object)
    if not content:
        return np.array(values, output.dtype).reshape(shape)
    if output.dtype is bool:
        return np.frombuffer(content, np.uint8).reshape(shape) != 0
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)


def _read_specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in tensors.items():
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = None if info.tensor_shape.unknown_rank else answer_checks.read_shape(sizes)
        specs[name] = TensorSpec(_dtype_name(info.dtype), shape)
    return specs


def _dtype_name(number: int) -> str:
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"type {number}"


def _read_file(path: str | os.PathLike | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
