"""Lock of a base path, under which version numbers are chosen and versions are renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_arcface._locks import FileLock

_LOCK_FILE = ".lock"  # the server ignores names that are not integers
_TIMEOUT = 60.0  # seconds; the lock is held for a few renames, not while a model is copied


@contextlib.contextmanager
def base_path_lock(base: Path) -> Iterator[None]:
    """Holds the lock of a base path, so that a decision about its versions and the renames are one step.

    Raises:
        BlockingIOError: if another process holds the lock for a minute, for example because it is suspended.
        OSError: if the lock file cannot be created.
    """
    with FileLock(base / _LOCK_FILE, _TIMEOUT):
        # An NFS client may have an old listing in its cache. A change of the directory's time makes it read a new one.
        os.utime(base)
        yield
