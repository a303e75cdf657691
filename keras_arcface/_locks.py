"""Lock file that gives a directory one owner at a time, among all processes and hosts that share it."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
import time
import weakref
from pathlib import Path

from keras_arcface._messages import cut
from keras_arcface._regular_files import open_regular

# A lock file that is a link or a FIFO, for example in an unpacked archive, must not overwrite its target or block.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FileLock:
    """Lock on a file that one process holds, alone or together with its worker processes.

    The operating system releases the lock when the last process that holds it exits, even if it is killed. The lock
    file names its holder by host, process, time and script. It exists as long as the lock is held. The file of a
    killed process remains, which does not prevent the next one from acquiring the lock.

    The lock is that of `flock`. Linux maps it to a byte-range lock on NFS, so it holds across hosts there. On a file
    system without locks, `acquire` raises an error, because two owners would damage each other's files.

    Args:
        path: path of the lock file, in an existing directory. Other programs must not write to it.
        timeout: seconds to wait for another holder.
    """

    # `filelock` cannot replace this class: its `FileLock` has no shared holders, and its `ReadWriteLock` cannot turn an
    # exclusive lock into a shared one.

    def __init__(self, path: str | os.PathLike, timeout: float = 0.0):
        self.path, self._timeout = Path(path), timeout
        self._descriptor = -1
        self._finalizer: weakref.finalize | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._finalizer is not None and self._finalizer.alive

    def acquire(self) -> None:
        """Acquires the lock, and writes who holds it to the file.

        Raises:
            BlockingIOError: if another process, or another object of this process, holds the lock. The message names
                it.
            OSError: if the file cannot be created, is not a regular file, or the file system does not support locks.
        """
        deadline = time.monotonic() + self._timeout
        while not self._try_to_acquire():
            if time.monotonic() >= deadline:
                raise BlockingIOError(
                    f"{self.path.parent} must not be in use by another process. Received: {self.path.name}, which "
                    f"{_read_holder(self.path)} has locked"
                )
            time.sleep(0.05)
        # Also releases the lock when this object is garbage collected and when the interpreter exits.
        self._finalizer = weakref.finalize(self, _release, self._descriptor, self.path, os.getpid())
        # The name of the holder is only information, and a full disk must not prevent a process from removing files.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _describe_holder().encode(), 0)

    def release(self) -> None:
        """Removes the file and releases the lock, if this object holds it."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def share(self) -> None:
        """Allows the worker processes of the holder to call `join`. Others still cannot acquire the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def join(self) -> None:
        """Acquires the lock together with the process that called `share`, until this process exits."""
        self._descriptor = os.open(self.path, os.O_RDWR | _FLAGS)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _try_to_acquire(self) -> bool:
        descriptor = _open(self.path)
        is_acquired = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An NFS client may have old entries of the directory in its cache. A change of the directory's time makes
            # it read them again, here and for the holder of the lock.
            os.utime(self.path.parent)
            # The previous holder may have removed the file between opening and locking it.
            is_acquired = os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            # `flock` may fail while another process holds the lock, which has written its name to the file.
            if os.fstat(descriptor).st_size == 0:
                self.path.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                "The file system must support locks, as local file systems and NFS with its lock service do. "
                f"Received: {error.strerror}",
                str(self.path),
            ) from error
        finally:
            if not is_acquired:
                os.close(descriptor)
        self._descriptor = descriptor
        return is_acquired


def _open(path: Path) -> int:
    """Opens or creates a lock file, and returns its descriptor."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
    except PermissionError as error:  # the file of another user can be locked, but not written
        try:
            descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        except OSError:
            raise error from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise _not_regular(path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: Path) -> OSError:
    reason = "A lock file must be a regular file. Received: a link, a directory or a special file"
    return OSError(errno.EINVAL, reason, str(path))


def _release(descriptor: int, path: Path, process: int) -> None:
    # A forked process has a copy of the lock, but is not its holder. Locking fails if a worker process still shares the
    # lock: the file must remain until that one exits. A file that cannot be removed does not prevent the next
    # process from acquiring the lock.
    try:
        if os.getpid() == process:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
    finally:
        os.close(descriptor)


def _describe_holder() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    script = Path(sys.argv[0]).name or "python"  # arguments may contain passwords
    return f"process {os.getpid()} on {socket.gethostname()} since {started} ({script})"


def _read_holder(path: Path) -> str:
    try:
        with open_regular(path) as file:
            text = cut(file.read(1000).decode("utf-8", "replace"), 300)
    except (OSError, ValueError):
        text = ""
    return "".join(character if character.isprintable() else "?" for character in text) or "another process"
