"""Reading of `.npz` files in memory that is bounded by the size of the file."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_arcface._messages import short
from keras_arcface._regular_files import open_regular


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an uncompressed `.npz` file.

    Raises:
        Exception: if the file is damaged; one of many types from `zipfile` and NumPy, also while an array is read.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        declared, size = sum(member.file_size for member in archive.infolist()), os.fstat(file.fileno()).st_size
        if declared > size:
            raise ValueError(f"{declared} bytes of content in a file of {size} bytes")
        yield archive


def read_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Reads an array. Unlike `np.load`, it does not allocate an array that is larger than the file.

    Args:
        archive: file that was opened by `open_npz`.
        name: name of the array.
        dtype: expected type.
        shape: expected shape; None for `(n,)` with any n.

    Raises:
        ValueError: if the array has another type, shape or size.
        Exception: if the file is damaged.
    """
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        found, is_column_major, stored = np.lib.format.read_array_header_1_0(file)
        num_bytes = member.file_size - file.tell()
        has_shape = len(found) == 1 if shape is None else found == shape
        # NumPy stores types of other packages, such as bfloat16, as bytes without a type.
        has_type = stored in (dtype, np.dtype(f"V{dtype.itemsize}"))
        if not has_type or not has_shape or math.prod(found) * dtype.itemsize != num_bytes:
            raise ValueError(
                f"the array {name!r} must have the type {dtype}, the shape {'(n,)' if shape is None else shape} and "
                f"the size of its content. Received: type {short(stored)} and shape {short(found)} in {num_bytes} bytes"
            )
        return np.frombuffer(file.read(num_bytes), dtype).reshape(found, order="F" if is_column_major else "C")
