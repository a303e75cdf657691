"""Publications, retention and rollbacks that take turns at every file operation, in orders that hypothesis chooses."""

import contextlib
import random
import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import stateful
from hypothesis import strategies
from publication_histories import History
from publication_histories import random_history

FAULTS = ("lost", "reused", "incomplete")
OPERATIONS = strategies.integers(0, 3)


class Interleavings(stateful.RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.history = History(self.folder)

    def few_run(self):
        return len(self.history.running) < 4

    def some_run(self):
        return bool(self.history.running)

    @stateful.precondition(few_run)
    @stateful.rule(keep=strategies.sampled_from([None, 1, 2]), version=strategies.sampled_from([None, None, 2, 4]))
    def publish(self, keep, version):
        self.history.publish(keep, version)

    @stateful.precondition(few_run)
    @stateful.rule(to=strategies.sampled_from([None, 1, 2]))
    def roll_back(self, to):
        self.history.rollback(to)

    @stateful.precondition(some_run)
    @stateful.rule(operation=OPERATIONS, steps=strategies.sampled_from([1, 2, 5, 10, 100]))
    def go_on(self, operation, steps):
        self.history.step(operation, steps)

    @stateful.precondition(some_run)
    @stateful.rule(operation=OPERATIONS)
    def kill(self, operation):
        self.history.kill(operation)

    @stateful.invariant()
    def no_version_is_lost_reused_or_incomplete(self):
        assert not any(self.history.looker.counts[name] for name in FAULTS), self.history.looker.counts
        assert not self.history.errors

    def teardown(self):
        self.history.finish()
        self.no_version_is_lost_reused_or_incomplete()
        assert not self.history.litter()
        shutil.rmtree(self.folder)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_histories_without_the_lock_have_faults(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def no_lock(_):
        yield

    for module in ("publication", "rollback"):
        monkeypatch.setattr(sys.modules[f"keras_arcface.serving.deploy.{module}"], "base_path_lock", no_lock)

    def has_a_fault(number):
        (tmp_path / str(number)).mkdir()
        history = random_history(tmp_path / str(number), random.Random(number), kills=False)
        return history.errors or any(history.looker.counts[name] for name in FAULTS)

    assert any(map(has_a_fault, range(50)))
