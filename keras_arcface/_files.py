"""Atomic and durable replacement of files, which preserves the old or the new file in a crash or power failure."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: str | os.PathLike, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file atomically: a reader never sees a part of the new content.

    Args:
        path: path of the new or replaced file.
        content: content of the file. Text is encoded as UTF-8.
        mode: permissions of the file before the umask is applied, set when the file is created.
    """
    with replacing(path, mode) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: int = 0o666, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Opens a temporary file in the directory of `path`, and replaces `path` with it on a normal exit.

    On an exception, `path` is not changed, and the temporary file is removed.

    Args:
        path: path of the new or replaced file. The name of the temporary file is `.NAME.tmp`.
        mode: permissions of the file before the umask is applied.
        buffering: `buffering` argument of `open`.

    Yields:
        The temporary file, open in binary mode.
    """
    path = Path(path)
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb", buffering=buffering) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def temporary_path(path: Path) -> Path:
    """Returns the path of the temporary file of `replacing`."""
    return path.with_name(f".{path.name}.tmp")


def sync_file(path: str | os.PathLike) -> None:
    """Writes the content of a file from the cache of the operating system to the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(directory: str | os.PathLike) -> None:
    """Writes the entries of a directory to the disk, so that they persist after a power failure."""
    _sync(directory, os.O_RDONLY)


def _sync(path: str | os.PathLike, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
