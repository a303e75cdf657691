"""A lock file that lets one run at a time write to a directory."""

import fcntl
import os
import time
from pathlib import Path

_TIMEOUT = 10.0  # seconds; the worker processes of a killed run need some time to exit


class RunLock:
    """Lock on a file, held by the main process of a run, or shared by it and its worker processes.

    The operating system releases the lock when the last process that holds it exits, even if it is killed.

    Args:
        path: the lock file; created if it does not exist.

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
                raise BlockingIOError(f"Another run is writing to {self._path.parent} and holds {self._path.name}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._descriptor)

    def share(self) -> None:
        """Lets the worker processes of this run call `join`. Other runs are still locked out."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def join(self) -> None:
        """Holds the lock together with the main process, until this process exits."""
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
