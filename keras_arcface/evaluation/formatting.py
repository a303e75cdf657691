"""One-line representation of evaluation results."""

from collections.abc import Mapping
from typing import Any


def format_result(result: object, **metrics: Any) -> str:
    """Returns the type of a result and its metrics as text, with four decimal digits.

    >>> format_result(object(), auc=0.95764, tar={0.01: float("nan")})
    'object(auc=0.9576, tar={0.01: nan})'
    """
    return f"{type(result).__name__}({', '.join(f'{name}={_format(value)}' for name, value in metrics.items())})"


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key:g}: {_format(item)}" for key, item in value.items()) + "}"
    return f"{value:.4f}" if isinstance(value, float) else repr(value)
