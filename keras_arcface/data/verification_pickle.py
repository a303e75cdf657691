"""Reads the pickles that verification sets (`lfw.bin`, `cfp_fp.bin` ...) are handed on as, and runs nothing in them.

A pickle is a program. This one may build lists, tuples, numbers and strings of bytes, and may name a handful of
functions, none of which is called: what stands in for them here only keeps the bytes of an array.
"""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np

# Every operation that a pickle of lists of bytes or arrays needs, from protocol 0 to 5. Not among them: those that call
# a class (OBJ, INST, NEWOBJ), look one up in a registry (EXT) or outside (PERSID), or make dicts and sets.
_OPERATIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


def load(path) -> tuple[list[bytes], np.ndarray]:
    """Reads `(encoded images, is it the same person)`.

    Args:
        path: a pickle of `(bins, issame)`, by Python 2 or 3: images as bytes or as uint8 arrays, two per pair.

    Returns:
        `(images, same)`: 2n encoded images, and an `(n,)` bool array.

    Raises:
        ValueError: naming the file, if it is damaged, is something else, or asks to run something.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        _check_operations(content)
        loaded = _Unpickler(content).load()
        bins, issame = loaded
        return [_image(item, number) for number, item in enumerate(_items(bins))], _booleans(issame)
    except _Refused as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise ValueError(
            f"{path} is not a verification set. Expected: a pickle of (encoded images, is it the same person). "
            f"Received: {len(content)} bytes with {type(error).__name__}: {str(error)[:200]}"
        ) from error


class _Refused(ValueError):
    pass


def _check_operations(content: bytes) -> None:
    """Walks through the program without running it: refuses operations, and lengths that are not there."""
    for operation, argument, position in pickletools.genops(io.BytesIO(content)):
        name = operation.name
        if name not in _OPERATIONS:
            raise _Refused(f"operation {name} at offset {position} is none that a verification set needs")
        # Both would make Python reserve memory before it looks: for a place in the memo, and for a frame.
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(content):
            raise _Refused(f"{name} {argument} at offset {position} in a file of {len(content)} bytes")
        if name == "FRAME" and argument > len(content) - position:
            raise _Refused(f"a frame of {argument} bytes at offset {position} in a file of {len(content)} bytes")


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left = len(content)

    def _copy(self, data) -> bytes:
        """Bytes of what is in the file once. More than the file has in all would be copies of copies."""
        if not isinstance(data, bytes | bytearray):
            raise ValueError(f"a {type(data).__name__} where bytes are expected")
        self._left -= len(data)
        if self._left < 0:
            raise _Refused("it would unpack to more than the file holds")
        return bytes(data)

    def find_class(self, module, name):
        # Made anew for every call, so that nothing that a pickle does to them lasts.
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: self._copy(_encode(text, encoding))
        if module in _NUMPY:
            if name == "_reconstruct":
                return lambda *_: _Array()
            if name == "_frombuffer":  # protocol 5
                return lambda buffer, dtype, shape, order: _Array().filled(shape, dtype, self._copy(buffer))
            if name == "scalar":
                return lambda dtype, value: _Array().filled((1,), dtype, value)
            if name == "dtype":
                return lambda kind, *_: _Dtype(kind)
            if name == "ndarray":
                return "ndarray"
        raise _Refused(f"it asks for {module}.{name}")


def _encode(text, encoding):
    encoding = encoding.decode() if isinstance(encoding, bytes) else encoding
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


class _Dtype:
    """Stands for a `numpy.dtype`: a name that was asked for."""

    __slots__ = ("name",)

    def __init__(self, kind):
        self.name = kind.decode("latin1") if isinstance(kind, bytes) else kind

    def __setstate__(self, state):  # byte order, and nothing of interest for single bytes
        pass


class _Array:
    """Stands for a `numpy.ndarray`: the bytes that were to fill it."""

    __slots__ = ("data",)

    def __init__(self):
        self.data = None

    def __setstate__(self, state):
        _, shape, dtype, _, data = state
        self.filled(shape, dtype, data)

    def filled(self, shape, dtype, data) -> "_Array":
        name = dtype.name if isinstance(dtype, _Dtype) else dtype
        if name not in ("u1", "b1", "uint8", "bool", "|u1", "|b1"):
            raise _Refused(f"an array of type {name!r}; expected: uint8, or bool")
        if not isinstance(data, bytes) or len(shape) != 1 or shape[0] != len(data):
            raise ValueError(f"an array of shape {shape} with {type(data).__name__} in it")
        self.data = data
        return self


def _items(bins) -> list:
    if not isinstance(bins, list | tuple):
        raise ValueError(f"a {type(bins).__name__} where a list of images is expected")
    return bins


def _image(item, number: int) -> bytes:
    data = item.data if isinstance(item, _Array) else item
    if not isinstance(data, bytes):
        raise ValueError(f"image {number} is a {type(item).__name__}, not bytes or an array of uint8")
    return data


def _booleans(issame) -> np.ndarray:
    if isinstance(issame, _Array):
        return np.frombuffer(issame.data or b"", np.uint8) != 0
    values = [item.data != b"\0" if isinstance(item, _Array) else item for item in _items(issame)]
    for number, value in enumerate(values):
        if value not in (0, 1):
            raise ValueError(f"pair {number} says {str(value)[:40]!r}, neither True nor False")
    return np.array(values, bool)
