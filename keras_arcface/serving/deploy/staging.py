"""A directory in the making, beside the versions of a model, and what is left of those whose makers died.

It is held through a locked file beside it, `.tmp-<unique>.lock`, which goes free when its process dies, however that
happens. A file, as network file systems cannot lock directories.
"""

import fcntl
import logging
import os
import secrets
import shutil
from pathlib import Path

PREFIX = ".tmp-"
_LOCK = ".lock"

_log = logging.getLogger(__name__)


class Staging:
    """A new name on the file system of the versions; what is under it goes when the context ends.

    Args:
        base: the directory of the versions.
    """

    def __init__(self, base: Path):
        self._base = base

    def __enter__(self) -> Path:
        """Returns the path; there is nothing there yet."""
        while True:
            self._path = new_name(self._base)
            self._lock_path = self._path.with_name(self._path.name + _LOCK)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            acquired = False
            try:
                acquired = _is_acquired(self._lock, self._lock_path)
            finally:
                if not acquired:
                    self._lock_path.unlink(missing_ok=True)
                    os.close(self._lock)
            if acquired:  # or between its making and its locking, another publisher took it for a leftover
                return self._path

    def __exit__(self, *_) -> None:
        _remove_tree(self._path)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def new_name(base: Path) -> Path:
    """A name that `remove_leftovers` knows as such."""
    return base / f"{PREFIX}{secrets.token_hex(8)}"


def remove_leftovers(base: Path) -> None:
    """Removes what publishers that were killed have left, and nothing of those that live."""
    names = {name.removesuffix(_LOCK) for name in os.listdir(base) if name.startswith(PREFIX)}
    for path in sorted(base / name for name in names):
        lock_path = path.with_name(path.name + _LOCK)
        try:
            lock = os.open(lock_path, os.O_RDWR)
        except FileNotFoundError:  # what lives under this name has been locked before it was there
            _remove_tree(path)
            continue
        except PermissionError as error:
            _log.warning("%s may be a leftover, of another user: %s", path, error.strerror)
            continue
        try:
            if _is_acquired(lock, lock_path):
                _remove_tree(path)
                lock_path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory to a new one, so that it survives a loss of power when this returns.

    Raises:
        OSError: if something cannot be read or written.
        ValueError: naming what is neither a file nor a directory, a link to a directory for instance.
    """
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            into = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                copy_tree(Path(entry.path), into)
            elif entry.is_file():
                shutil.copyfile(entry.path, into)
                _sync(into, os.O_RDWR)
            else:
                raise ValueError(f"{entry.path} is neither a file nor a directory. Expected: these alone")
    sync_directory(target)


def sync_directory(directory: Path) -> None:
    """Makes what was made, renamed and removed in a directory survive a loss of power."""
    _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _is_acquired(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # two may be removing it
    if os.path.lexists(path):
        _log.warning("%s is left over and could not be removed", path)
