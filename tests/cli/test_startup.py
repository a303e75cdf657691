"""Import of TensorFlow without its messages."""

import subprocess
import sys

import pytest

CODE = """
import os, sys
from keras_arcface.cli import startup
with startup._filtered_stderr():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    os.write(2, b"I0000 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.\\n")
    os.write(2, b"a message of C++ code\\n")
    print("a message of Python code", file=sys.stderr)
    {inside}
print("afterwards", file=sys.stderr)
"""


def errors_of(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


def test_only_the_expected_lines_are_dropped():
    expected = "a message of C++ code\na message of Python code\nafterwards\n"
    assert errors_of(CODE.format(inside="pass")) == expected


def test_nothing_is_lost_if_the_import_fails():
    found = errors_of(CODE.format(inside="raise RuntimeError('bad')"))
    assert found.startswith("a message of C++ code\na message of Python code\nTraceback")
    assert found.endswith("RuntimeError: bad\n")


@pytest.mark.slow
def test_a_command_prints_nothing_but_its_own_output():
    done = subprocess.run([sys.executable, "-m", "keras_arcface", "info"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
