"""Reads a message of a server as the answer to a call of `FaceClient` over gRPC."""

import functools

import grpc
import hostile_answers
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2

from keras_arcface.serving import FaceClient

COVERS = (
    "keras_arcface/serving/client/answer_checks.py",
    "keras_arcface/serving/client/embeddings.py",
    "keras_arcface/serving/client/grpc_transport.py",
)
ALLOWED = ()
MAX_MIB = 64


class _BrokenMessage(grpc.RpcError):
    """Error of gRPC for a message that is not a protocol buffer of the expected type."""

    def code(self):
        return grpc.StatusCode.INTERNAL

    def details(self):
        return "Exception deserializing response!"


class _Stubs:
    """Stubs of both services, which answer with the input."""

    def __init__(self):
        self.data = b""

    def _answer(self, message, request, timeout):
        assert 0 < timeout <= 5
        request.SerializeToString()
        try:
            return message.FromString(self.data)
        except DecodeError as error:
            raise _BrokenMessage from error

    def Predict(self, request, timeout):
        return self._answer(predict_pb2.PredictResponse, request, timeout)

    def GetModelMetadata(self, request, timeout):
        return self._answer(get_model_metadata_pb2.GetModelMetadataResponse, request, timeout)

    def GetModelStatus(self, request, timeout):
        return self._answer(get_model_status_pb2.GetModelStatusResponse, request, timeout)


@functools.cache  # the channel starts threads, which do not survive the fork of the search
def _client():
    client, stubs = FaceClient("grpc://127.0.0.1:1", version=1, timeout=5, retries=0), _Stubs()
    client._endpoint._transport._prediction = client._endpoint._transport._models = stubs
    return client, stubs


def seeds():
    calls = list(hostile_answers.CALLS)
    messages = [case for case in hostile_answers.GRPC if type(case.answer) is bytes and len(case.answer) < 2000]
    return [bytes([calls.index(case.call)]) + case.answer for case in messages]


def run(data):
    client, stubs = _client()
    client._metadata.clear()
    stubs.data = data[1:]
    hostile_answers.check_result(data[0] if data else 0, client)
