"""A few cases of `fuzz.py`."""

import logging

import fuzz
import pytest


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_damage_is_detected_or_harmless(tmp_path):
    for name, target in fuzz.targets(tmp_path):
        counts, forbidden = fuzz.fuzz(target, cases=40, seed=1)
        print(f"{name:28} {dict(counts)}")
        assert not forbidden
        assert counts.total() == 40
        assert counts["right"] < 30, "the damage has no effect"
