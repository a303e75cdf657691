"""Interpreter of the pickles in PyTorch files.

`torch.load(weights_only=True)` executes no code from a file, but it allocates what the file requests: 100 bytes can
ask for a `bytearray` of any size, a tensor with strides of 0, or a dict key that takes hours to hash. This interpreter
only builds dicts, lists, tuples, numbers and texts. Tensors become descriptions, so that their sizes can be compared
with the file before they are read. Classes, functions and their results become an `Opaque`.
"""

import itertools
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface.pretrained.weights import UnsupportedFileError

# An operation takes up to 100 bytes of memory, whereas a state dict has 30 operations per tensor.
MAX_OPERATIONS = 1_000_000

# Operations whose argument is their value.
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_CONSTANTS: dict[str, Callable] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
_PARAMETERS = (
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch.nn.parameter Parameter",
)


class Opaque(NamedTuple):
    """Class, function or object that is not read.

    Attributes:
        name: module and name of the class or function.
    """

    name: str


class Tensor(NamedTuple):
    """Description of a tensor, as it is in the file, without any check.

    Attributes:
        storage: result of `load_storage`.
        offset: index of the first value in the storage.
        shape, strides: sizes and strides of the axes, in values.
    """

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def read_pickle(file: IO[bytes], load_storage: Callable[[Any], Any]) -> Any:
    """Reads one pickle of protocol 2, which `torch.save` writes.

    Args:
        file: file or buffer in memory at the start of the pickle. It is read up to the end of the pickle.
        load_storage: function that returns the storage with an identifier, a tuple.

    Returns:
        The object, in which every tensor is a `Tensor`. Dicts contain only the entries whose key is a text or an
        integer, and sets are lists.

    Raises:
        UnsupportedFileError: if the pickle has other operations or more than `MAX_OPERATIONS`.
        Exception: of many types if the pickle is damaged.
    """
    stack: list[Any] = []
    outer: list[list] = []  # stacks outside of each mark
    memo: dict[int, Any] = {}
    for number, (operation, argument, offset) in enumerate(pickletools.genops(file)):
        name = operation.name
        if number == MAX_OPERATIONS:
            raise UnsupportedFileError(
                f"expected a pickle of at most {MAX_OPERATIONS} operations. Received: more operations at byte {offset}"
            )
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, outer.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            else:
                _extend(stack[-1], items) if name == "APPENDS" else _update(stack[-1], items)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _update(stack[-1], [key, value])
        elif name == "GLOBAL":
            stack.append(Opaque(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = _call(stack[-1], arguments)
        elif name == "BUILD":
            stack.pop()  # attributes of an object, such as the versions of the modules of a state dict
        elif name == "BINPERSID":
            stack[-1] = load_storage(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise UnsupportedFileError(
                f"expected only operations of pickles that torch.save writes. Received: {name} at byte {offset}"
            )
    raise UnsupportedFileError("expected a pickle that ends with STOP. Received: the end of the file")


def _call(function: Any, arguments: Any) -> Any:
    """Returns a stand-in for the result of a call, without calling the function."""
    name = function.name if isinstance(function, Opaque) else ""
    if name == "collections OrderedDict" and arguments == ():
        return {}
    if name in _TENSORS:
        return Tensor(*arguments[:4])
    if name in _PARAMETERS:
        return arguments[0]
    return Opaque(name)


def _extend(target: Any, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)


def _update(target: Any, items: list) -> None:
    # The hash of a tuple that contains a shared tuple twice, nested 40 times, takes hours.
    if isinstance(target, dict):
        target.update(
            (key, value)
            for key, value in zip(items[::2], items[1::2], strict=True)
            if type(key) is str or type(key) is int
        )


def describe(value: Any) -> str:
    """Returns the kind of an object for messages."""
    if isinstance(value, Opaque):
        return f"{cut(value.name, 80).replace(' ', '.')}, which is not read"
    if isinstance(value, dict):
        return f"a dict of {short(list(itertools.islice(value, 5)))}"
    return type(value).__name__
