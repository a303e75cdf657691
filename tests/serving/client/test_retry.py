"""When it is tried again, and when not, on a clock of the test's own."""

import pytest

from keras_arcface.serving.client.errors import Failure
from keras_arcface.serving.client.errors import Kind
from keras_arcface.serving.client.retry import retry


class Clock:
    """Time passes by sleeping, and by what the tries take."""

    def __init__(self):
        self.now = 1000.0
        self.pauses = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def run(failures, clock, timeout=10.0, retries=3, each=0.0):
    """Tries what fails in these ways, one after the other, and then gives how much time was left to each."""
    left, failures = [], iter(failures)

    def call(seconds):
        left.append(seconds)
        clock.now += each
        for kind in failures:
            raise Failure(kind, "said")
        return left

    return retry(call, timeout, retries, clock, clock.sleep)


def test_two_failures_and_then_an_answer():
    clock = Clock()
    left = run([Kind.UNAVAILABLE] * 2, clock)
    assert len(left) == 3
    assert left[0] == 10
    assert left[2] == pytest.approx(10 - sum(clock.pauses))
    for pause, longest in zip(clock.pauses, (0.1, 0.2), strict=True):
        assert longest / 2 <= pause <= longest


def test_the_pauses_double_up_to_five_seconds_and_differ():
    clocks = [Clock() for _ in range(20)]
    for clock in clocks:
        with pytest.raises(Failure):
            run([Kind.UNAVAILABLE] * 10, clock, timeout=1000, retries=9)
        for pause, longest in zip(clock.pauses, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5), strict=True):
            assert longest / 2 <= pause <= longest
    assert len({clock.pauses[0] for clock in clocks}) == 20


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_tries_come_to_an_end(retries):
    with pytest.raises(Failure, match="said") as caught:
        run([Kind.UNAVAILABLE] * 10, Clock(), retries=retries)
    assert caught.value.tries == retries + 1


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.UNAVAILABLE])
def test_what_would_fail_again_is_not_tried_again(kind):
    clock = Clock()
    with pytest.raises(Failure) as caught:
        run([kind], clock)
    assert (caught.value.tries, clock.pauses) == (1, [])


@pytest.mark.parametrize("each", [0.0, 0.3, 0.9])
def test_no_try_begins_after_the_time(each):
    clock = Clock()
    with pytest.raises(Failure) as caught:
        run([Kind.UNAVAILABLE] * 100, clock, timeout=1.0, retries=99, each=each)
    assert caught.value.seconds == pytest.approx(clock.now - 1000)
    assert sum(clock.pauses) + each * (caught.value.tries - 1) < 1.0
    assert caught.value.tries > 1 or each == 0.9
