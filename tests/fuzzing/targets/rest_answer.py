"""Reads what a server sends on the connection as the answer to a call of `FaceClient` over REST."""

from unittest import mock

import hostile_answers

from keras_arcface.serving import FaceClient
from keras_arcface.serving.client import http_connection

COVERS = (
    "keras_arcface/serving/client/answer_checks.py",
    "keras_arcface/serving/client/http_connection.py",
    "keras_arcface/serving/client/rest_transport.py",
)
ALLOWED = ()
MAX_MIB = 64

_CLIENT = FaceClient("http://user:secret@host.invalid:8501", version=1, timeout=5, retries=0)


class _Socket:
    """Socket that sends the input, and then ends."""

    def __init__(self, data):
        self._data = memoryview(data)

    def settimeout(self, seconds):
        assert 0 < seconds <= 5

    def send(self, data):
        return len(data)

    def recv_into(self, buffer):
        part = self._data[: len(buffer)]
        buffer[: len(part)] = part
        self._data = self._data[len(part) :]
        return len(part)

    def close(self):
        """Does nothing."""


def seeds():
    # Without Content-Length, an answer with changed content stays an answer.
    cases = [(case, case.answer) for case in hostile_answers.REST if len(case.answer) < 2000]
    short = [(case, b"HTTP/1.0 200 OK\r\n\r\n" + answer.partition(b"\r\n\r\n")[2]) for case, answer in cases]
    return [bytes([list(hostile_answers.CALLS).index(case.call)]) + answer for case, answer in [*cases, *short]]


def run(data):
    _CLIENT._metadata.clear()
    _CLIENT.close()
    connects = mock.patch.object(http_connection, "_connect", side_effect=lambda *_: _Socket(data[1:]))
    with connects, mock.patch.object(http_connection, "_is_readable", return_value=True):
        hostile_answers.check_result(data[0] if data else 0, _CLIENT)
