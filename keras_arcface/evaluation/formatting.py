"""One-line representation of results."""

from collections.abc import Mapping
from typing import Any


def format_result(result: object, **figures: Any) -> str:
    """Returns the type of a result and its figures, floats with four digits after the point.

    >>> format_result(object(), auc=0.95764, tar={0.01: float("nan")})
    'object(auc=0.9576, tar={0.01: nan})'
    """
    return f"{type(result).__name__}({', '.join(f'{name}={_format(value)}' for name, value in figures.items())})"


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key:g}: {_format(item)}" for key, item in value.items()) + "}"
    return f"{value:.4f}" if isinstance(value, float) else repr(value)
