"""Lock file that ensures that only one run at a time writes to a directory."""

import fcntl
import os
import time
from pathlib import Path

_TIMEOUT = 10.0  # seconds, because the worker processes of a killed run need some time to exit


class RunLock:
    """Lock on a file that the main process of a run holds, alone or together with its worker processes.

    The operating system releases the lock when the last process that holds it exits, even if it is killed.

    Args:
        path: path of the lock file. It is created if it does not exist.

    Raises:
        BlockingIOError: when the context is entered, if another run holds the lock.
    """

    # `filelock` cannot replace this class: its `FileLock` has no shared holders, and its `ReadWriteLock` cannot turn an
    # exclusive lock into a shared one and stores an SQLite database, while this file contains the state of the run.

    def __init__(self, path: Path):
        self._path = path
        self._descriptor: int

    def __enter__(self) -> "RunLock":
        deadline = time.monotonic() + _TIMEOUT
        while not self._try_to_acquire():
            if time.monotonic() > deadline:
                raise BlockingIOError(
                    f"{self._path.parent} must not be in use by another run. "
                    f"Received: {self._path.name}, which another process has locked"
                )
            time.sleep(0.05)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._descriptor)

    def share(self) -> None:
        """Allows the worker processes of this run to call `join`. Other runs still cannot acquire the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def join(self) -> None:
        """Acquires the lock together with the main process, until this process exits."""
        self._descriptor = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Removes the lock file at the end of the run."""
        self._path.unlink()

    def _try_to_acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed the file between opening and locking it.
            if os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(self._descriptor)
        return False
