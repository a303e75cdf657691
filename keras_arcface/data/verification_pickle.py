"""Reader of pickled verification sets (`lfw.bin`, `cfp_fp.bin` ...) that executes no code from them.

A pickle is a program. Here it can only build lists, tuples, numbers and byte strings, and refer to a few functions.
These are replaced by stand-ins, which keep the bytes of an array. The result is checked afterwards, so that an error
can name the image or pair.
"""

import io
import math
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._regular_files import read_regular

# A list of arrays has a depth of 5: the tuple, the list, and for each array the tuples of a call, its state and shape.
_MAX_DEPTH = 10
# An array takes about 20 operations. With images of at least 200 bytes, a file therefore has at least 10 bytes for each
# operation. Python requires up to 100 bytes of memory for the result of one.
_BYTES_PER_OPERATION = 8
_MIN_OPERATIONS = 10_000  # allowed in every file, however small
_MAX_NAME_LENGTH = 40
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
    content = read_regular(path)
    try:
        bins, issame = _Reader(content).read()
        return _to_images(_list_items(bins, "images")), _to_booleans(issame)
    except _RejectedError as error:
        raise ValueError(f"{path} is not an allowed verification set: {error}") from None
    except Exception as error:  # a damaged pickle can raise any exception
        raise ValueError(
            f"{path} is not a verification set. Expected: a pickle of (encoded images, labels of the pairs). "
            f"Received: {len(content)} bytes with {type(error).__name__}: {cut(str(error))}"
        ) from error


class _RejectedError(ValueError):
    """Error for content that is not allowed in a verification set."""


