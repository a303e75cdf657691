"""Reader of texts, numbers, cells and structs in MAT-files of MATLAB 5 to 7.2.

`scipy.io.loadmat` crashes the process for some damaged files.
"""

import math
import zlib
from collections.abc import Collection
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 64 * 2**20  # of the file, and of its content after decompression
_MAX_DEPTH = 8  # of cells and structs in others
_HEADER_BYTES = 128
_VERSION = 0x0100

# Types of elements.
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}

# Classes of arrays.
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800  # flag


def read_mat(path: Path, fields: Collection[str]) -> dict[str, Any]:
    """Reads the variables of a MAT-file.

    Args:
        path: path of the file.
        fields: names of the fields of structs to read.

    Returns:
        A dictionary from the name of each variable to its value: a str for one row of characters, an array for real
        numbers, a list of values for cells, and a dictionary from field to the list of its values for structs. All are
        flat, in the order of the columns. Other values are None.

    Raises:
        ValueError: if the file is damaged, has another format, or is larger than `MAX_BYTES`. The message names it.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES} bytes. Received: {size} bytes")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER_BYTES])
    if order is None or np.frombuffer(content, f"{order}u2", 1, 124)[0] != _VERSION:
        raise ValueError(f"{path} must be a MAT-file of MATLAB 5 to 7.2. Received: {size} bytes with another header")
    variables, budget = {}, MAX_BYTES
    try:
        for kind, data in _elements(content[_HEADER_BYTES:], order):
            if kind == _COMPRESSED:
                data = _decompress(data, budget)
                budget -= len(data)
                kind, data = next(_elements(data, order))
            if kind != _MATRIX:
                raise ValueError(f"an element of the type {kind} instead of an array")
            name, value = _Array(data, order, fields).read(0)
            variables[name] = value
    except (ValueError, StopIteration, zlib.error) as error:
        raise ValueError(f"{path} must be an undamaged MAT-file. Received: {error or 'an incomplete array'}") from error
    return variables


def _decompress(data: bytes, limit: int) -> bytes:
    content = zlib.decompressobj().decompress(data, limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {MAX_BYTES} bytes after decompression")
    return content


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the data of each element in a block of bytes."""
    position = 0
    while position < len(data):
        kind, size = _numbers(data[position : position + 8], f"{order}u4", 2)
        start = position + 8
        if kind >> 16:  # an element of at most 4 bytes, which follow its type and size
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        end = start + size
        if end > len(data) or (start == position + 4 and size > 4):
            raise ValueError(f"an element of {size} bytes, of which {len(data) - start} exist")
        yield kind, data[start:end]
        position = end if kind == _COMPRESSED else position + 8 + (-(-size // 8) * 8 if start == position + 8 else 0)


def _numbers(data: bytes, dtype: str, count: int) -> list[int]:
    if len(data) < np.dtype(dtype).itemsize * count:
        raise ValueError(f"{len(data)} bytes, where {count} numbers are expected")
    return np.frombuffer(data, dtype, count).tolist()


class _Array:
    """Reader of one array.

    Args:
        data: content of an element of the type `_MATRIX`.
        order: byte order of the file.
        fields: names of the fields of structs to read.
    """

    def __init__(self, data: bytes, order: str, fields: Collection[str]):
        self._elements, self._order, self._fields, self._size = _elements(data, order), order, fields, len(data)

    def read(self, depth: int) -> tuple[str, Any]:
        """Returns the name and the value of the array."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} arrays in others")
        (flags,) = _numbers(next(self._elements)[1], f"{self._order}u4", 1)
        shape = np.frombuffer(next(self._elements)[1], f"{self._order}i4").tolist()
        if len(shape) < 2:
            raise ValueError(f"an array of {len(shape)} dimensions, where at least 2 are expected")
        name = next(self._elements)[1].decode("utf-8", "replace")
        count, kind = math.prod(shape), flags & 0xFF
        if not 0 <= count <= self._size:  # of bytes; every item of an array has at least one
            raise ValueError(f"an array of {count} items in {self._size} bytes")
        if kind == _CELL:
            return name, [self._read_item(depth) for _ in range(count)]
        if kind == _STRUCT:
            return name, self._read_struct(count, depth)
        if kind == _CHAR:
            return name, self._read_text(count) if count == shape[-1] or count == 0 else None
        if kind in _NUMERIC and not flags & _COMPLEX:
            return name, self._read_numbers(count)
        return name, None

    def _read_item(self, depth: int) -> Any:
        kind, data = next(self._elements)
        if kind != _MATRIX:
            raise ValueError(f"an element of the type {kind} instead of an array")
        return _Array(data, self._order, self._fields).read(depth + 1)[1] if data else None

    def _read_struct(self, count: int, depth: int) -> dict[str, list]:
        (length,) = _numbers(next(self._elements)[1], f"{self._order}i4", 1)
        text = next(self._elements)[1]
        if length < 1:
            raise ValueError(f"names of fields of {length} bytes")
        names = [text[start : start + length] for start in range(0, len(text), length)]
        fields = [name.partition(b"\0")[0].decode("utf-8", "replace") for name in names]
        values: dict[str, list] = {field: [] for field in fields if field in self._fields}
        for _ in range(count if fields else 0):
            for field in fields:
                if field in values:
                    values[field].append(self._read_item(depth))
                else:
                    next(self._elements)
        return values

    def _read_text(self, count: int) -> str:
        kind, data = next(self._elements, (1, b""))  # an empty text can have no data
        if kind not in _ENCODINGS:
            raise ValueError(f"a text of the type {kind}")
        encoding = _ENCODINGS[kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self._order == "<" else "-be"
        return data.decode(encoding)

    def _read_numbers(self, count: int) -> np.ndarray:
        kind, data = next(self._elements, (1, b""))
        if kind not in _NUMBERS:
            raise ValueError(f"numbers of the type {kind}")
        numbers = np.frombuffer(data, f"{self._order}{_NUMBERS[kind]}")
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers in an array of {count}")
        return numbers
