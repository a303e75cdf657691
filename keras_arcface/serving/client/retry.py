"""Retries of requests after temporary failures."""

import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import TransportError

FIRST_PAUSE = 0.1  # seconds
MAX_PAUSE = 5.0
_MAX_TIMEOUT = 1e6  # sockets and gRPC refuse or misread timeouts of many years, and infinity

Result = TypeVar("Result")


def retry(
    call: Callable[[float], Result],
    timeout: float,
    retries: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Result:
    """Calls a function until it succeeds, fails after the last retry, or reaches the time limit.

    Requests do not change the state of the server, so they may be sent twice. Only failures that may be temporary are
    retried: an unreachable server, a server that starts or stops, and a full batching queue (UNAVAILABLE, HTTP 502 and
    503). Requests that would fail again are not retried: invalid requests, and RESOURCE_EXHAUSTED (HTTP 429), which
    TensorFlow Serving returns for too large messages and for requests whose time limit expired in the queue. The pauses
    double from 0.1 s to 5 s. Half of each pause is random, so that clients do not retry at the same time.

    Args:
        call: function that sends the request, with the remaining time in seconds as its argument. It raises
            `TransportError` after a failure.
        timeout: time limit of all attempts together, in seconds.
        retries: maximum number of attempts after the first.
        clock, sleep: functions that tests use instead of `time.monotonic` and `time.sleep`.

    Returns:
        Result of `call`.

    Raises:
        TransportError: if the last attempt fails. The error contains the number of attempts and their duration.
    """
    if timeout <= 0:
        raise TransportError(FailureKind.TIMEOUT, "The time limit expired before the request was sent.")
    started = clock()
    for attempts in itertools.count(1):
        try:
            return call(min(started + timeout - clock(), _MAX_TIMEOUT))
        except TransportError as error:
            error.attempts, error.seconds = attempts, clock() - started
            pause = min(FIRST_PAUSE * 2 ** (attempts - 1), MAX_PAUSE) * random.uniform(0.5, 1)
            if error.kind is not FailureKind.UNAVAILABLE or attempts > retries or error.seconds + pause >= timeout:
                raise
        sleep(pause)
    raise AssertionError("unreachable")
