"""The files beside a RecordIO file: its index (`.idx`) and `property`."""

import warnings
from pathlib import Path

import numpy as np

from keras_arcface.data import recordio_format

_NUM_PROBES = 33  # records whose successor is looked up in the index


def read_index(path: Path, size: int, records: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads an index.

    Args:
        path: the index, with lines of `key<tab>offset`.
        size: the size of the RecordIO file.
        records: the path of the RecordIO file for error messages.

    Returns:
        `(keys, offsets, ends)`, each `(n,)` int64, in the order of the keys. A record ends where the next one in the
        file starts.

    Raises:
        FileNotFoundError: if the index does not exist.
        ValueError: naming the index, if it is damaged.
    """

    def damaged(reason: str) -> ValueError:
        return ValueError(f"{path} is damaged: {reason}. Use index=False to scan the file without the index")

    if not path.is_file():
        raise FileNotFoundError(f"There is no index at {path}. Expected: lines of `key<tab>offset`, or index=False")
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy warns about an empty file
            entries = np.loadtxt(path, np.int64, comments=None, delimiter="\t", ndmin=2, encoding="latin1")
    except (ValueError, OverflowError) as error:
        raise damaged(str(error)) from error
    if entries.size == 0:
        raise damaged("it is empty")
    if entries.shape[1:] != (2,):
        raise damaged(f"expected lines of `key<tab>offset`. Received: {entries.shape[1]} columns")
    entries = entries[np.argsort(entries[:, 0], kind="stable")]
    keys, offsets = entries[:, 0].copy(), entries[:, 1].copy()
    by_offset = np.argsort(offsets, kind="stable")
    starts = offsets[by_offset]
    is_wrong = (offsets < 0) | (offsets >= size) | (offsets % 4 != 0)
    if is_wrong.any():
        key, offset = entries[np.argmax(is_wrong)]
        raise damaged(f"key {key} has offset {offset}, not a multiple of 4 below {size}, the size of {records}")
    for name, values in (("key", keys), ("offset", starts)):
        is_repeated = values[1:] == values[:-1]
        if is_repeated.any():
            raise damaged(f"{name} {values[1:][is_repeated][0]} occurs more than once")
    if keys[0] < 0:
        raise damaged(f"key {keys[0]} is negative")
    if starts[0] != 0:
        raise damaged(f"no key has offset 0, where the first record starts. The smallest offset is {starts[0]}")
    ends = np.empty_like(offsets)
    ends[by_offset] = np.append(starts[1:], size)
    return keys, offsets, ends


def check_index_is_complete(read: recordio_format.Read, offsets: np.ndarray, ends: np.ndarray, records: Path) -> None:
    """Raises a ValueError if the file contains records that the index lacks, as far as a sample of records shows."""
    by_offset = np.argsort(offsets, kind="stable")
    for index in by_offset[np.unique(np.linspace(0, len(offsets) - 1, _NUM_PROBES, dtype=int))]:
        offset, expected_end = offsets.item(index), ends.item(index)
        end = recordio_format.end_of_record(read, offset, expected_end)
        if end is not None and end < expected_end and read(end, 4) == recordio_format.MAGIC:
            raise ValueError(recordio_format.missing_in_index_message(records, offset, end))


def read_property(path: Path) -> tuple[int, int, int] | None:
    """Reads `num_classes,height,width` from line 1 of a `property` file. Returns None if the file does not exist.

    Raises:
        ValueError: naming the file, if the line is invalid.
    """
    if not path.is_file():
        return None
    line = path.read_text("latin1").partition("\n")[0]
    try:
        num_classes, height, width = map(int, line.split(","))
        if min(num_classes, height, width) <= 0:
            raise ValueError("not positive")
    except ValueError:
        raise ValueError(
            f"{path} is damaged. Expected: `num_classes,height,width` in line 1. Received: {line[:80]!r}"
        ) from None
    return num_classes, height, width
