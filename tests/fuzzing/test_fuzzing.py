"""Reads the seeds and the former findings of every target again, and searches for a short time."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fuzzing import fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory of one input is measured on Linux only")


@pytest.fixture(scope="module", autouse=True)
def folder_of_the_targets(tmp_path_factory):
    previous, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("targets"))
    yield
    tempfile.tempdir = previous


@pytest.mark.parametrize("name", fuzz.target_names())
def test_reads_seeds_and_former_findings_within_limits(name):
    target = fuzz.load_target(name)
    fuzz.warm_up(target)
    for data in fuzz.inputs(name).values():
        fuzz.check(target, data)


@pytest.mark.slow
def test_searches_every_target(tmp_path):
    pytest.importorskip("atheris", reason="the search requires atheris")
    command = [sys.executable, fuzz.__file__, "--seconds", "1", "--seed", "1", "--findings", str(tmp_path / "findings")]
    folder = Path(fuzz.__file__).parents[2]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    print(process.stdout)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    assert not (tmp_path / "findings").exists()


class Target:
    """A target that does something with every input."""

    ALLOWED, MAX_SECONDS, MAX_MIB = (ValueError,), 0.5, 32

    def __init__(self, action):
        self.run = action


def refuse(data):
    raise ValueError("expected something else")


def fail(data):
    raise KeyError(data)


def loop(data):
    while True:
        pass


def convert_errors(data):
    try:
        loop(data)
    except Exception as error:
        raise ValueError("expected something else") from error


def allocate(data):
    return len(b"x" * (64 << 20))


@pytest.mark.parametrize(
    ("action", "error"),
    [(fail, KeyError), (loop, TimeoutError), (convert_errors, TimeoutError), (allocate, MemoryError)],
)
def test_finds_exceptions_endless_loops_and_allocations(action, error):
    fuzz.check(Target(refuse), b"")
    with pytest.raises(error):
        fuzz.check(Target(action), b"")


def test_waiting_has_a_longer_limit_than_computing():
    target = Target(lambda data: time.sleep(0.3))
    target.MAX_SECONDS = 0.1
    fuzz.check(target, b"")
    target.run = lambda data: time.sleep(100)
    with pytest.raises(TimeoutError, match="more than 1 seconds"):
        fuzz.check(target, b"")
