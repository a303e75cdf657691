"""Text of values in messages."""

from collections.abc import Iterator
from typing import Any

_BRACKETS = {list: "[]", tuple: "()", dict: "{}", set: "{}", frozenset: "{}"}


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


def cut(text: Any, limit: int = 200) -> str:
    """Returns the first `limit` characters of a text, or of the representation of any other value.

    >>> cut("a" * 1000, limit=8)
    'aaaaaaaa...'
    """
    if not isinstance(text, str):
        return short(text, limit)
    return text if len(text) <= limit else f"{text[:limit]}..."


def counted(number: int, one: str, many: str = "") -> str:
    """Returns a number with its noun, whose plural is `many`, or `one` and an s.

    >>> counted(1, "photo"), counted(2000, "photo"), counted(0, "person", "people")
    ('1 photo', '2,000 photos', '0 people')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _pieces(value: Any, limit: int) -> Iterator[str]:
    """Iterates over the parts of the representation. Every container yields before its items, so `limit` ends it."""
    base = next((base for base in _BRACKETS if isinstance(value, base)), None)
    if base is not None:
        is_subclass = type(value) is not base or base is frozenset
        opening, closing = _BRACKETS[base]
        yield f"{type(value).__name__}({opening}" if is_subclass else opening
        for number, item in enumerate(value):
            if number:
                yield ", "
            yield from _pieces(item, limit)
            if base is dict:
                yield ": "
                yield from _pieces(value[item], limit)
        yield ",)" if base is tuple and len(value) == 1 else closing
        yield ")" if is_subclass else ""
    elif isinstance(value, str | bytes | bytearray):
        yield repr(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > 4 * limit:
        yield f"an integer of {value.bit_length()} bits"
    elif any((base.__module__, base.__name__) == ("numpy", "ndarray") for base in type(value).__mro__):
        yield f"array of shape {value.shape} and type {value.dtype}"
    else:
        yield repr(value)
