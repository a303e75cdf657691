"""Transport of requests to TensorFlow Serving over gRPC."""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_arcface.serving.client.connection import PemFiles
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import Inputs
from keras_arcface.serving.client.transport import Transport
from keras_arcface.serving.client.transport import TransportError

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


class GrpcTransport(Transport):
    """Transport over one gRPC channel.

    Args:
        server: host and port of the server, `host:port`.
        model: name of the model.
        label: label that selects the version of requests without a version. None: the latest version.
        files: certificates and key for TLS. None: no encryption.
        max_message_bytes: size limit of messages in both directions.
    """

    reports_version = True

    def __init__(self, server: str, model: str, label: str | None, files: PemFiles | None, max_message_bytes: int):
        self._model = model
        self._label = label
        options = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # By default a channel waits up to two minutes before it connects again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if files is None:
            self._channel = grpc.insecure_channel(server, options)
        else:
            credentials = grpc.ssl_channel_credentials(
                _read(files.certificates), _read(files.client_key), _read(files.client_certificate)
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
        outputs = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        return outputs, response.model_spec.version.value

    def resolve(self, version: int | None, timeout: float) -> tuple[int, tuple[str, ...]]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self._model_spec(version))
        request.metadata_field.append("signature_def")
        response = _send(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return response.model_spec.version.value, tuple(signatures.signature_def)

    def version_states(self, timeout: float) -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=self._model))
        response = _send(self._models.GetModelStatus, request, timeout)
        name_of = get_model_status_pb2.ModelVersionStatus.State.Name
        return {status.version: name_of(status.state) for status in response.model_version_status}

    def _model_spec(self, version: int | None) -> Any:
        spec = model_pb2.ModelSpec(name=self._model)
        if version is not None:
            spec.version.value = version
        elif self._label is not None:
            spec.version_label = self._label
        return spec


def _send(method: Callable, request: Any, timeout: float) -> Any:
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        kind = _KINDS.get(error.code(), FailureKind.FAILED)
        raise TransportError(kind, f"{error.code().name}: {error.details()}") from error


def _to_tensor(value: np.ndarray | Sequence[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        return tf.make_tensor_proto(value)
    # A NumPy array would remove trailing zero bytes from the strings.
    return tensor_pb2.TensorProto(
        dtype=tf.string.as_datatype_enum, tensor_shape=tf.TensorShape([len(value)]).as_proto(), string_val=value
    )


def _read(path: str | os.PathLike | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
