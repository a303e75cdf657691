"""Requests to TensorFlow Serving by gRPC."""

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

from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.errors import Kind

_KINDS = {
    grpc.StatusCode.UNAVAILABLE: Kind.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.TIMEOUT,
    grpc.StatusCode.NOT_FOUND: Kind.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: Kind.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Kind.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Kind.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Kind.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Kind.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Kind.REFUSED,
}


class GrpcTransport:
    """One model behind one gRPC channel.

    Args:
        server: `host:port`.
        model: the model's name.
        label: of the version to ask where a request names none; None for the latest.
        secure: whether to use TLS.
        certificates, client_certificate, client_key: paths of PEM files, or None.
        max_message_bytes: the longest message to send or receive.
    """

    # Answers say which version gave them.
    names_version = True

    def __init__(self, server, model, label, secure, certificates, client_certificate, client_key, max_message_bytes):
        self._model = model
        self._label = label
        options = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # Of its own a channel waits up to two minutes before it tries to connect again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if secure:
            credentials = grpc.ssl_channel_credentials(*map(_read, (certificates, client_key, client_certificate)))
            self._channel = grpc.secure_channel(server, credentials, options)
        else:
            self._channel = grpc.insecure_channel(server, options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def predict(self, signature, inputs, version, timeout):
        """`({output: array}, version that answered)`. `inputs` are arrays, or lists of bytes; see `RestTransport`."""
        request = predict_pb2.PredictRequest(model_spec=self._spec(version))
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(_to_tensor(value))
        response = _ask(self._prediction.Predict, request, timeout)
        answer = {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}
        return answer, response.model_spec.version.value

    def resolve(self, version, timeout):
        """`(version, names of its signatures)`: what a request would be answered by."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self._spec(version))
        request.metadata_field.append("signature_def")
        response = _ask(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return response.model_spec.version.value, tuple(signatures.signature_def)

    def states(self, timeout):
        """`{version: state}` of all versions that the server knows of."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=self._model))
        response = _ask(self._models.GetModelStatus, request, timeout)
        name_of = get_model_status_pb2.ModelVersionStatus.State.Name
        return {status.version: name_of(status.state) for status in response.model_version_status}

    def _spec(self, version):
        spec = model_pb2.ModelSpec(name=self._model)
        if version is not None:
            spec.version.value = version
        elif self._label is not None:
            spec.version_label = self._label
        return spec


def _ask(method, request, timeout):
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        said = f"{error.code().name}: {error.details()}"
        raise Failure(_KINDS.get(error.code(), Kind.FAILED), said) from error


def _to_tensor(value):
    if isinstance(value, np.ndarray):
        return tf.make_tensor_proto(value)
    # Not through numpy, whose byte strings lose the zeros at their end.
    return tensor_pb2.TensorProto(
        dtype=tf.string.as_datatype_enum, tensor_shape=tf.TensorShape([len(value)]).as_proto(), string_val=value
    )


def _read(path):
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
