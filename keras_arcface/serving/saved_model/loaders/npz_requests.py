"""Requests and answers as one `.npz` file, including strings, without pickles.

The key of an entry is `number/signature/name`, with the name of the input or output. A list of bytes is stored as two
arrays: all bytes concatenated, and the end of each item.
"""

import itertools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np


def save(path: str | os.PathLike, requests: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Writes `[(signature, {name: array or list of bytes})]`."""
    stored = {}
    for number, (signature, values) in enumerate(requests):
        for name, value in values.items():
            key = f"{number}/{signature}/{name}"
            if isinstance(value, list):
                stored[f"{key}/bytes"] = np.frombuffer(b"".join(value), np.uint8)
                stored[f"{key}/ends"] = np.cumsum([len(item) for item in value], dtype=np.int64)
            else:
                stored[key] = np.asarray(value)
    np.savez(path, **stored)  # type: ignore[arg-type]  # the stubs take a key for `allow_pickle`


def load(path: str | os.PathLike) -> list[tuple[str, dict[str, Any]]]:
    """Reads a file of `save`."""
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
