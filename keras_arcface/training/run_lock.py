"""Lock of the files of a training, which only one process at a time writes."""

import os
import weakref
from pathlib import Path

from keras_arcface._locks import FileLock

_locks: weakref.WeakValueDictionary[str, FileLock] = weakref.WeakValueDictionary()


def lock_run(path: Path) -> FileLock:
    """Acquires a lock for a training of this process, and creates the directory of the lock file if necessary.

    Releases the lock of an earlier training of this process, because Keras does not tell callbacks that `fit` ended
    with an error.

    Args:
        path: path of the lock file.

    Returns:
        The lock, which the caller releases at the end of the training.

    Raises:
        BlockingIOError: if another process holds the lock. The message names it.
        OSError: if the directory is not writable or does not support locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.path.join(os.path.realpath(path.parent), path.name)
    earlier = _locks.get(key)
    if earlier is not None:
        earlier.release()
    lock = FileLock(path)
    lock.acquire()
    _locks[key] = lock
    return lock
