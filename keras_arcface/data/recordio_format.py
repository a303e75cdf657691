"""Parser of the records of RecordIO files.

A record consists of a magic number (4 bytes), the kind and length of the following part (4 bytes), the part, and zeros
up to a multiple of 4 bytes. A payload that contains the magic number is split there into several parts. The payload is
a header with the label, followed by the encoded image. All numbers are little-endian.
"""

import array
import logging
import struct
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface.data.forward_reader import ForwardReader
from keras_arcface.data.forward_reader import Read

MAGIC = b"\x0a\x23\xd7\xce"
# The first label of a record is within this many bytes: the frame, the header and one float32.
LABEL_PREFIX_BYTES = 36

_FRAME = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")  # number of labels, label, id, id2
_LABEL = struct.Struct("<f")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_STRIDE = 16  # a scan remembers where a record ends for every 16th of its parts
# float32 represents all integers up to this one. Above it, neighboring classes may have the same label.
_MAX_EXACT_LABEL = 2**24

_log = logging.getLogger(__name__)


def unpack_record(raw: bytes, offset: int, path: Path) -> tuple[float, int, bytes]:
    """Unpacks the label, id and image of a record.

    Args:
        raw: bytes of the record.
        offset: position of the record in the file.
        path: path of the file for error messages.

    Returns:
        `(label, id, image)`, with the first label if a record has several.

    Raises:
        ValueError: if the record is damaged. The message names the file and offset.
    """
    # Nearly every record has one part. Its kind is 0, so the second number of the frame is its length.
    magic, length = _FRAME.unpack_from(raw) if len(raw) >= _FRAME.size else (b"", 0)
    start, end = _FRAME.size, _FRAME.size + length
    if magic != MAGIC or end + -length % 4 != len(raw) or any(raw[end:]):
        raw = _join_parts(raw, offset, path)
        start, end = 0, len(raw)
    if end - start < _HEADER.size:
        raise ValueError(
            f"{path}: damaged record at offset {offset}: expected a header of {_HEADER.size} bytes. "
            f"Received: {end - start} bytes"
        )
    num_labels, label, id_, _ = _HEADER.unpack_from(raw, start)
    start += _HEADER.size
    if num_labels:
        if num_labels > (end - start) // 4:
            raise ValueError(
                f"{path}: damaged record at offset {offset}: expected {num_labels} labels of 4 bytes. "
                f"Received: {end - start} bytes"
            )
        (label,) = _LABEL.unpack_from(raw, start)
    return label, id_, raw[start + 4 * num_labels : end]


def unpack_label(prefix: bytes, num_bytes: int) -> float | None:
    """Returns the label of a record from its first `LABEL_PREFIX_BYTES` bytes.

    Args:
        prefix: first bytes of the record.
        num_bytes: size of the whole record.

    Returns:
        The label, or None if the whole record must be read, because it has several parts or is damaged.
    """
    try:
        magic, length = _FRAME.unpack_from(prefix)
        num_labels, label, _, _ = _HEADER.unpack_from(prefix, _FRAME.size)
        if magic != MAGIC or _FRAME.size + length + -length % 4 != num_bytes or _HEADER.size + 4 * num_labels > length:
            return None
        return _LABEL.unpack_from(prefix, _FRAME.size + _HEADER.size)[0] if num_labels else label
    except struct.error:
        return None


def check_label(label: float, path: Path, offset: int) -> int:
    """Converts a label to an integer.

    Raises:
        ValueError: if the label is not an integer of at least 0, or is so large that float32 cannot represent all
            integers. The message names the file and offset.
    """
    if label >= _MAX_EXACT_LABEL:
        raise ValueError(
            f"{path}: the record at offset {offset} must have a label below {_MAX_EXACT_LABEL}. RecordIO stores labels "
            "as float32, which cannot represent all larger integers. Pass the true labels as "
            f"RecordIO(path, labels=...). Received: label={label:.0f}"
        )
    if not (label >= 0 and label.is_integer()):
        raise ValueError(
            f"{path}: damaged record at offset {offset}: expected an integer label of at least 0. "
            f"Received: label={label}"
        )
    return int(label)


