"""Opening of regular files whose directory is not trusted.

A directory from elsewhere can contain a FIFO, which blocks whoever opens it, or a link to a device, which never ends.
"""

import contextlib
import os
import stat
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike, buffering: int = -1) -> BinaryIO:
    """Opens a regular file for reading in binary mode. Links are followed.

    Raises:
        OSError: if the file does not exist or cannot be opened. The message names it.
        ValueError: if the path is not a regular file. The message names it and what it is.
    """
    path = os.fspath(path)
    check_is_regular(os.stat(path), path)  # opening some devices has effects
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        check_is_regular(os.fstat(descriptor), path)
    except ValueError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering)  # type: ignore[return-value]


def read_regular(path: str | os.PathLike) -> bytes:
    """Returns the content of a regular file, with the errors of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def describe_link(path: str | os.PathLike) -> str:
    """Returns ` (a link to TARGET)` for a link, and an empty text otherwise."""
    with contextlib.suppress(OSError):
        return f" (a link to {os.readlink(path)})"
    return ""


def check_is_regular(status: os.stat_result, path: str) -> None:
    """Raises a ValueError that names the path unless a status is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise ValueError(f"{path} must be a regular file. Received: {kind}{describe_link(path)}")
