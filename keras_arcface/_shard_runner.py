"""Interface to systems that write the shards of a directory, such as Apache Beam."""

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

# File in the directory with the description of the shards for the workers. Only a killed run leaves it behind.
JOB_FILE = ".job.pickle"


class ShardJob(Protocol):
    """Common description of shards.

    Attributes:
        directory: path of the directory of the shards.
    """

    @property
    def directory(self) -> Path: ...


class ShardRunner(Protocol):
    """What writes shards, on one or several machines that share the directory."""

    def write_shards(
        self,
        write: Callable[..., Any],
        read: Callable[..., Any],
        job: ShardJob,
        shards: Sequence[tuple[int, Any]],
        progress: tqdm,
    ) -> None:
        """Writes shards.

        Args:
            write: function `(job, number, items, progress) -> report`, where `progress` is a function that is called
                with numbers of finished items. The report has the attribute `skipped`, a sequence of messages.
            read: function `(job, number) -> report` that returns None if the shard must be written.
            job: common description of the shards, which supports pickling.
            shards: `(number, items)` of each shard.
            progress: progress bar that counts items.
        """


def write_shards(
    runner: ShardRunner,
    write: Callable[..., Any],
    read: Callable[..., Any],
    job: ShardJob,
    shards: Sequence[tuple[int, Any]],
    progress: tqdm,
) -> dict[int, Any]:
    """Writes shards with a runner, and returns a dict from the number of each shard to its report.

    The arguments are those of `ShardRunner.write_shards`.

    Raises:
        RuntimeError: if a shard is missing afterwards.
    """
    if not shards:
        return {}
    runner.write_shards(write, read, job, shards, progress)
    reports = {number: read(job, number) for number, _ in shards}
    missing = sum(report is None for report in reports.values())
    if missing:
        raise RuntimeError(
            f"{job.directory} must contain all shards after the run of {runner!r}, whose workers must write to the "
            "same file system. The same call continues after the finished shards. "
            f"Received: {missing} of {len(shards)} shards are missing"
        )
    return reports
