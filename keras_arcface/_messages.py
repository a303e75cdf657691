"""Bounded text of values in error messages."""

from collections.abc import Iterator
from typing import Any

_BRACKETS = {list: "[]", tuple: "()", dict: "{}", set: "{}"}


def short(value: Any, limit: int = 80) -> str:
    """Returns the first `limit` characters of the representation of a value.

    Unlike `repr(value)[:limit]`, it takes time and memory in proportion to `limit` only. The representation of lists
    that share lists can be exponentially long, that of a list that contains itself never ends, and Python refuses to
    convert integers of more than 4300 digits.

    >>> short([1, [2.5, "a"], {"b": None}])
    "[1, [2.5, 'a'], {'b': None}]"
    >>> short("a" * 1000, limit=8)
    "'aaaaaaa..."
    """
    text = ""
    for piece in _pieces(value, limit):
        text += piece
        if len(text) > limit:
            return f"{text[:limit]}..."
    return text


def _pieces(value: Any, limit: int) -> Iterator[str]:
    """Iterates over the parts of the representation. Every container yields before its items, so `limit` ends it."""
    if type(value) in _BRACKETS:
        opening, closing = _BRACKETS[type(value)]
        yield opening
        for number, item in enumerate(value):
            if number:
                yield ", "
            yield from _pieces(item, limit)
            if type(value) is dict:
                yield ": "
                yield from _pieces(value[item], limit)
        yield ",)" if type(value) is tuple and len(value) == 1 else closing
    elif isinstance(value, str | bytes | bytearray):
        yield repr(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > 4 * limit:
        yield f"an integer of {value.bit_length()} bits"
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", 0):
        yield f"array of shape {value.shape} and type {value.dtype}"
    else:
        yield repr(value)
