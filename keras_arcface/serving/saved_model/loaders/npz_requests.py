"""Storage of requests, or of their outputs, in an `.npz` file without pickles.

The key of an array is `number/signature/name`, with the number of the request and the name of the input or output. A
list of bytes is stored as two arrays: the concatenated bytes, and the end position of each item.
"""

import itertools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np


def save(path: str | os.PathLike, requests: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Writes pairs `(signature, {name: array or list of bytes})` to a file."""
    stored = {}
    for number, (signature, values) in enumerate(requests):
        for name, value in values.items():
            key = f"{number}/{signature}/{name}"
            if isinstance(value, list):
                stored[f"{key}/bytes"] = np.frombuffer(b"".join(value), np.uint8)
                stored[f"{key}/ends"] = np.cumsum([len(item) for item in value], dtype=np.int64)
            else:
                stored[key] = np.asarray(value)
    np.savez(path, **stored)  # type: ignore[arg-type]  # the type stubs confuse the keys with `allow_pickle`


def load(path: str | os.PathLike) -> list[tuple[str, dict[str, Any]]]:
    """Returns the pairs `(signature, {name: array or list of bytes})` of a file that `save` wrote."""
    requests: dict[int, tuple[str, dict[str, Any]]] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            number, signature, name, *kind = key.split("/")
            if kind == ["ends"]:
                continue
            value: Any = stored[key]
            if kind == ["bytes"]:
                ends = [0, *stored[f"{number}/{signature}/{name}/ends"].tolist()]
                value = [value[begin:end].tobytes() for begin, end in itertools.pairwise(ends)]
            requests.setdefault(int(number), (signature, {}))[1][name] = value
    return [requests[number] for number in sorted(requests)]
