"""Parallel writing of shards in several processes.

The processes are forked from a server process that has imported this module. They are not forked from the process of
the caller, because a fork does not copy its threads.
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_arcface._locks import FileLock
from keras_arcface.data.shard_writer import ShardJob
from keras_arcface.data.shard_writer import ShardReport
from keras_arcface.data.shard_writer import write_shard


def write_shards(
    job: ShardJob, shards: list[tuple[int, np.ndarray]], processes: int, lock_path: Path, progress: tqdm
) -> dict[int, ShardReport]:
    """Writes shards with several processes.

    Args:
        job: description of the dataset.
        shards: `(number, indices)` of each shard, the arguments of `write_shard`.
        processes: number of processes.
        lock_path: path of the lock file. The caller must have called `FileLock.share`.
        progress: progress bar that counts images.

    Returns:
        A dict from the number of each shard to its report.

    Raises:
        RuntimeError: if a process died.
        Exception: if `write_shard` raised an exception in a process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    num_written = context.Value("q", 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(shards)), context, _initialize, (job, lock_path, num_written)
    )
    num_shown = 0
    try:
        futures = {executor.submit(_write_shard, *shard): shard[0] for shard in shards}
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
            f"The processes that write to {job.directory} must not exit early. Possible causes: a process was killed "
            'or ran out of memory, or the script lacks `if __name__ == "__main__":`. The same call continues after the '
            f"finished shards. Received: {type(error).__name__}: {error}"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


class _Worker:
    """Global state of a worker process."""

    job: ShardJob
    num_written: Any  # synchronized integer of multiprocessing, the number of images


def _initialize(job: ShardJob, lock_path: Path, num_written) -> None:
    _Worker.job, _Worker.num_written = job, num_written
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    FileLock(lock_path).join()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _write_shard(number: int, indices: np.ndarray) -> ShardReport:
    def progress(count: int) -> None:
        with _Worker.num_written.get_lock():
            _Worker.num_written.value += count

    return write_shard(_Worker.job, number, indices, progress)
