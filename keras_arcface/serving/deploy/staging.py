"""Temporary directories for new versions of a model, and removal of the leftovers of killed processes.

A publisher holds a lock on the file `.tmp-<unique>.lock` next to its temporary directory. The operating system releases
the lock when the process ends or is killed. The lock is a file because network file systems cannot lock directories.
"""

import fcntl
import logging
import os
import secrets
import shutil
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface._files import sync_file

PREFIX = ".tmp-"
_LOCK_SUFFIX = ".lock"

_log = logging.getLogger(__name__)


class Staging:
    """Context manager for a temporary path in a base path. The files under the path are removed at exit.

    Args:
        base: directory of a model's versions.
    """

    def __init__(self, base: Path):
        self._base = base

    def __enter__(self) -> Path:
        """Returns the temporary path, at which no file exists yet."""
        while True:
            self._path = new_path(self._base)
            self._lock_path = self._path.with_name(self._path.name + _LOCK_SUFFIX)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            acquired = False
            try:
                acquired = _acquire(self._lock, self._lock_path)
            finally:
                if not acquired:
                    self._lock_path.unlink(missing_ok=True)
                    os.close(self._lock)
            # Another publisher may find the file before it is locked, and remove it as a leftover.
            if acquired:
                return self._path

    def __exit__(self, *_) -> None:
        _remove_tree(self._path)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def new_path(base: Path) -> Path:
    """Returns a new temporary path in a base path."""
    return base / f"{PREFIX}{secrets.token_hex(8)}"


def remove_leftovers(base: Path) -> None:
    """Removes the temporary directories of killed publishers. Those of running publishers remain."""
    names = {name.removesuffix(_LOCK_SUFFIX) for name in os.listdir(base) if name.startswith(PREFIX)}
    for path in sorted(base / name for name in names):
        lock_path = path.with_name(path.name + _LOCK_SUFFIX)
        try:
            lock = os.open(lock_path, os.O_RDWR)
        except FileNotFoundError:  # a running publisher creates the lock before the directory
            _remove_tree(path)
            continue
        except PermissionError as error:
            _log.warning(
                "%s may be a leftover, but the lock file of another user cannot be opened: %s", path, error.strerror
            )
            continue
        try:
            if _acquire(lock, lock_path):
                _remove_tree(path)
                lock_path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory to a new path and flushes the copy to the disk.

    Links to files are replaced by copies of the files.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the source contains an entry that is not a file or a directory, such as a link to a directory.
    """
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            destination = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                copy_tree(Path(entry.path), destination)
            elif entry.is_file():
                shutil.copyfile(entry.path, destination)
                sync_file(destination)
            else:
                raise ValueError(f"A SavedModel must contain only files and directories. Received: {entry.path}")
    sync_directory(target)


def _acquire(lock: int, path: Path) -> bool:
    """Locks an open file, and returns whether the lock was acquired and `path` is still the same file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # a concurrent publisher may remove the same leftover
    if os.path.lexists(path):
        _log.warning("The leftover %s could not be removed", path)
