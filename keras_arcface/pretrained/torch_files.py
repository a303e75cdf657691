"""Readers of the containers that `torch.save` writes: a zip archive, or pickles followed by values (before 1.6)."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_arcface._messages import short
from keras_arcface.pretrained.torch_pickle import Opaque
from keras_arcface.pretrained.torch_pickle import Tensor
from keras_arcface.pretrained.torch_pickle import describe
from keras_arcface.pretrained.torch_pickle import read_pickle
from keras_arcface.pretrained.weights import UnsupportedFileError

_DTYPES = {
    **{
        "torch FloatStorage": "f4",
        "torch DoubleStorage": "f8",
        "torch HalfStorage": "f2",
        "torch BFloat16Storage": "u2",
    },
    **{"torch LongStorage": "i8", "torch IntStorage": "i4", "torch ShortStorage": "i2", "torch CharStorage": "i1"},
    **{"torch ByteStorage": "u1", "torch BoolStorage": "?"},
}
_MAGIC_NUMBER, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the format before PyTorch 1.6


class _Storage(NamedTuple):
    """Description of the values that one or several tensors share."""

    kind: str  # key in `_DTYPES`
    key: str
    size: int


class TorchFile:
    """File that `torch.save` wrote.

    Args:
        path: path of the file.

    Attributes:
        content: saved object, as returned by `read_pickle`. Use `array` to read its tensors.

    Raises:
        UnsupportedFileError: if the file is compressed, or its content exceeds its size.
        Exception: of many types if the file is damaged.
    """

    def __init__(self, path: Path):
        self._bytes: dict[str, bytes] = {}
        self._order = "<"
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        self.content = self._read_zip(path) if is_zip else self._read_legacy(path)

    def _read_zip(self, path):
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive.infolist(), path.stat().st_size)
            names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(names) != 1:
                raise UnsupportedFileError(f"expected a zip archive with one data.pkl. Received: {len(names)} of them")
            root = names[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist():
                self._order = {b"little": "<", b"big": ">"}[archive.read(f"{root}byteorder")]

            def load(identifier):
                storage = _to_storage(identifier)
                if isinstance(storage, _Storage) and storage.key not in self._bytes:
                    self._bytes[storage.key] = archive.read(f"{root}data/{storage.key}")
                return storage

            return read_pickle(io.BytesIO(archive.read(names[0])), load)

    def _read_legacy(self, path):
        file = io.BytesIO(path.read_bytes())
        storages = {}

        def load(identifier):
            storage = _to_storage(identifier)
            if isinstance(storage, _Storage):
                storages[storage.key] = storage
            return storage

        for expected in (_MAGIC_NUMBER, _PROTOCOL):
            received = read_pickle(file, load)
            if received != expected:
                raise UnsupportedFileError(
                    f"expected a state dict, as written by torch.save. Received: a pickle of {describe(received)}"
                )
        read_pickle(file, load)  # properties of the computer that wrote the file
        content = read_pickle(file, load)
        for key in read_pickle(file, load):
            if not isinstance(key, str):
                raise UnsupportedFileError(f"expected names of storages. Received: {describe(key)}")
            size = int.from_bytes(file.read(8), "little")
            self._bytes[key] = file.read(size * np.dtype(_DTYPES[storages[key].kind]).itemsize)
        return content

    def array(self, tensor: Tensor) -> np.ndarray:
        """Returns the values of a tensor.

        Raises:
            UnsupportedFileError: if the tensor is larger than its storage, or the storage is larger than in the file.
        """
        storage, offset, shape, strides = tensor
        if not isinstance(storage, _Storage):
            raise UnsupportedFileError("expected values of a type that NumPy has. Received: another type")
        dtype = np.dtype(self._order + _DTYPES[storage.kind])
        stored = self._bytes.get(storage.key, b"")
        if len(stored) != storage.size * dtype.itemsize:
            raise UnsupportedFileError(
                f"expected {storage.size} values of {dtype.itemsize} bytes. Received: {len(stored)} bytes"
            )
        if not all(_are_sizes(numbers) for numbers in (shape, strides, (offset,))) or len(shape) != len(strides):
            raise UnsupportedFileError("expected a shape, and a stride for each axis. Received: other objects")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if math.prod(shape) > storage.size or (all(shape) and last >= storage.size):
            raise UnsupportedFileError(
                f"expected a tensor within its {storage.size} values. Received: shape {shape}, strides {strides}"
            )
        values = np.frombuffer(stored, dtype)[offset:]
        array = np.lib.stride_tricks.as_strided(values, shape, [stride * dtype.itemsize for stride in strides])
        if storage.kind == "torch BFloat16Storage":  # the upper half of a float32
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """Checks that no entry of an archive is compressed, and that all entries together fit into it."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnsupportedFileError(
                f"expected a zip archive without compression. Received: {short(entry.filename)} with "
                f"{entry.file_size} bytes in {entry.compress_size}"
            )
    total = sum(entry.file_size for entry in entries)
    if total > file_size:
        raise UnsupportedFileError(f"expected entries within {file_size} bytes. Received: entries of {total} bytes")


def _to_storage(identifier: Any) -> Any:
    """Returns the storage with an identifier in a pickle."""
    _, kind, key, _, size, *views = identifier
    is_known = isinstance(kind, Opaque) and kind.name in _DTYPES and not any(view is not None for view in views)
    if not is_known or not isinstance(key, str) or not _are_sizes((size,)):
        return Opaque("a storage")
    return _Storage(kind.name, key, size)


def _are_sizes(numbers: Any) -> bool:
    """Returns whether an object is a tuple of at most 8 integers from 0 to 2^62."""
    is_tuple = isinstance(numbers, tuple) and len(numbers) <= 8
    return is_tuple and all(type(number) is int and 0 <= number <= 2**62 for number in numbers)
