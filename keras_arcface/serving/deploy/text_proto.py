"""Protocol buffers as text, the form in which TensorFlow Serving reads its configuration."""

from collections.abc import Iterable

_ESCAPES = {ord("\n"): r"\n", ord("\r"): r"\r", ord("\t"): r"\t", ord('"'): r"\"", ord("\\"): r"\\"}


def message(name: str, lines: Iterable[str]) -> list[str]:
    """A message field, from the lines of what is in it."""
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def string(text: str) -> str:
    """A string's value: quoted, with everything but printable ASCII escaped byte by byte."""
    return '"' + "".join(_escaped(byte) for byte in text.encode()) + '"'


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
