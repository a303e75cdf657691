"""Atomic and durable replacement of files, which preserves the old or the new file in a crash or power failure."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: str | os.PathLike, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file atomically: a reader never sees a part of the new content.

    Args:
        path: path of the new or replaced file.
        content: content of the file. Text is encoded as UTF-8.
        mode: permissions of the file before the umask is applied, set when the file is created.

    Raises:
        OSError: if the file cannot be written. The message names it.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path, mode, size=len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, mode: int = 0o666, buffering: int = -1, size: int | None = None
) -> Iterator[IO[bytes]]:
    """Opens a temporary file in the directory of `path`, and replaces `path` with it on a normal exit.

    On an exception, `path` is not changed, and the temporary file is removed. If two processes write the same file, the
    first one fails, because the second one has removed its temporary file.

    Args:
        path: path of the new or replaced file. The name of the temporary file is `.NAME.tmp`.
        mode: permissions of the file before the umask is applied.
        buffering: `buffering` argument of `open`.
        size: approximate number of bytes of the content, for the message on a full disk. None: what was written when
            the disk was full.

    Yields:
        The temporary file, open in binary mode.

    Raises:
        FileExistsError: if another process writes the same file.
        OSError: if the file cannot be written. The message names it, and on a full disk the needed and free space.
    """
    path = Path(path)
    temporary = temporary_path(path)
    written = 0
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb", buffering=buffering) as file:
            try:
                yield file
                file.flush()
                os.fsync(descriptor)
                if not _is_file_at(temporary, descriptor):
                    raise FileExistsError(errno.EEXIST, "Another process is writing this file", str(path))
                temporary.replace(path)
            except BaseException:
                written = os.fstat(descriptor).st_size
                if _is_file_at(temporary, descriptor):
                    temporary.unlink()
                raise
        sync_directory(path.parent)
    except OSError as error:
        # Errors without a number come from libraries. Errors of other files keep the names of these files.
        if error.errno is None or error.filename not in (None, str(temporary), temporary, path.parent):
            raise
        raise write_error(error, path, f"{size:,}" if size is not None else f"more than {written:,}") from error


def append(path: Path, content: str) -> None:
    """Appends text to an existing file, which is not changed on an error.

    A killed process may leave a part of the text.

    Raises:
        OSError: if the text cannot be written. The message names the file, and on a full disk the free space.
    """
    data = content.encode("utf-8")
    try:
        with open(path, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                write_all(file, data)
            except BaseException:
                file.truncate(size)
                raise
    except OSError as error:
        raise write_error(error, path, f"{len(data):,}") from error


def write_all(file: IO[bytes], data: bytes) -> None:
    """Writes data to an unbuffered file, whose `write` may write only a part."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_error(error: OSError, path: Path, needed: str) -> OSError:
    """Returns an error that names the file that could not be written, and the space on a full disk.

    Args:
        error: error of the operating system.
        path: path of the file.
        needed: number of bytes, as text.
    """
    reason = f"{error.strerror}, while writing"
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            reason += f" {needed} bytes with {shutil.disk_usage(path.parent).free:,} bytes free"
    return OSError(error.errno, reason, str(path))


def is_file_name(name: str) -> bool:
    """Returns whether a text is the name of a file in a directory: not empty, and without a path to another directory.

    >>> is_file_name("a.txt"), is_file_name("../a.txt"), is_file_name("..")
    (True, False, False)
    """
    return name not in ("", ".", "..") and not any(character in name for character in "/\\\0")


def temporary_path(path: Path) -> Path:
    """Returns the path of the temporary file of `replacing`."""
    return path.with_name(f".{path.name}.tmp")


def sync_file(path: str | os.PathLike) -> None:
    """Writes the content of a file from the cache of the operating system to the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(directory: str | os.PathLike) -> None:
    """Writes the entries of a directory to the disk, so that they persist after a power failure."""
    _sync(directory, os.O_RDONLY)


def _is_file_at(path: Path, descriptor: int) -> bool:
    """Returns whether a path is that of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sync(path: str | os.PathLike, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
