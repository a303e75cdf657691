"""A file that shows who is writing to a directory, and goes free when they die."""

import fcntl
import os
import time
from pathlib import Path

_PATIENCE = 10.0  # seconds, for the processes of a run that was killed to notice


class Lock:
    """Holds a file for one run: its main process alone, or together with the processes that it starts.

    Args:
        path: the file; made if it does not exist.

    Raises:
        BlockingIOError: when entered, if another run holds it.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = None

    def __enter__(self) -> "Lock":
        deadline = time.monotonic() + _PATIENCE
        while not self._is_acquired():
            if time.monotonic() > deadline:
                raise BlockingIOError(f"Another run is writing to {self._path.parent}: it holds {self._path.name}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._file)

    def share(self) -> None:
        """Lets the processes of this run `join`, and still no other run."""
        fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def join(self) -> None:
        """Holds the file with the run that shares it, until the process ends."""
        self._file = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Removes the file: the run is over."""
        self._path.unlink()

    def _is_acquired(self) -> bool:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._file), os.stat(self._path)):  # not removed by its last holder
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(self._file)
        return False