def scan(read: Read, size: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Finds all records in a file without an index, in time proportional to the size of the file.

    Args:
        read: function that reads from the file.
        size: size of the file.
        path: path of the file for messages.

    Returns:
        `(starts, ends)`, two `(n,)` int64 arrays. A damaged section is treated as one record.
    """
    starts, ends = array.array("q"), array.array("q")
    known_ends: dict[int, int | None] = {}
    reader = ForwardReader(read, size, _FRAME.size)
    start = 0
    with tqdm(total=size, desc=f"scanning {path.name}", unit="B", unit_scale=True, delay=1, leave=False) as progress:
        while start < size:
            end = end_of_record(read, start, size, known_ends)
            if end is None or not (end == size or read(end, 4) == MAGIC):
                following = reader.find(start + 4, _find_record)
                # Either the length of this record or the magic number of the next one is wrong. In the second case, the
                # part at the end of this record ends where the following record starts.
                if end is None or end > following or _end_of_part(read(end, _FRAME.size), end) != following:
                    _log.warning("%s: damaged between offsets %d and %d", path, start, following)
                    end = following
            starts.append(start)
            ends.append(end)
            progress.update(end - start)
            start = end
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _find_record(chunk: bytes, start: int, offset: int) -> int | None:
    position = chunk.find(MAGIC, start)
    while 0 <= position <= len(chunk) - _FRAME.size:
        kind = _FRAME.unpack_from(chunk, position)[1] >> _LENGTH_BITS
        if (offset + position) % 4 == 0 and kind in (_WHOLE, _FIRST):
            return position
        position = chunk.find(MAGIC, position + 1)
    return None


def end_of_record(read: Read, start: int, size: int, known_ends: dict[int, int | None] | None = None) -> int | None:
    """Returns the end of a record according to the lengths of its parts, or None if they are not valid.

    Args:
        read: function that reads from the file.
        start: position of the record.
        size: largest end of the record.
        known_ends: results at the positions of later parts, by earlier calls with the same dict and `size`. In a
            damaged file, many records may seem to continue with the same parts.
    """
    known_ends = {} if known_ends is None else known_ends
    position, end, num_parts, passed = start, None, 0, []
    while num_parts == 0 or position not in known_ends:
        frame = read(position, _FRAME.size)
        end = _end_of_part(frame, position)
        kinds = (_MIDDLE, _LAST) if num_parts else (_WHOLE, _FIRST)
        if end is None or end > size or not frame.startswith(MAGIC) or _kind(frame) not in kinds:
            end = None
            break
        if _kind(frame) in (_WHOLE, _LAST):
            break
        position, num_parts = end, num_parts + 1
        if num_parts % _STRIDE == 0:
            passed.append(position)
    else:
        end = known_ends[position]
    known_ends.update(dict.fromkeys(passed, end))
    return end


def incomplete_index_message(path: Path, offset: int, missing: int) -> str:
    """Returns the error message for an index that lacks the record at offset `missing`, after the one at `offset`."""
    return (
        f"{path.with_suffix('.idx')} has only part of the records of {path}. Expected: an index with every record, or "
        f"RecordIO(path, index=False), which scans the file. Received: an index with offset {offset} but without "
        f"{missing}, where the next record starts"
    )


def _kind(frame: bytes) -> int:
    return _FRAME.unpack(frame)[1] >> _LENGTH_BITS


def _end_of_part(frame: bytes, start: int) -> int | None:
    if len(frame) < _FRAME.size:
        return None
    length = _FRAME.unpack(frame)[1] & (1 << _LENGTH_BITS) - 1
    return start + _FRAME.size + length + -length % 4


def _join_parts(raw: bytes, offset: int, path: Path) -> bytes:
    """Returns the payload of a record, joined from its parts."""

    def damaged(reason: str) -> ValueError:
        return ValueError(f"{path}: damaged record at offset {offset}: {reason}")

    parts: list[bytes] = []
    position = 0
    while True:
        if len(raw) - position < _FRAME.size:
            raise damaged(
                f"expected a frame of {_FRAME.size} bytes after {position} bytes. Received: {len(raw) - position} bytes"
            )
        magic, kind_and_length = _FRAME.unpack_from(raw, position)
        kind, length = kind_and_length >> _LENGTH_BITS, kind_and_length & (1 << _LENGTH_BITS) - 1
        if magic != MAGIC:
            raise damaged(f"expected the magic number {MAGIC.hex()} after {position} bytes. Received: {magic.hex()}")
        if kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
            raise damaged(f"expected a part of kind {'2 or 3' if parts else '0 or 1'}. Received: {kind}")
        position += _FRAME.size
        if length > len(raw) - position:
            raise damaged(f"expected {length} more bytes. Received: {len(raw) - position} bytes")
        parts.append(raw[position : position + length])
        position += length
        padding = raw[position : position + -length % 4]
        if any(padding):
            raise damaged(f"expected zeros as padding. Received: {padding.hex()}")
        position += -length % 4
        if kind in (_WHOLE, _LAST):
            break
    if position < len(raw) and raw[position : position + 4] == MAGIC:
        raise ValueError(incomplete_index_message(path, offset, offset + position))
    if position != len(raw):
        raise damaged(f"expected {len(raw)} bytes. Received: {position} bytes")
    return parts[0] if len(parts) == 1 else MAGIC.join(parts)
