"""Requests and answers as one `.npz`, strings among them, without pickles.

An entry's key is `number/signature/name`, of the request and of the input or output. Strings, lists of bytes here,
become two arrays: all bytes in a row, and where each ends.
"""

import itertools

import numpy as np


def save(path, requests) -> None:
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
    np.savez(path, **stored)


def load(path) -> list:
    """Reads what `save` wrote."""
    requests = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            number, signature, name, *kind = key.split("/")
            if kind == ["ends"]:
                continue
            value = stored[key]
            if kind == ["bytes"]:
                ends = [0, *stored[f"{number}/{signature}/{name}/ends"].tolist()]
                value = [value[begin:end].tobytes() for begin, end in itertools.pairwise(ends)]
            requests.setdefault(int(number), (signature, {}))[1][name] = value
    return [requests[number] for number in sorted(requests)]
