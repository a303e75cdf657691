"""Retries of failed requests."""

import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import TransportError

FIRST_PAUSE = 0.1  # seconds
MAX_PAUSE = 5.0

Answer = TypeVar("Answer")


def retry(
    call: Callable[[float], Answer],
    timeout: float,
    retries: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Answer:
    """Calls a function until it succeeds, the retries are used up, or the time limit expires.

    An embedding depends only on the images, so every request may be sent twice. Only failures that may be temporary are
    retried: a server that cannot be reached, starts or stops, or has a full batching queue (UNAVAILABLE, HTTP 502 and
    503). Requests that would fail again are not: invalid requests, and RESOURCE_EXHAUSTED (HTTP 429), with which
    TensorFlow Serving answers messages that are too large and requests that waited in the queue for their whole time.
    The pauses double from 0.1 s to 5 s. Half of each pause is random, so that clients do not return at the same time.

    Args:
        call: sends the request with the remaining seconds as its time limit. Raises `TransportError`.
        timeout: time limit for all attempts together, in seconds.
        retries: maximum number of attempts after the first.
        clock, sleep: replace the functions of the `time` module in tests.

    Returns:
        The result of `call`.

    Raises:
        TransportError: the last error, with the number of attempts and their duration.
    """
    if timeout <= 0:
        raise TransportError(FailureKind.TIMEOUT, "The time limit expired before the request was sent.")
    started = clock()
    for attempts in itertools.count(1):
        try:
            return call(started + timeout - clock())
        except TransportError as error:
            error.attempts, error.seconds = attempts, clock() - started
            pause = min(FIRST_PAUSE * 2 ** (attempts - 1), MAX_PAUSE) * random.uniform(0.5, 1)
            if error.kind is not FailureKind.UNAVAILABLE or attempts > retries or error.seconds + pause >= timeout:
                raise
        sleep(pause)
    raise AssertionError("unreachable")
