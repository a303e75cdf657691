import re

import pytest

from keras_arcface import _arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _arguments.check_integer("n", 2.0, 1), "n must be an integer of at least 1. Received: n=2.0"),
        (lambda: _arguments.check_integer("n", 0, 1), "n must be an integer of at least 1. Received: n=0"),
        (lambda: _arguments.check_integer("n", 9, 1, 8), "n must be an integer in [1, 8]. Received: n=9"),
        (lambda: _arguments.check_number("x", "a", bool, "above 0"), "x must be above 0. Received: x='a'"),
        (lambda: _arguments.check_choice("c", "d", "ab"), "c must be one of a, b. Received: c='d'"),
    ],
)
def test_an_invalid_argument(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_valid_arguments_pass():
    _arguments.check_integer("n", 8, 1, 8)
    _arguments.check_number("x", 0.5, lambda x: x > 0, "above 0")
    _arguments.check_choice("c", "a", "ab")
