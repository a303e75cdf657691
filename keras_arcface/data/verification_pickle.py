"""Reader of pickled verification sets (`lfw.bin`, `cfp_fp.bin` ...) that executes no code from them.

A pickle is a program. Here it can only build lists, tuples, numbers and byte strings, and refer to a few functions.
These are replaced by stand-ins, which keep the bytes of an array. The result is checked afterwards, so that an error
can name the image or pair.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Operations that a pickle of lists of bytes or arrays requires, in protocols 0 to 5. Operations that call a class (OBJ,
# INST, NEWOBJ), find one in a registry (EXT) or outside (PERSID), or build dicts and sets are not allowed.
_ALLOWED_OPERATIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}
# Names in NumPy of the types that an array of labels may have.
_NUMBER_TYPES = {
    f"{kind}{size}" for kind, sizes in (("b", "1"), ("iu", "1248"), ("f", "248")) for kind in kind for size in sizes
}
_NUMPY_MODULES = (
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
)


def load(path) -> tuple[list[bytes], np.ndarray]:
    """Reads the images and labels of a verification set.

    Args:
        path: path of a pickle of `(bins, issame)`, written by Python 2 or 3. `bins` is a list or an array of encoded
            images, two per pair, as bytes, bytearrays, or uint8 arrays `(n,)`, `(n, 1)` or `(1, n)`. `issame` is a list
            or an array of booleans, or of the numbers 0 and 1.

    Returns:
        `(images, same)`, a list of 2n encoded images and the mask of the genuine pairs, `(n,)` bool array.

    Raises:
        ValueError: if the file is damaged, has other content, or requests to execute code. The message names the file,
            and the image or pair if possible.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        _check_operations(content)
        loaded = _Unpickler(content).load()
        bins, issame = loaded
        return _to_images(_list_items(bins, "images")), _to_booleans(issame)
    except _RejectedError as error:
        raise ValueError(f"{path} is not an allowed verification set: {error}") from None
    except Exception as error:  # a damaged pickle can raise any exception
        raise ValueError(
            f"{path} is not a verification set. Expected: a pickle of (encoded images, labels of the pairs). "
            f"Received: {len(content)} bytes with {type(error).__name__}: {str(error)[:200]}"
        ) from error


class _RejectedError(ValueError):
    """Error for content that is not allowed in a verification set."""


def _check_operations(content: bytes) -> None:
    """Raises an error for operations that are not allowed or exceed the file, without executing the pickle."""
    for operation, argument, offset in pickletools.genops(io.BytesIO(content)):
        name, offset = operation.name, offset or 0
        if name not in _ALLOWED_OPERATIONS:
            raise _RejectedError(
                "expected only operations that lists of bytes and arrays require. "
                f"Received: operation {name} at offset {offset}"
            )
        # For a memo index and a frame, Python allocates memory before it reads the content.
        if name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise _RejectedError(
                f"expected a memo index of at most {len(content)}, the size of the file. "
                f"Received: {name} {argument} at offset {offset}"
            )
        if name == "FRAME" and (argument or 0) > len(content) - offset:
            raise _RejectedError(
                f"expected a frame of at most {len(content) - offset} bytes at offset {offset}, where the file ends. "
                f"Received: a frame of {argument} bytes"
            )


