"""Parallel writing of shards in several processes.

The processes are forked from a server process that has imported this module. They are not forked from the process of
the caller, because a fork does not copy its threads.
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pickle
import threading
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from keras_arcface._locks import FileLock


def write_shards(
    write: Callable[..., Any],
    job: Any,
    shards: Sequence[tuple[int, Any]],
    processes: int,
    lock_path: Path,
    progress: tqdm,
    threads: int = 1,
) -> dict[int, Any]:
    """Writes shards with several processes.

    Args:
        write: function `(job, number, indices, progress) -> report` of a module, where `progress` is a function that is
            called with numbers of finished images.
        job: common description of the shards, which supports pickling.
        shards: `(number, indices)` of each shard.
        processes: number of processes.
        lock_path: path of the lock file of the directory. The caller must have called `FileLock.share`.
        progress: progress bar that counts images.
        threads: number of threads of TensorFlow in each process.

    Returns:
        A dict from the number of each shard to its report.

    Raises:
        RuntimeError: if a process died.
        Exception: if `write` raised an exception in a process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, write.__module__])
    num_written = context.Value("q", 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(shards)), context, _initialize, (write, pickle.dumps(job), lock_path, num_written, threads)
    )
    num_shown = 0
    try:
        futures = {executor.submit(_write, *shard): shard[0] for shard in shards}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_EXCEPTION)
            written = num_written.get_obj().value  # read without its lock, which a killed process may hold
            progress.update(written - num_shown)
            num_shown = written
            for future in finished:
                future.result()
        return {number: future.result() for future, number in futures.items()}
    except (concurrent.futures.BrokenExecutor, ConnectionError, EOFError) as error:
        raise RuntimeError(
            f"The processes that write to {lock_path.parent} must not exit early. Possible causes: a process was "
            'killed or ran out of memory, or the script lacks `if __name__ == "__main__":`. The same call continues '
            f"after the finished shards. Received: {type(error).__name__}: {error}"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


class _Worker:
    """Global state of a worker process."""

    write: Callable[..., Any]
    job: Any
    num_written: Any  # synchronized integer of multiprocessing, the number of images


def _initialize(write: Callable[..., Any], job: bytes, lock_path: Path, num_written, threads: int) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    FileLock(lock_path).join()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # A job with a Keras model uses TensorFlow while it is loaded, after which the threads cannot be set.
    _Worker.write, _Worker.job, _Worker.num_written = staticmethod(write), pickle.loads(job), num_written


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _write(number: int, indices: Sequence[int]) -> Any:
    def progress(count: int) -> None:
        with _Worker.num_written.get_lock():
            _Worker.num_written.value += count

    return _Worker.write(_Worker.job, number, indices, progress)
