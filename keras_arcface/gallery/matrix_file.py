"""File with the templates of all people as rows of a matrix, which processes map into their memory.

The file is a copy of what the database contains, for the speed of a search, and is never the only place of anything.
Rows are only written when the file is created. Later, they can be erased: a process that maps the file knows from the
database that they are stale, and does not use them.
"""

import dataclasses
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from keras_arcface._regular_files import open_regular

KINDS = ("float32", "int8")
TOKEN_BYTES = 16
_HEADER = struct.Struct("<8s8sQQQQ16sd")  # magic, kind, dimension, capacity, rows, generation, token, largest error
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"KAGMTX01"
_PAGE = 4096
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of a matrix file: the header, the rows, and for int8 the scales of the rows.

    Attributes:
        kind: "float32" or "int8".
        dimension: numbers per row.
        capacity: number of rows. Unused rows at the end are zero and take no space on the disk.
    """

    kind: str
    dimension: int
    capacity: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self.kind == "float32" else np.int8)

    @property
    def row_bytes(self) -> int:
        return self.dimension * self.dtype.itemsize

    @property
    def scales_start(self) -> int:
        return _PAGE + math.ceil(self.capacity * self.row_bytes / _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        return self.scales_start + (4 * self.capacity if self.kind == "int8" else 0)

    def row_start(self, slot: int) -> int:
        return _PAGE + slot * self.row_bytes


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a matrix file.

    Attributes:
        layout: sizes of the file.
        rows: number of people when it was written.
        generation: generation of the database when it was written.
        token: random bytes that the database has too, while the file is valid. A file beside a restored backup of the
            database has another one.
        largest_error: the largest L2 distance of a row from the template that it stands for; 0 for float32.
    """

    layout: Layout
    rows: int
    generation: int
    token: bytes
    largest_error: float

    def to_bytes(self) -> bytes:
        layout = self.layout
        content = _HEADER.pack(
            *(_MAGIC, layout.kind.encode(), layout.dimension, layout.capacity),
            *(self.rows, self.generation, self.token, self.largest_error),
        )
        return content + _CHECKSUM.pack(zlib.crc32(content))


def read_header(file: IO[bytes], kind: str) -> Header | None:
    """Returns the header of a matrix file; None if the file is damaged or of another kind."""
    content = os.pread(file.fileno(), _HEADER.size + _CHECKSUM.size, 0)
    if len(content) != _HEADER.size + _CHECKSUM.size:
        return None
    if zlib.crc32(content[: _HEADER.size]) != _CHECKSUM.unpack(content[_HEADER.size :])[0]:
        return None
    magic, stored, dimension, capacity, rows, generation, token, largest_error = _HEADER.unpack(content[: _HEADER.size])
    layout = Layout(kind, dimension, capacity)
    if magic != _MAGIC or stored.rstrip(b"\0") != kind.encode() or not dimension or not rows <= capacity:
        return None
    if os.fstat(file.fileno()).st_size != layout.size or not 0 <= largest_error <= 1:
        return None
    return Header(layout, rows, generation, token, largest_error)


def map_rows(file: IO[bytes], layout: Layout) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps a matrix file. Changes of the arrays are private to this process and never reach the file.

    Returns:
        `(rows, scales)`: `(capacity, dim)` float32 or int8, and `(capacity,)` float32 for int8, otherwise None.
    """
    # Without a reservation, the matrix may be larger than the memory: unchanged pages are those of the file.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(file.fileno(), layout.size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    count = layout.capacity * layout.dimension
    rows = np.frombuffer(memory, layout.dtype, count, _PAGE).reshape(layout.capacity, layout.dimension)
    if layout.kind == "float32":
        return rows, None
    return rows, np.frombuffer(memory, np.float32, layout.capacity, layout.scales_start)


def write_header(file: IO[bytes], header: Header) -> None:
    """Writes the header, and gives the file its final size."""
    file.flush()
    os.ftruncate(file.fileno(), header.layout.size)
    os.pwrite(file.fileno(), header.to_bytes(), 0)


def write_rows(file: IO[bytes], layout: Layout, first: int, rows: np.ndarray, scales: np.ndarray | None) -> None:
    """Writes rows from the slot `first` on."""
    file.seek(layout.row_start(first))
    file.write(rows.data)
    if scales is not None:
        file.seek(layout.scales_start + 4 * first)
        file.write(scales.data)


def erase_rows(file: IO[bytes], layout: Layout, slots: Iterable[int]) -> None:
    """Overwrites rows with zeros."""
    zeros = bytes(layout.row_bytes)
    for slot in slots:
        if 0 <= slot < layout.capacity:
            file.seek(layout.row_start(slot))
            file.write(zeros)
            if layout.kind == "int8":
                file.seek(layout.scales_start + 4 * slot)
                file.write(bytes(4))


def erase(path: Path, kind: str, token: bytes, new_token: bytes, slots: list[int]) -> bool:
    """Erases rows of a matrix file on the disk, and gives the file a new token.

    Returns:
        Whether the file is valid. A file that is damaged or has another token is removed.
    """
    try:
        with open_regular(path) as file:
            header = read_header(file, kind)
    except FileNotFoundError:
        return False
    if header is None or header.token != token:
        path.unlink(missing_ok=True)
        return False
    with open(path, "r+b") as file:
        erase_rows(file, header.layout, slots)
        file.flush()
        os.fsync(file.fileno())
        write_header(file, dataclasses.replace(header, token=new_token))
        os.fsync(file.fileno())
    return True
