"""Strict parser of JSON objects in files and answers of servers."""

import json
from typing import Any

from keras_arcface._messages import short


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        text: JSON text, or its bytes.

    Raises:
        ValueError: if the text is no JSON object, repeats a key of an object, contains `NaN` or an infinity, or is too
            deeply nested.

    >>> parse_object('{"size": [112, 112]}')
    {'size': [112, 112]}
    """
    try:
        parsed = json.loads(text, object_pairs_hook=_to_dict, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a JSON object. Received: {type(error).__name__}: {error}") from error
    except RecursionError:
        raise ValueError("expected a JSON object. Received: JSON that is too deeply nested") from None
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
