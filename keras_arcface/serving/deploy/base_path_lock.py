"""Lock of a base path, under which version numbers are chosen and versions are renamed."""

from pathlib import Path

from keras_arcface._locks import FileLock

_LOCK_FILE = ".lock"  # the server ignores names that are not integers
_TIMEOUT = 60.0  # seconds; the lock is held for a few renames, not while a model is copied


def base_path_lock(base: Path) -> FileLock:
    """Returns the lock of a base path, under which a decision about its versions and the renames are one step.

    `BlockingIOError` is raised if another process holds the lock for a minute, for example because it is suspended.
    """
    return FileLock(base / _LOCK_FILE, _TIMEOUT)
