"""Trying again, on what is safe to try again and may help."""

import itertools
import random
import time

from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.errors import Kind

FIRST_PAUSE = 0.1  # seconds
LONGEST_PAUSE = 5.0


def retry(call, timeout: float, retries: int, clock=time.monotonic, sleep=time.sleep):
    """Calls until there is an answer, the tries are used up, or the time is.

    An embedding depends on nothing but the images, so any request may be sent twice. What is tried again is what may
    pass: a server that cannot be reached, goes down or comes up, or whose batching queue is full (UNAVAILABLE, HTTP 502
    and 503). What would be refused again is not: invalid requests, and RESOURCE_EXHAUSTED (HTTP 429), which
    TensorFlow Serving says of messages and tensors that are too large and of requests that have waited in the queue
    for all of their time. The pauses double from 0.1 s to 5 s; a random half of each keeps many clients from coming
    back all at once.

    Args:
        call: `seconds left -> answer`; raises `Failure`.
        timeout: seconds for all tries together.
        retries: how many tries may follow the first.
        clock, sleep: of the `time` module, but for tests.

    Raises:
        Failure: the last one, with the number of tries and the seconds that they took.
    """
    started = clock()
    for tries in itertools.count(1):
        try:
            return call(started + timeout - clock())
        except Failure as failure:
            failure.tries, failure.seconds = tries, clock() - started
            pause = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE) * random.uniform(0.5, 1)
            if failure.kind is not Kind.UNAVAILABLE or tries > retries or failure.seconds + pause >= timeout:
                raise
        sleep(pause)
