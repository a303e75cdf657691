"""The framing of TFRecord files, with its checksums: what TensorFlow's reader does, and names file and offset.

A record is its length (8 bytes, little-endian), a checksum of the length (4), the data and a checksum of the data (4).
TensorFlow's own reader says of a damaged record neither in which file it is, nor can it go on behind it.
"""

import functools
import os
import struct
from collections.abc import Callable
from collections.abc import Iterator

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_BEFORE, _AFTER = 12, 4  # bytes around the data
_CHUNK = 1 << 20


class DamagedRecordError(ValueError):
    """A record whose checksum or framing does not hold. The message names file and offset."""


def frame(*parts: bytes) -> list[bytes]:
    """The pieces to write for a record whose data are given in parts."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return [_head(sum(map(len, parts))), *parts, _masked(crc)]


def read_records(path, on_damage: Callable[[DamagedRecordError], None] | None = None) -> Iterator[tuple[int, bytes]]:
    """Reads a file from its start to its end.

    Args:
        path: the file.
        on_damage: called with the error for every damaged stretch, after which reading goes on with the next record
            that is intact; None to raise the error.

    Yields:
        `(offset, data)` of each record.

    Raises:
        DamagedRecordError: naming file and offset.
    """
    with open(path, "rb", buffering=_CHUNK) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            head = file.read(_BEFORE)
            length = _length(head)
            if length is None:
                reason = "the checksum of its length does not hold"
            elif length > size - offset - _BEFORE - _AFTER:
                reason = f"it has {length} bytes, but the file ends before"
            else:
                data = file.read(length)
                if file.read(_AFTER) == _masked(google_crc32c.value(data)):
                    yield offset, data
                    offset += _BEFORE + length + _AFTER
                    continue
                reason = "the checksum of its data does not hold"
            error = DamagedRecordError(f"{path}: damaged record at offset {offset}: {reason}")
            if on_damage is None:
                raise error
            on_damage(error)
            offset = file.seek(_next_record(file.fileno(), offset, length, size))


def read_record(file: int, offset: int, length: int, path) -> bytes:
    """Reads the record of a known place from an open file descriptor; `path` is for the error.

    Raises:
        DamagedRecordError: naming file and offset.
    """
    raw = os.pread(file, _BEFORE + length + _AFTER, offset)
    data = raw[_BEFORE : _BEFORE + length]
    if _length(raw[:_BEFORE]) != length or raw[_BEFORE + length :] != _masked(google_crc32c.value(data)):
        raise DamagedRecordError(f"{path}: damaged record at offset {offset}: its checksums do not hold")
    return data


def read_places(path, start_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Walks through a file without reading it whole: `(offset, length, first bytes of the data)` of each record.

    Raises:
        DamagedRecordError: naming file and offset, for a damaged length. The data are not checked.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        offset = 0
        while offset < size:
            head = os.pread(file, _BEFORE + start_bytes, offset)
            length = _length(head[:_BEFORE])
            if length is None or length > size - offset - _BEFORE - _AFTER:
                raise DamagedRecordError(f"{path}: damaged record at offset {offset}: its length is damaged")
            yield offset, length, head[_BEFORE : _BEFORE + length]
            offset += _BEFORE + length + _AFTER
    finally:
        os.close(file)


@functools.lru_cache(maxsize=1 << 16)
def _head(length: int) -> bytes:
    packed = _LENGTH.pack(length)
    return packed + _masked(google_crc32c.value(packed))


def _masked(crc: int) -> bytes:
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _length(head: bytes) -> int | None:
    """The length that the first 12 bytes of a record tell; None if its checksum does not hold."""
    if len(head) != _BEFORE or head[8:] != _masked(google_crc32c.value(head[:8])):
        return None
    return _LENGTH.unpack_from(head)[0]


def _next_record(file: int, damaged: int, length: int | None, size: int) -> int:
    """Where the next record starts behind a damaged one; the end of the file if there is none."""
    if length is not None:
        return min(damaged + _BEFORE + length + _AFTER, size)
    # The upper half of a length is zero: only such places are looked at.
    start = damaged + 1
    while start < size:
        chunk = os.pread(file, _CHUNK, start)
        zeros = chunk.find(bytes(4), 4)
        while zeros >= 0:
            if _length(chunk[zeros - 4 : zeros - 4 + _BEFORE]) is not None:
                return start + zeros - 4
            zeros = chunk.find(bytes(4), zeros + 1)
        start += max(1, len(chunk) - _BEFORE + 1)  # a head may lie across the border
    return size
