"""The one-line representation of results: their figures, without their arrays."""

from collections.abc import Mapping


def represent(result, **figures) -> str:
    """`Name(accuracy=0.9017, tar={0.1: 0.8512}, pairs=1000)`, floats with four digits after the point.

    >>> represent(object(), auc=0.95764, tar={0.01: float("nan")})
    'object(auc=0.9576, tar={0.01: nan})'
    """
    return f"{type(result).__name__}({', '.join(f'{name}={_text(value)}' for name, value in figures.items())})"


def _text(value) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key:g}: {_text(item)}" for key, item in value.items()) + "}"
    return f"{value:.4f}" if isinstance(value, float) else repr(value)
