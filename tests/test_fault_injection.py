"""Injects a part of the faults of `fault_injection.py`, and tests that it finds faulty stores."""

import sys

import fault_injection
import pytest

from keras_arcface import _files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="requires /proc")


@pytest.mark.parametrize("store", fault_injection.find_stores(), ids=lambda store: store.name)
def test_every_fault_leaves_an_allowed_state(store):
    outcomes = list(fault_injection.check(store, every=10))
    bad = [outcome for outcome in outcomes if outcome.state not in fault_injection.ALLOWED or outcome.litter]
    assert outcomes
    assert not bad, bad


class Careless(fault_injection.Store):
    """File that is written in place, beside a file that is never removed."""

    name = "careless"

    def prepare(self, directory):
        (directory / "file").write_bytes(b"old")

    def run(self, directory):
        (directory / "file.tmp").touch()
        (directory / "file").write_bytes(b"new")
        (directory / "file.tmp").unlink()

    def state(self, directory):
        return (directory / "file").read_text() or "empty"


def test_faulty_stores_are_found():
    outcomes = list(fault_injection.check(Careless()))
    operations = ["open for writing: file.tmp", "open for writing: file", "write: file", "unlink: file.tmp"]
    assert list(dict.fromkeys(outcome.operation for outcome in outcomes)) == operations
    found = {(outcome.operation, str(outcome.fault)): outcome for outcome in outcomes}
    assert found["open for writing: file", "EIO"].litter == ["file.tmp"]
    assert found["open for writing: file", "kill"].state == "old"
    assert found["write: file", "kill"].state == "empty"
    assert found["write: file", "kill after half of the data"].state == "n"
    assert "does not name a file" in found["write: file", "ENOSPC"].state
    assert found["unlink: file.tmp", "kill"].state == "new"


class TwoFiles(fault_injection.Store):
    """Two files that are replaced one after the other."""

    name = "two files"

    def prepare(self, directory):
        self._write(directory, "old")

    def run(self, directory):
        self._write(directory, "new")

    def state(self, directory):
        texts = {(directory / name).read_text() for name in "ab"}
        return texts.pop() if len(texts) == 1 else "mixed"

    def _write(self, directory, text):
        for name in "ab":
            with _files.replacing(directory / name, 0o600) as file:
                file.write(text.encode())


@pytest.mark.parametrize(("may_be_mixed", "state"), [(True, "mixed"), (False, "old and new files")])
def test_only_some_stores_may_be_mixed(may_be_mixed, state):
    store = TwoFiles()
    store.may_be_mixed = may_be_mixed
    outcomes = fault_injection.check(store, [fault_injection.Fault(None)])
    assert {outcome.state for outcome in outcomes} == {"old", "new", state}
