"""Atomic and durable file replacement: after a crash or a loss of power a file is the old one or the new one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: str | os.PathLike, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: the file to replace or create.
        content: the new content; text is encoded as UTF-8.
        mode: permissions of the new file, less the umask. They hold from the first byte on.
    """
    with replacing(path, mode) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: int = 0o666, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside `path` for writing, and replaces `path` with it on a normal exit.

    On an exception `path` stays as it was and the temporary file is removed.

    Args:
        path: the file to replace or create. The temporary file is named `.NAME.tmp`.
        mode: permissions of the new file, less the umask.
        buffering: as of `open`.

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
    """Returns the name under which `replacing` writes a file."""
    return path.with_name(f".{path.name}.tmp")


def sync_file(path: str | os.PathLike) -> None:
    """Writes a file's content from the operating system's cache to the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(directory: str | os.PathLike) -> None:
    """Makes the creations, renames and removals in a directory survive a loss of power."""
    _sync(directory, os.O_RDONLY)


def _sync(path: str | os.PathLike, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
