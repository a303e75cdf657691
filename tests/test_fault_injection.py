"""Injects a part of the faults of `fault_injection.py`, and tests that it finds faulty stores."""

import sys

import fault_injection
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="requires /proc")


@pytest.mark.parametrize("store", fault_injection.find_stores(), ids=lambda store: store.name)
def test_every_fault_leaves_the_old_or_the_new_state(store):
    outcomes = list(fault_injection.check(store, every=5))
    bad = [outcome for outcome in outcomes if outcome.state not in ("old", "new") or outcome.litter]
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
