"""Reader and writer of TFRecord files, with checksums.

A record consists of the length of its data (8 bytes, little-endian), a checksum of the length (4 bytes), the data, and
a checksum of the data (4 bytes). TensorFlow's reader is not used because it does not report the file and offset of a
damaged record, and cannot continue after it.
"""

import functools
import os
import re
import struct
from collections.abc import Callable
from collections.abc import Iterator

import google_crc32c

from keras_arcface.data.forward_reader import CHUNK_BYTES
from keras_arcface.data.forward_reader import ForwardReader

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
MIN_RECORD_BYTES = _HEADER_BYTES + _FOOTER_BYTES
_UPPER_HALF = bytes(4)
_NONZERO = re.compile(rb"[^\0]")


class DamagedRecordError(ValueError):
    """Error for a record with a wrong checksum or length. The message names the file and the offset."""


def frame(*parts: bytes) -> list[bytes]:
    """Returns the pieces of a serialized record whose data is the concatenation of `parts`."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return [_header(sum(map(len, parts))), *parts, _masked_checksum(crc)]


def read_records(path, on_damage: Callable[[DamagedRecordError], object] | None = None) -> Iterator[tuple[int, bytes]]:
    """Iterates over all records of a file, in order.

    Args:
        path: path of the file.
        on_damage: function that is called with the error of every damaged section, before reading continues with the
            next undamaged record. None raises the error.

    Yields:
        `(offset, data)` of each record.

    Raises:
        DamagedRecordError: if a record is damaged and `on_damage` is None.
    """
    with open(path, "rb", buffering=CHUNK_BYTES) as file:
        size = os.fstat(file.fileno()).st_size
        reader = ForwardReader(lambda at, num_bytes: os.pread(file.fileno(), num_bytes, at), size, _HEADER_BYTES)
        offset = 0
        while offset < size:
            header = file.read(_HEADER_BYTES)
            length = _read_length(header)
            if length is None:
                reason = _length_error(header)
            elif length > size - offset - _HEADER_BYTES - _FOOTER_BYTES:
                reason = _end_error(length, size - offset)
            else:
                data = file.read(length)
                footer, checksum = file.read(_FOOTER_BYTES), _masked_checksum(google_crc32c.value(data))
                if footer == checksum:
                    yield offset, data
                    offset += _HEADER_BYTES + length + _FOOTER_BYTES
                    continue
                reason = f"expected data with checksum {footer.hex()}. Received: data with checksum {checksum.hex()}"
            error = DamagedRecordError(f"{path}: damaged record at offset {offset}: {reason}")
            if on_damage is None:
                raise error
            on_damage(error)
            offset = file.seek(_next_record(reader, offset, length, size))


def read_record(file: int, offset: int, length: int, path) -> bytes:
    """Reads one record.

    Args:
        file: descriptor of the open file.
        offset: position of the record in the file.
        length: number of bytes of the data of the record.
        path: path of the file for error messages.

    Returns:
        The data of the record.

    Raises:
        DamagedRecordError: if the record is damaged.
    """
    raw = os.pread(file, _HEADER_BYTES + length + _FOOTER_BYTES, offset)
    data = raw[_HEADER_BYTES : _HEADER_BYTES + length]
    if _read_length(raw[:_HEADER_BYTES]) != length or raw[_HEADER_BYTES + length :] != _masked_checksum(
        google_crc32c.value(data)
    ):
        raise DamagedRecordError(
            f"{path}: damaged record at offset {offset}: expected {length} bytes of data with correct checksums. "
            f"Received: {len(raw)} bytes with a wrong length or checksum"
        )
    return data


def read_prefixes(path, num_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """Iterates over the positions of all records and the first bytes of their data, without reading the rest.

    Args:
        path: path of the file.
        num_bytes: number of bytes to read from the data of each record.

    Yields:
        `(offset, length, first bytes of the data)` of each record. The data is not checked.

    Raises:
        DamagedRecordError: if the length of a record is damaged.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        offset = 0
        while offset < size:
            start = os.pread(file, _HEADER_BYTES + num_bytes, offset)
            length = _read_length(start[:_HEADER_BYTES])
            if length is None or length > size - offset - _HEADER_BYTES - _FOOTER_BYTES:
                reason = _length_error(start[:_HEADER_BYTES]) if length is None else _end_error(length, size - offset)
                raise DamagedRecordError(f"{path}: damaged record at offset {offset}: {reason}")
            yield offset, length, start[_HEADER_BYTES : _HEADER_BYTES + length]
            offset += _HEADER_BYTES + length + _FOOTER_BYTES
    finally:
        os.close(file)


@functools.lru_cache(maxsize=1 << 16)
def _header(length: int) -> bytes:
    packed = _LENGTH.pack(length)
    return packed + _masked_checksum(google_crc32c.value(packed))


def _masked_checksum(crc: int) -> bytes:
    return _CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _read_length(header: bytes) -> int | None:
    """Returns the length of the data of a record, or None if the checksum of the header is wrong."""
    if len(header) != _HEADER_BYTES or header[8:] != _masked_checksum(google_crc32c.value(header[:8])):
        return None
    return _LENGTH.unpack_from(header)[0]


def _length_error(header: bytes) -> str:
    return f"expected a length that matches its checksum. Received: header {header.hex()}"


def _end_error(length: int, bytes_left: int) -> str:
    expected = bytes_left - _HEADER_BYTES - _FOOTER_BYTES
    return f"expected a length of at most {expected} bytes, where the file ends. Received: {length} bytes"


def _next_record(reader: ForwardReader, damaged: int, length: int | None, size: int) -> int:
    """Returns the offset of the next record after a damaged one, or the size of the file after the last record."""
    if length is not None:
        return min(damaged + _HEADER_BYTES + length + _FOOTER_BYTES, size)
    return reader.find(damaged + 1, _find_header)


def _find_header(chunk: bytes, start: int, _: int) -> int | None:
    # The upper half of a length is zero. A search for zeros is faster than a checksum at every position. The
    # checksum that follows is not zero, so all but the last 7 of a series of zeros are skipped.
    zeros = chunk.find(_UPPER_HALF, start + 4)
    while zeros >= 0:
        nonzero = _NONZERO.search(chunk, zeros)
        if nonzero is None:
            return None
        zeros = max(zeros, nonzero.start() - 7)
        if _read_length(chunk[zeros - 4 : zeros - 4 + _HEADER_BYTES]) is not None:
            return zeros - 4
        zeros = chunk.find(_UPPER_HALF, zeros + 1)
    return None
