"""Strict parser of JSON in files and answers of servers."""

import json
from typing import Any

from keras_arcface._messages import short


def parse(text: str | bytes, allow_constants: bool = False) -> Any:
    """Parses JSON.

    Args:
        text: JSON text, or its bytes.
        allow_constants: whether to accept `NaN`, `Infinity` and `-Infinity`.

    Raises:
        ValueError: if the text is not JSON, repeats a key of an object, contains a constant that is not allowed, or is
            too deeply nested.
    """
    refuse = None if allow_constants else _refuse_constant
    try:
        return json.loads(text, object_pairs_hook=_to_dict, parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON. Received: {type(error).__name__}: {error}") from error
    except RecursionError:
        raise ValueError("expected JSON. Received: JSON that is too deeply nested") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object with finite numbers.

    Raises:
        ValueError: if the text is not a JSON object, or `parse` refuses it.

    >>> parse_object('{"size": [112, 112]}')
    {'size': [112, 112]}
    """
    parsed = parse(text)
    if type(parsed) is not dict:
        raise ValueError(f"expected a JSON object. Received: {short(parsed)}")
    return parsed


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated = next(key for key, _ in pairs if result.pop(key, pairs) is pairs)
        raise ValueError(f"expected every key of a JSON object only once. Received: {short(repeated)} more than once")
    return result


def _refuse_constant(name: str):
    raise ValueError(f"expected finite numbers. Received: {name}")
