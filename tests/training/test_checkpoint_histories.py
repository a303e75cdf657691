"""Trainings in one directory that take turns at every file operation, in orders that hypothesis chooses."""

import random
import shutil
import tempfile
import types
from pathlib import Path

import pytest
from checkpoint_histories import FAULTS
from checkpoint_histories import History
from checkpoint_histories import random_history
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import stateful
from hypothesis import strategies

from keras_arcface.training import checkpoints
from keras_arcface.training import run_lock

TRAININGS = strategies.integers(0, 2)


class Histories(stateful.RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.registry = run_lock._locks
        self.folder = Path(tempfile.mkdtemp())
        self.history = History(self.folder)

    def few_run(self):
        return len(self.history.running) < 3

    def some_run(self):
        return bool(self.history.running)

    @stateful.precondition(few_run)
    @stateful.rule(
        keep=strategies.integers(1, 3), interval=strategies.sampled_from([10, 30]), writes=strategies.integers(1, 4)
    )
    def start(self, keep, interval, writes):
        self.history.start(keep, interval, writes)

    @stateful.precondition(some_run)
    @stateful.rule(training=TRAININGS, steps=strategies.sampled_from([1, 2, 5, 20, 100]))
    def go_on(self, training, steps):
        self.history.step(training, steps)

    @stateful.precondition(some_run)
    @stateful.rule(training=TRAININGS)
    def kill(self, training):
        self.history.kill(training)

    @stateful.rule(checkpoint=strategies.integers(0, 3))
    def damage(self, checkpoint):
        self.history.damage(checkpoint)

    @stateful.invariant()
    def readers_find_the_last_checkpoint(self):
        assert not any(self.history.counts[name] for name in FAULTS), (self.history.counts, self.history.errors)

    def teardown(self):
        self.history.finish()
        self.readers_find_the_last_checkpoint()
        shutil.rmtree(self.folder)
        run_lock._locks = self.registry


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def keep_all_newest(self, variables):
    """Retention as it was: it counts damaged files."""
    for path in list(checkpoints.checkpoint_files.list_checkpoints(self.directory).values())[: -self.keep]:
        path.unlink()


FAULTY = {
    "no lock": (run_lock, "lock_run", lambda path: types.SimpleNamespace(is_held=True, release=lambda: None)),
    "retention counts damaged files": (checkpoints.Checkpoints, "_remove_old", keep_all_newest),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_histories_of_a_faulty_class_have_faults(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_locks", run_lock._locks)
    monkeypatch.setattr(*FAULTY[fault])

    def has_a_fault(number):
        (tmp_path / str(number)).mkdir()
        counts = random_history(tmp_path / str(number), random.Random(number)).counts
        return any(counts[name] for name in FAULTS)

    assert any(map(has_a_fault, range(60)))