class _Unpickler(pickle.Unpickler):
    """Unpickler that replaces all functions and classes with stand-ins."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._bytes_left = len(content)

    def _copy(self, data) -> bytes:
        """Copies bytes. Raises an error if all copies together are larger than the file, because of repeated copies."""
        if not isinstance(data, bytes | bytearray):
            raise ValueError(f"expected bytes. Received: {type(data).__name__}")
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _RejectedError("expected content that is no larger than the file. Received: repeated copies of bytes")
        return bytes(data)

    def _bytearray(self, content, encoding=None) -> bytes:
        """Returns the bytes of a bytearray. They are only copied if they are encoded as text."""
        if encoding is not None:
            return self._copy(_encode(content, encoding))
        if not isinstance(content, bytes):
            raise ValueError(f"expected bytes. Received: {type(content).__name__}")
        return content

    def find_class(self, module, name):
        # Every call returns new objects, so that a pickle cannot change objects that other pickles use.
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: self._copy(_encode(text, encoding))
        if module in _NUMPY_MODULES:
            if name == "_reconstruct":
                return lambda *_: _Array()
            if name == "_frombuffer":  # protocol 5
                return lambda buffer, dtype, shape, order: _Array().fill(shape, dtype, self._copy(buffer))
            if name == "scalar":
                return lambda dtype, value: _Array().fill((), dtype, value)
            if name == "dtype":
                return lambda kind, *_: _Dtype(kind)
            if name == "ndarray":
                return "ndarray"
        if (module, name) in (("builtins", "bytearray"), ("__builtin__", "bytearray")):
            return self._bytearray
        raise _RejectedError(
            f"expected only functions that build bytes and NumPy arrays. Received: a reference to {module}.{name}"
        )


def _encode(text, encoding):
    encoding = encoding.decode() if isinstance(encoding, bytes) else encoding
    if encoding not in ("latin1", "latin-1"):
        raise _RejectedError(f"expected the encoding latin1. Received: encoding={encoding!r}")
    return text.encode("latin1")


class _Dtype:
    """Stand-in for `numpy.dtype` that keeps the name and the byte order."""

    __slots__ = ("name", "order")

    def __init__(self, kind):
        self.name, self.order = _text(kind), "|"

    def __setstate__(self, state):
        self.order = _text(state[1])


class _Array:
    """Stand-in for `numpy.ndarray` that keeps its bytes or its list of objects."""

    __slots__ = ("data", "order", "shape", "type")

    def __init__(self):
        self.fill((0,), "u1", b"")

    def __setstate__(self, state):
        _, shape, dtype, _, data = state
        self.fill(shape, dtype, data)

    def fill(self, shape, dtype, data) -> "_Array":
        self.shape, self.data = shape, data
        self.type, self.order = (dtype.name, dtype.order) if isinstance(dtype, _Dtype) else (_text(dtype), "|")
        return self

    def is_one_dimensional(self) -> bool:
        """Returns whether at most one axis is longer than 1. The order of the values is then unambiguous."""
        sizes = self.shape if isinstance(self.shape, tuple) else (None,)
        return all(isinstance(size, int) and size >= 0 for size in sizes) and sum(size != 1 for size in sizes) <= 1

    def values(self):
        """Returns the values as an array `(n,)`. Raises an error unless they are numbers in an unambiguous order."""
        kind = {"bool": "b1", "uint8": "u1"}.get(name := str(self.type).lstrip("|"), name)
        if kind not in _NUMBER_TYPES or self.order not in ("<", ">", "|", "="):
            raise _RejectedError(f"expected an array of numbers. Received: an array of type {str(self.type)[:20]!r}")
        dtype = np.dtype(self.order.replace("|", "=") + kind)
        if not self.is_one_dimensional() or not isinstance(self.data, bytes):
            raise _RejectedError(
                f"expected an array of shape (n,), (n, 1) or (1, n). Received: an array of shape {str(self.shape)[:40]}"
            )
        if len(self.data) != math.prod(self.shape) * dtype.itemsize:
            raise _RejectedError(
                f"expected the bytes of an array of shape {str(self.shape)[:40]} and type {dtype}. "
                f"Received: {len(self.data)} bytes"
            )
        return np.frombuffer(self.data, dtype)


def _text(name):
    return name.decode("latin1") if isinstance(name, bytes) else name


def _list_items(content, name: str) -> Sequence:
    """Returns the items of a list, a tuple or an array of objects."""
    if isinstance(content, list | tuple):
        return content
    if not isinstance(content, _Array):
        raise ValueError(f"expected a list of {name}. Received: {type(content).__name__}")
    is_list = (
        isinstance(content.data, list)
        and content.is_one_dimensional()
        and len(content.data) == math.prod(content.shape)
    )
    if content.type not in ("O", "O4", "O8", "object") or not is_list:
        raise _RejectedError(
            f"the {name} must be a list or an array of objects (n,). "
            f"Received: an array of type {str(content.type)[:20]!r} and shape {str(content.shape)[:40]}"
        )
    return content.data


def _to_images(items: Sequence) -> list[bytes]:
    images: list[bytes] = []
    copies: dict[int, bytes] = {}  # copies each bytearray once, even if it occurs repeatedly
    for number, item in enumerate(items):
        if isinstance(item, _Array):
            try:
                if item.values().dtype != np.uint8:
                    raise _RejectedError(
                        f"expected an array of type uint8. Received: an array of type {str(item.type)[:20]!r}"
                    )
            except _RejectedError as error:
                raise _RejectedError(f"image {number}, encoded as JPEG, PNG ...: {error}") from None
            item = item.data
        elif isinstance(item, bytearray):
            if id(item) not in copies:
                copies[id(item)] = bytes(item)
            item = copies[id(item)]
        if not isinstance(item, bytes):
            raise _RejectedError(f"image {number} must be bytes or a uint8 array. Received: {type(item).__name__}")
        images.append(item)
    return images


def _to_booleans(issame) -> np.ndarray:
    if isinstance(issame, _Array) and not isinstance(issame.data, list):
        try:
            values = issame.values()
        except _RejectedError as error:
            raise _RejectedError(f"labels of the pairs, booleans or numbers 0 and 1: {error}") from None
    else:
        values = [_to_scalar(item, number) for number, item in enumerate(_list_items(issame, "labels"))]
    for number, value in enumerate(values):
        if value not in (0, 1):
            raise _RejectedError(f"the label of pair {number} must be True or False. Received: {str(value)[:40]!r}")
    return np.array(values, bool)


def _to_scalar(item, number: int):
    """Returns the only value of an array, or the item if it is not an array."""
    if not isinstance(item, _Array):
        return item
    try:
        values = item.values()
    except _RejectedError as error:
        raise _RejectedError(f"label of pair {number}, True or False: {error}") from None
    if len(values) != 1:
        raise _RejectedError(f"the label of pair {number} must be one value. Received: {len(values)} values")
    return values[0]