class _Reader:
    """Interpreter of the operations that a pickle of lists of bytes and arrays requires, in protocols 0 to 5.

    Time and memory are in proportion to the size of the file: every list and tuple occurs in one place only, bytes are
    copied once, and functions are stand-ins that are not called recursively.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._bytes_left = len(content)  # for copies of bytes
        self._stack: list[Any] = []
        self._depths: list[int] = []  # of the lists and tuples in each item of the stack
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self):
        """Returns the object in the pickle."""
        limit = max(_MIN_OPERATIONS, len(self._content) // _BYTES_PER_OPERATION)
        for number, (operation, argument, offset) in enumerate(pickletools.genops(io.BytesIO(self._content))):
            if number == limit:
                raise _RejectedError(
                    f"expected at most {limit} operations in a file of {len(self._content)} bytes. Received: more"
                )
            if not self._apply(operation.name, argument):
                raise _RejectedError(
                    "expected only operations that lists of bytes and arrays require. "
                    f"Received: operation {operation.name} at offset {offset}"
                )
        return self._stack.pop()

    def _apply(self, operation: str, argument) -> bool:
        """Applies an operation. Returns False if it is not allowed.

        Operations that call a class (OBJ, INST, NEWOBJ), find one in a registry (EXT) or outside (PERSID), or build
        dicts and sets are not allowed, nor are POP and DUP, which no such pickle contains.
        """
        match operation:
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self._push(bytes(argument))
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # the strings of Python 2 are bytes
                self._push(argument.encode("latin1"))
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                self._push(argument)
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                self._push(argument)
            case "NONE":
                self._push(None)
            case "NEWTRUE" | "NEWFALSE":
                self._push(operation == "NEWTRUE")
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                value = self._memo[argument]
                if isinstance(value, list | tuple):
                    raise _RejectedError(
                        f"expected every list and tuple in one place only. Received: a repeated {type(value).__name__}"
                    )
                self._push(value)
            case "MARK":
                self._marks.append(len(self._stack))
            case "EMPTY_LIST":
                self._push([], 1)
            case "EMPTY_TUPLE":
                self._push((), 1)
            case "LIST":
                items, depth = self._pop_to_mark()
                self._push(items, depth + 1)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items, depth = self._pop_to_mark() if operation == "TUPLE" else self._pop(int(operation[-1]))
                self._push(tuple(items), depth + 1)
            case "APPEND" | "APPENDS":
                items, depth = self._pop(1) if operation == "APPEND" else self._pop_to_mark()
                (extended,), former_depth = self._pop(1)
                _expect(extended, list).extend(items)
                self._push(extended, max(depth + 1, former_depth))
            case "GLOBAL":
                self._push(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                (module, name), _ = self._pop(2)
                self._push(self._find(module, name))
            case "REDUCE":
                (function, arguments), depth = self._pop(2)
                self._push(function(*_expect(arguments, tuple)), depth)
            case "BUILD":
                (built, state), depth = self._pop(2)
                _expect(built, _Array | _Dtype).set_state(*_expect(state, tuple))
                self._push(built, depth)
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                return False
        return True

    def _push(self, value, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise _RejectedError(f"expected at most {_MAX_DEPTH} nested lists and tuples. Received: more")
        self._stack.append(value)
        self._depths.append(depth)

    def _pop(self, count: int) -> tuple[list, int]:
        """Removes items from the stack. Returns them and their largest depth."""
        if count > len(self._stack):
            raise ValueError(f"expected {count} items on the stack. Received: {len(self._stack)}")
        start = len(self._stack) - count
        items, depth = self._stack[start:], max(self._depths[start:], default=0)
        del self._stack[start:], self._depths[start:]
        return items, depth

    def _pop_to_mark(self) -> tuple[list, int]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _find(self, module, name):
        """Returns the stand-in for a function or class."""
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if module in _NUMPY_MODULES:
            if name == "_reconstruct":
                return lambda *_: _Array()
            if name == "_frombuffer":  # protocol 5
                return lambda buffer, dtype, shape, order: _Array().fill(shape, dtype, _expect(buffer, bytes))
            if name == "scalar":
                return lambda dtype, value: _Array().fill((), dtype, value)
            if name == "dtype":
                return lambda kind, *_: _Dtype(kind)
            if name == "ndarray":
                return "ndarray"
        if (module, name) in (("builtins", "bytearray"), ("__builtin__", "bytearray")):
            return lambda content, *encoding: self._encode(content, *encoding) if encoding else _expect(content, bytes)
        raise _RejectedError(
            "expected only functions that build bytes and NumPy arrays. "
            f"Received: a reference to {cut(module, 80)}.{cut(name, 80)}"
        )

    def _encode(self, text, encoding) -> bytes:
        """Encodes a text. Raises an error if all encoded texts together are larger than the file."""
        if _text(encoding) not in ("latin1", "latin-1"):
            raise _RejectedError(f"expected the encoding latin1. Received: encoding={short(_text(encoding))}")
        self._bytes_left -= len(_expect(text, str))
        if self._bytes_left < 0:
            raise _RejectedError("expected content that is no larger than the file. Received: repeated copies of bytes")
        return text.encode("latin1")


def _expect(value, type_):
    """Returns a value of a type."""
    if not isinstance(value, type_):
        raise ValueError(f"expected {getattr(type_, '__name__', 'an array')}. Received: {type(value).__name__}")
    return value


class _Dtype:
    """Stand-in for `numpy.dtype` that keeps the name and the byte order."""

    __slots__ = ("name", "order")

    def __init__(self, kind):
        self.name, self.order = _text(kind), "|"

    def set_state(self, version, order, *_):
        self.order = _text(order)


class _Array:
    """Stand-in for `numpy.ndarray` that keeps its bytes or its list of objects."""

    __slots__ = ("data", "order", "shape", "type")

    def __init__(self):
        self.fill((0,), "u1", b"")

    def set_state(self, version, shape, dtype, is_fortran, data):
        self.fill(shape, dtype, data)

    def fill(self, shape, dtype, data) -> "_Array":
        self.shape, self.data = shape, data
        self.type, self.order = (dtype.name, dtype.order) if isinstance(dtype, _Dtype) else (_text(dtype), "|")
        return self

    def is_one_dimensional(self) -> bool:
        """Returns whether at most one axis is longer than 1. The order of the values is then unambiguous."""
        sizes = self.shape
        is_shape = isinstance(sizes, tuple) and len(sizes) <= 2 and all(isinstance(n, int) and n >= 0 for n in sizes)
        return is_shape and sum(size != 1 for size in sizes) <= 1

    def values(self):
        """Returns the values as an array `(n,)`. Raises an error unless they are numbers in an unambiguous order."""
        kind = {"bool": "b1", "uint8": "u1"}.get(name := self.type.lstrip("|"), name)
        if kind not in _NUMBER_TYPES or self.order not in ("<", ">", "|", "="):
            raise _RejectedError(f"expected an array of numbers. Received: an array of type {short(self.type)}")
        dtype = np.dtype(self.order.replace("|", "=") + kind)
        if not self.is_one_dimensional() or not isinstance(self.data, bytes):
            raise _RejectedError(
                f"expected an array of shape (n,), (n, 1) or (1, n). Received: an array of shape {short(self.shape)}"
            )
        if len(self.data) != math.prod(self.shape) * dtype.itemsize:
            raise _RejectedError(
                f"expected the bytes of an array of shape {short(self.shape)} and type {dtype}. "
                f"Received: {len(self.data)} bytes"
            )
        return np.frombuffer(self.data, dtype)


def _text(name) -> str:
    """Returns the name of a type, an order or an encoding, which is bytes if Python 2 wrote it."""
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(name, str) or len(name) > _MAX_NAME_LENGTH:
        raise _RejectedError(f"expected a name of at most {_MAX_NAME_LENGTH} characters. Received: {short(name)}")
    return name


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
            f"Received: an array of type {short(content.type)} and shape {short(content.shape)}"
        )
    return content.data


def _to_images(items: Sequence) -> list[bytes]:
    images: list[bytes] = []
    for number, item in enumerate(items):
        if isinstance(item, _Array):
            try:
                if item.values().dtype != np.uint8:
                    raise _RejectedError(
                        f"expected an array of type uint8. Received: an array of type {short(item.type)}"
                    )
            except _RejectedError as error:
                raise _RejectedError(f"image {number}, encoded as JPEG, PNG ...: {error}") from None
            item = item.data
        if not isinstance(item, bytes):
            raise _RejectedError(f"image {number} must be bytes or a uint8 array. Received: {type(item).__name__}")
        images.append(item)
    return images


def _to_booleans(issame) -> np.ndarray:
    if isinstance(issame, _Array) and not isinstance(issame.data, list):
        try:
            values = issame.values().tolist()
        except _RejectedError as error:
            raise _RejectedError(f"labels of the pairs, booleans or numbers 0 and 1: {error}") from None
    else:
        values = [_to_scalar(item, number) for number, item in enumerate(_list_items(issame, "labels"))]
    for number, value in enumerate(values):
        if value not in (0, 1):
            raise _RejectedError(f"the label of pair {number} must be True or False. Received: {short(value)}")
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
    return values.item()
