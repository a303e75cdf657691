"""Retries, on a simulated clock."""

import pytest

from keras_arcface.serving.client.retry import retry
from keras_arcface.serving.client.transport import FailureKind
from keras_arcface.serving.client.transport import TransportError


class Clock:
    """Clock that advances with `sleep` and with the duration of each attempt."""

    def __init__(self):
        self.now = 1000.0
        self.pauses = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def run(failures, clock, timeout=10.0, retries=3, each=0.0):
    """Retries a call with these failures, and returns the time limit of each attempt."""
    left, failures = [], iter(failures)

    def call(seconds):
        left.append(seconds)
        clock.now += each
        for kind in failures:
            raise TransportError(kind, "said")
        return left

    return retry(call, timeout, retries, clock, clock.sleep)


def test_two_failures_and_then_an_answer():
    clock = Clock()
    left = run([FailureKind.UNAVAILABLE] * 2, clock)
    assert len(left) == 3
    assert left[0] == 10
    assert left[2] == pytest.approx(10 - sum(clock.pauses))
    for pause, longest in zip(clock.pauses, (0.1, 0.2), strict=True):
        assert longest / 2 <= pause <= longest


def test_the_pauses_double_up_to_five_seconds_and_differ():
    clocks = [Clock() for _ in range(20)]
    for clock in clocks:
        with pytest.raises(TransportError):
            run([FailureKind.UNAVAILABLE] * 10, clock, timeout=1000, retries=9)
        for pause, longest in zip(clock.pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5), strict=True):
            assert longest / 2 <= pause <= longest
    assert len({clock.pauses[0] for clock in clocks}) == 20


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_number_of_retries_is_limited(retries):
    with pytest.raises(TransportError, match="said") as caught:
        run([FailureKind.UNAVAILABLE] * 10, Clock(), retries=retries)
    assert caught.value.attempts == retries + 1


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.UNAVAILABLE])
def test_permanent_failures_are_not_retried(kind):
    clock = Clock()
    with pytest.raises(TransportError) as caught:
        run([kind], clock)
    assert (caught.value.attempts, clock.pauses) == (1, [])


@pytest.mark.parametrize("each", [0.0, 0.3, 0.9])
def test_no_attempt_starts_after_the_time_limit(each):
    clock = Clock()
    with pytest.raises(TransportError) as caught:
        run([FailureKind.UNAVAILABLE] * 100, clock, timeout=1.0, retries=99, each=each)
    assert caught.value.seconds == pytest.approx(clock.now - 1000)
    assert sum(clock.pauses) + each * (caught.value.attempts - 1) < 1.0
    assert caught.value.attempts > 1 or each == 0.9


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_without_time_nothing_is_sent(timeout):
    with pytest.raises(TransportError, match="expired before the request") as caught:
        run([], Clock(), timeout=timeout)
    assert caught.value.kind is FailureKind.TIMEOUT
