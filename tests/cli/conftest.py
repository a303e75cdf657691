"""Fixtures of all tests of commands."""

from typing import NamedTuple

import pytest

from keras_arcface.cli.main import main


class Ended(NamedTuple):
    """Result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Restores the environment variables that a command sets."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def run(capsys):
    """Returns a function that runs a command in this process, which saves the seconds that TensorFlow takes to load."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        return Ended(code, *capsys.readouterr())

    return run
