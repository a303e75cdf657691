"""Checks of arguments whose errors state the expected and the received value."""

import numbers
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from keras_arcface._messages import short


def check(name: str, value: Any, is_valid: bool, expected: str) -> None:
    """Raises a ValueError if an argument is not valid.

    >>> check("weight", -1.0, False, "at least 0")
    Traceback (most recent call last):
    ValueError: weight must be at least 0. Received: weight=-1.0
    """
    if not is_valid:
        raise ValueError(f"{name} must be {expected}. Received: {name}={short(value, 200)}")


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> None:
    """Raises a ValueError unless an argument is an integer in [minimum, maximum]."""
    limits = f"of at least {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
    is_valid = isinstance(value, numbers.Integral) and value >= minimum and (maximum is None or value <= maximum)
    check(name, value, is_valid, f"an integer {limits}")


def check_number(name: str, value: Any, is_valid: Callable[[Any], bool], expected: str) -> None:
    """Raises a ValueError unless an argument is a real number for which `is_valid(value)` is true."""
    check(name, value, isinstance(value, numbers.Real) and bool(is_valid(value)), expected)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises a ValueError unless an argument is one of the choices."""
    choices = list(choices)
    check(name, value, value in choices, f"one of {', '.join(choices)}")
