"""Reads the pickles that verification sets (`lfw.bin`, `cfp_fp.bin` ...) are handed on as, and runs nothing in them.

A pickle is a program. This one may build lists, tuples, numbers and strings of bytes, and may name a handful of
functions, none of which is called: what stands in for them here only keeps the bytes of an array. What was built is
judged afterwards, so that an error can say which image or pair it is about.
"""

import io
import math
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
    *("FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}
# Names of the types that an array of answers may have, as numpy writes them.
_NUMBERS = {
    f"{kind}{size}" for kind, sizes in (("b", "1"), ("iu", "1248"), ("f", "248")) for kind in kind for size in sizes
}
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


def load(path) -> tuple[list[bytes], np.ndarray]:
    """Reads `(encoded images, is it the same person)`.

    Args:
        path: a pickle of `(bins, issame)`, by Python 2 or 3. `bins` is a list or an array of encoded images, two per
            pair: bytes, bytearrays or uint8 arrays, `(n,)`, `(n, 1)` or `(1, n)`. `issame` is a list or an array of
            booleans, or of the numbers 0 and 1.

    Returns:
        `(images, same)`: 2n encoded images, and an `(n,)` bool array.

    Raises:
        ValueError: naming the file, if it is damaged, is something else, or asks to run something; also the number of
            an image or a pair that could be meant in more than one way.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        _check_operations(content)
        loaded = _Unpickler(content).load()
        bins, issame = loaded
        return _images(_items(bins, "images")), _booleans(issame)
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

    def _bytearray(self, content, encoding=None) -> bytes:
        """The bytes that a bytearray was to be made of; not copied, unless they are text."""
        if encoding is not None:
            return self._copy(_encode(content, encoding))
        if not isinstance(content, bytes):
            raise ValueError(f"a {type(content).__name__} where bytes are expected")
        return content

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
                return lambda dtype, value: _Array().filled((), dtype, value)
            if name == "dtype":
                return lambda kind, *_: _Dtype(kind)
            if name == "ndarray":
                return "ndarray"
        if (module, name) in (("builtins", "bytearray"), ("__builtin__", "bytearray")):
            return self._bytearray
        raise _Refused(f"it asks for {module}.{name}")


def _encode(text, encoding):
    encoding = encoding.decode() if isinstance(encoding, bytes) else encoding
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


class _Dtype:
    """Stands for a `numpy.dtype`: the name that was asked for, and the byte order."""

    __slots__ = ("name", "order")

    def __init__(self, kind):
        self.name, self.order = _text(kind), "|"

    def __setstate__(self, state):
        self.order = _text(state[1])


class _Array:
    """Stands for a `numpy.ndarray`: the bytes, or the list of objects, that were to fill it."""

    __slots__ = ("data", "order", "shape", "type")

    def __init__(self):
        self.filled((0,), "u1", b"")

    def __setstate__(self, state):
        _, shape, dtype, _, data = state
        self.filled(shape, dtype, data)

    def filled(self, shape, dtype, data) -> "_Array":
        self.shape, self.data = shape, data
        self.type, self.order = (dtype.name, dtype.order) if isinstance(dtype, _Dtype) else (_text(dtype), "|")
        return self

    def is_line(self) -> bool:
        """Whether it is no more than a row of values, so that their order has one meaning."""
        sizes = self.shape if isinstance(self.shape, tuple) else (None,)
        return all(isinstance(size, int) and size >= 0 for size in sizes) and sum(size != 1 for size in sizes) <= 1

    def values(self):
        """The numbers in it, `(n,)`; raises if they are no numbers, or their order has more than one meaning."""
        kind = {"bool": "b1", "uint8": "u1"}.get(name := str(self.type).lstrip("|"), name)
        if kind not in _NUMBERS or self.order not in ("<", ">", "|", "="):
            raise _Refused(f"an array of type {str(self.type)[:20]!r}")
        dtype = np.dtype(kind).newbyteorder(self.order)
        if not self.is_line() or not isinstance(self.data, bytes):
            raise _Refused(f"an array of shape {str(self.shape)[:40]}")
        if len(self.data) != math.prod(self.shape) * dtype.itemsize:
            raise _Refused(f"an array of shape {str(self.shape)[:40]} with {len(self.data)} bytes in it")
        return np.frombuffer(self.data, dtype)


def _text(name):
    return name.decode("latin1") if isinstance(name, bytes) else name


def _items(content, what: str) -> list:
    """The items of a list, a tuple or an array of objects."""
    if isinstance(content, list | tuple):
        return content
    if not isinstance(content, _Array):
        raise ValueError(f"a {type(content).__name__} where a list of {what} is expected")
    is_list = isinstance(content.data, list) and content.is_line() and len(content.data) == math.prod(content.shape)
    if content.type not in ("O", "O4", "O8", "object") or not is_list:
        raise _Refused(
            f"the {what} are an array of type {str(content.type)[:20]!r} and shape {str(content.shape)[:40]}; "
            "expected: a list, or an array of objects (n,)"
        )
    return content.data


def _images(items: list) -> list[bytes]:
    images, copies = [], {}  # a bytearray that occurs many times is copied once
    for number, item in enumerate(items):
        if isinstance(item, _Array):
            try:
                if item.values().dtype != np.uint8:
                    raise _Refused(f"an array of type {str(item.type)[:20]!r}")
            except _Refused as error:
                raise _Refused(
                    f"image {number} is {error}; expected: an encoded image (JPEG, PNG ...) as bytes, or as a uint8 "
                    "array (n,), (n, 1) or (1, n)"
                ) from None
            item = item.data
        elif isinstance(item, bytearray):
            if id(item) not in copies:
                copies[id(item)] = bytes(item)
            item = copies[id(item)]
        if not isinstance(item, bytes):
            raise _Refused(f"image {number} is a {type(item).__name__}, not bytes or an array of uint8")
        images.append(item)
    return images


def _booleans(issame) -> np.ndarray:
    if isinstance(issame, _Array) and not isinstance(issame.data, list):
        try:
            values = issame.values()
        except _Refused as error:
            raise _Refused(
                f"whether pairs show the same person is {error}; expected: booleans, or numbers 0 and 1, (n,) or (n, 1)"
            ) from None
    else:
        values = [_number(item, number) for number, item in enumerate(_items(issame, "answers"))]
    for number, value in enumerate(values):
        if value not in (0, 1):
            raise _Refused(f"pair {number} says {str(value)[:40]!r}, neither True nor False")
    return np.array(values, bool)


def _number(item, number: int):
    """An item, or the only value of one that is an array."""
    if not isinstance(item, _Array):
        return item
    try:
        values = item.values()
    except _Refused as error:
        raise _Refused(f"pair {number} says {error}, neither True nor False") from None
    if len(values) != 1:
        raise _Refused(f"pair {number} says {len(values)} values, not one")
    return values[0]
