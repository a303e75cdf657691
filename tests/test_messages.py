import collections
import fractions
from typing import NamedTuple

import numpy as np
import pytest

from keras_arcface._messages import cut
from keras_arcface._messages import short


class Pair(NamedTuple):
    first: object
    second: object


class Array(np.ndarray):
    pass


SHARED: list = []
for _ in range(100):
    SHARED = [SHARED, SHARED]
PAIRS: object = None
ORDERED: object = None
for _ in range(64):
    PAIRS = Pair(PAIRS, PAIRS)
    ORDERED = collections.OrderedDict(a=ORDERED, b=ORDERED)
CYCLE: list = [1]
CYCLE.append({"again": CYCLE})


@pytest.mark.parametrize(
    "value",
    [
        *(0, True, None, 2.5, "it's", b"\0", bytearray(b"a"), fractions.Fraction(1, 3), np.float32(2)),
        *([], [1, "a"], (), (1,), (1, 2), frozenset([(1,)]), {"a": [1], 2: None}, {3}, [[[(1,)]]], range(3)),
    ],
)
def test_a_small_value_is_its_representation(value):
    assert short(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SHARED, "[[[[[[[[..."),
        (PAIRS, "Pair((Pa..."),
        (ORDERED, "OrderedD..."),
        (CYCLE, "[1, {'ag..."),
        ("a" * 10**6, "'aaaaaaa..."),
        (b"a" * 10**6, "b'aaaaaa..."),
        ([b"a" * 10**6] * 10**6, "[b'aaaaa..."),
        (dict.fromkeys(range(10**6)), "{0: None..."),
    ],
)
def test_a_large_value_is_cut(value, expected):
    assert short(value, limit=8) == expected


def test_a_subclass_is_shown_with_its_name():
    assert short(Pair(1, (2,))) == "Pair((1, (2,)))"
    assert short(np.zeros(10**6).view(Array)) == "array of shape (1000000,) and type float64"


def test_a_text_is_cut():
    assert cut("it's") == "it's"
    assert cut("a" * 9, limit=8) == "aaaaaaaa..."
    assert cut(SHARED, limit=8) == "[[[[[[[[..."


def test_integers_and_arrays_are_described():
    assert short(10**5000) == "an integer of 16610 bits"
    assert short([np.zeros((2, 3)), np.array([None])]) == (
        "[array of shape (2, 3) and type float64, array of shape (1,) and type object]"
    )
