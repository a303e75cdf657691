"""Lock of the files of a training, which only one process at a time writes."""

import os
import threading
import weakref
from pathlib import Path

from keras_arcface._locks import FileLock

_locks: weakref.WeakValueDictionary[str, FileLock] = weakref.WeakValueDictionary()
_threads: weakref.WeakKeyDictionary[FileLock, threading.Thread] = weakref.WeakKeyDictionary()


def lock_run(path: Path) -> FileLock:
    """Acquires a lock for a training of this process, and creates the directory of the lock file if necessary.

    Releases the lock of an earlier training in the same thread, because Keras does not tell callbacks that `fit` ended
    with an error. A training in another thread of this process keeps its lock.

    Args:
        path: path of the lock file.

    Returns:
        The lock, which the caller releases at the end of the training.

    Raises:
        BlockingIOError: if another process or thread holds the lock. The message names it.
        OSError: if the directory is not writable or does not support locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = os.path.join(os.path.realpath(path.parent), path.name)
    earlier = _locks.get(key)
    thread = threading.current_thread()
    if earlier is not None and (_threads[earlier] is thread or not _threads[earlier].is_alive()):
        earlier.release()
    lock = FileLock(path)
    lock.acquire()
    _locks[key], _threads[lock] = lock, thread
    return lock
