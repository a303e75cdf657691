"""Temporary directories for new versions of a model, and removal of the leftovers of killed processes.

A publisher holds a lock on the file `.tmp-<unique>.lock` next to its temporary directory. The operating system releases
the lock when the process ends or is killed. The lock is a file because network file systems cannot lock directories.
"""

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from keras_arcface._files import sync_directory
from keras_arcface._files import sync_file
from keras_arcface._locks import FileLock

PREFIX = ".tmp-"
_LOCK_SUFFIX = ".lock"
_LOCK_TIMEOUT = 10.0  # seconds; another publisher holds the lock only while it finds that it has nothing to remove
_MAX_LEVELS = 32  # nested directories; a SavedModel has three

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def temporary_path(base: Path) -> Iterator[Path]:
    """Yields a temporary path in a base path, at which no file exists yet. Files at the path are removed at exit."""
    path = new_path(base)
    with FileLock(_lock_path(path), _LOCK_TIMEOUT):
        try:
            yield path
        finally:
            _remove(path)


def new_path(base: Path) -> Path:
    """Returns a new temporary path in a base path."""
    return base / f"{PREFIX}{secrets.token_hex(8)}"


def remove_leftovers(base: Path) -> None:
    """Removes the temporary files of killed publishers, and removed versions. Those of running publishers remain."""
    names = {name.removesuffix(_LOCK_SUFFIX) for name in os.listdir(base) if name.startswith(PREFIX)}
    for path in sorted(base / name for name in names):
        # A removed version, or the copy of a publisher that is done. A publisher creates its lock file before the
        # directory.
        if not _lock_path(path).exists():
            _remove(path)
            continue
        try:
            with FileLock(_lock_path(path)):
                _remove(path)
        except BlockingIOError:  # of a running publisher
            continue
        except OSError as error:
            _log.warning("%s may be a leftover, but its lock file cannot be opened: %s", path, error.strerror)


def copy_tree(source: Path, target: Path, levels: int = _MAX_LEVELS) -> None:
    """Copies a directory to a new path and flushes the copy to the disk.

    Links to files are replaced by copies of the files.

    Args:
        source: directory to copy.
        target: path of the copy.
        levels: maximum number of nested directories.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the source contains an entry that is not a file or a directory, such as a link to a directory, or
            too many nested directories.
    """
    if levels == 0:
        raise ValueError(f"A SavedModel must have at most {_MAX_LEVELS} nested directories. Received: {source}")
    os.mkdir(target)
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            destination = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                copy_tree(Path(entry.path), destination, levels - 1)
            elif os.path.isfile(entry.path):  # also of a link; `entry.is_file` fails for a link to itself
                shutil.copyfile(entry.path, destination)
                sync_file(destination)
            else:
                raise ValueError(f"A SavedModel must contain only files and directories. Received: {entry.path}")
    sync_directory(target)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + _LOCK_SUFFIX)


def _remove(path: Path) -> None:
    """Removes a directory, or a file or link with the name of a version. Logs a warning if it cannot be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # a concurrent publisher may remove the same leftover
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    if os.path.lexists(path):
        _log.warning("The leftover %s could not be removed", path)
