"""Writer for protocol buffers in text format, the format of TensorFlow Serving's configuration files.

`google.protobuf.text_format` requires the message classes, and the package tensorflow-serving-api lacks
MonitoringConfig, SSLConfig and BatchingParameters.
"""

from collections.abc import Iterable

from google.protobuf import text_encoding


def message(name: str, lines: Iterable[str]) -> list[str]:
    """Returns the lines of a message field with the given content."""
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def string(text: str) -> str:
    """Returns a quoted string in which all bytes except printable ASCII are escaped."""
    return f'"{text_encoding.CEscape(text.encode(), as_utf8=False)}"'
