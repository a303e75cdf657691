"""Readers of the index (`.idx`) and the `property` file of a RecordIO file."""

import warnings
from pathlib import Path

import numpy as np

from keras_arcface._messages import short
from keras_arcface.data import recordio_format

_MAX_PROPERTY_LENGTH = 80  # characters of line 1
_NUM_SAMPLES = 33  # number of records whose successor is searched in the index


def read_index(path: Path, size: int, records: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the index of a RecordIO file.

    Args:
        path: path of the index, with lines of `key<tab>offset`.
        size: size of the RecordIO file.
        records: path of the RecordIO file for error messages.

    Returns:
        `(keys, offsets, ends)`, three `(n,)` int64 arrays in the order of the keys. A record ends where the next record
        in the file starts.

    Raises:
        FileNotFoundError: if the index does not exist.
        ValueError: if the index is damaged. The message names the index.
    """

    lines = "lines of `key<tab>offset`"

    def damaged(expected: str, received: str) -> ValueError:
        return ValueError(
            f"{path} is damaged. Expected: {expected}, or index=False to scan the file without the index. "
            f"Received: {received}"
        )

    if not path.is_file():
        raise FileNotFoundError(f"{path} must have {lines}, unless index=False. Received: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy warns about an empty file
            entries = np.loadtxt(path, np.int64, comments=None, delimiter="\t", ndmin=2, encoding="latin1")
    except (ValueError, OverflowError) as error:
        raise damaged(lines, str(error)) from error
    if entries.size == 0:
        raise damaged(lines, "an empty file")
    if entries.shape[1:] != (2,):
        raise damaged(lines, f"{entries.shape[1]} columns")
    entries = entries[np.argsort(entries[:, 0], kind="stable")]
    keys, offsets = entries[:, 0].copy(), entries[:, 1].copy()
    by_offset = np.argsort(offsets, kind="stable")
    starts = offsets[by_offset]
    is_wrong = (offsets < 0) | (offsets >= size) | (offsets % 4 != 0)
    if is_wrong.any():
        key, offset = entries[np.argmax(is_wrong)]
        raise damaged(
            f"offsets that are multiples of 4 below {size}, the size of {records}", f"key {key} with offset {offset}"
        )
    for name, values in (("key", keys), ("offset", starts)):
        is_repeated = values[1:] == values[:-1]
        if is_repeated.any():
            raise damaged(f"every {name} only once", f"{name} {values[1:][is_repeated][0]} more than once")
    if keys[0] < 0:
        raise damaged("keys of at least 0", f"key {keys[0]}")
    if starts[0] != 0:
        raise damaged("a key with offset 0, where the first record starts", f"{starts[0]} as the smallest offset")
    ends = np.empty_like(offsets)
    ends[by_offset] = np.append(starts[1:], size)
    return keys, offsets, ends


def check_index_is_complete(read: recordio_format.Read, offsets: np.ndarray, ends: np.ndarray, records: Path) -> None:
    """Raises a ValueError if the index lacks the successor of a record, for a sample of the records."""
    by_offset = np.argsort(offsets, kind="stable")
    for index in by_offset[np.unique(np.linspace(0, len(offsets) - 1, _NUM_SAMPLES, dtype=int))]:
        offset, expected_end = offsets.item(index), ends.item(index)
        end = recordio_format.end_of_record(read, offset, expected_end)
        if end is not None and end < expected_end and read(end, 4) == recordio_format.MAGIC:
            raise ValueError(recordio_format.incomplete_index_message(records, offset, end))


def read_property(path: Path) -> tuple[int, int, int] | None:
    """Reads line 1 of a `property` file.

    Returns:
        `(num_classes, height, width)`, or None if the file does not exist.

    Raises:
        ValueError: if the line is invalid. The message names the file.
    """
    if not path.is_file():
        return None
    with open(path, encoding="latin1") as file:
        line = file.readline(_MAX_PROPERTY_LENGTH)
    try:
        num_classes, height, width = map(int, line.split(","))
        if min(num_classes, height, width) <= 0 or max(num_classes, height, width) >= 2**31:
            raise ValueError("out of range")
    except ValueError:
        raise ValueError(
            f"{path} is damaged. Expected: `num_classes,height,width` in line 1. Received: {short(line.rstrip())}"
        ) from None
    return num_classes, height, width
