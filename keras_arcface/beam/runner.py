"""Writing of shards by a pipeline of Apache Beam."""

import hashlib
import pickle
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from keras_arcface._files import write_atomically
from keras_arcface._optional import optional_import
from keras_arcface._shard_runner import JOB_FILE
from keras_arcface._shard_runner import ShardJob

with optional_import("beam", "keras_arcface.beam"):
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

_POLL_SECONDS = 0.5
_MAX_POLLING = 0.05  # share of the time that is spent on looking for finished shards


class BeamRunner:
    """Writes the shards of a dataset, of embeddings or of aligned faces by a pipeline of Apache Beam.

    It is the argument `runner` of `data.write_dataset`, `evaluation.write_embeddings` and `faces.align_folder`, which
    then write the same files as in this process. Without options, Beam's DirectRunner runs the pipeline in this
    process. The options of Beam select another runner, such as Flink, Spark or Dataflow.

    All workers read the source and write to the directory under the same paths, so these must be on a file system that
    the machines share, and the package must be installed on all of them. A worker writes a shard under a temporary
    name, flushes it to the disk and renames it, so a repeated part of a pipeline finds a finished shard and leaves it
    unchanged. After a failed pipeline, the same call continues with the missing shards.

    Args:
        options: command-line options of Beam, such as `["--runner=FlinkRunner", "--flink_master=host:8081"]`.
        skipped: transform that receives the skipped records of `damaged="skip"`, such as
            `apache_beam.io.WriteToText(path)`. A record is a dict of the name of the directory ("directory"), the
            number of the shard ("shard") and the message that names the record and the reason ("message"). None: they
            are only in the description that the call writes, as without Beam.

    Raises:
        ModuleNotFoundError: if Apache Beam is not installed, the extra `beam`.

    Examples:
        >>> info = data.write_dataset(data.ImageFolder("photos"), "beam_tfrecord", runner=BeamRunner())
        >>> info.num_examples
        8

        On the cores of this machine, and on a Flink cluster:

            BeamRunner(["--direct_running_mode=multi_processing", "--direct_num_workers=8"])
            BeamRunner(["--runner=FlinkRunner", "--flink_master=host:8081", "--environment_type=EXTERNAL",
                        "--environment_config=localhost:50000"])

    References:
        - [Apache Beam: Python pipeline options](https://beam.apache.org/documentation/runners/capability-matrix/)
    """

    def __init__(self, options: Sequence[str] = (), skipped: "apache_beam.PTransform | None" = None):
        if isinstance(options, str) or not all(isinstance(option, str) for option in options):
            raise TypeError(
                f'options must be a list of texts such as ["--runner=FlinkRunner"]. Received: options={options!r}'
            )
        self.options = list(options)
        self._skipped = skipped

    def __repr__(self) -> str:
        return f"<BeamRunner({' '.join(self.options)})>"

    def write_shards(
        self,
        write: Callable[..., Any],
        read: Callable[..., Any],
        job: ShardJob,
        shards: Sequence[tuple[int, Any]],
        progress: tqdm,
    ) -> None:
        """Writes shards. `data.write_dataset` and similar functions call it.

        Args:
            write: function `(job, number, items, progress) -> report`, where `progress` is a function that is called
                with numbers of finished items. The report has the attribute `skipped`, a sequence of messages.
            read: function `(job, number) -> report` that returns None if the shard must be written.
            job: common description of the shards, which supports pickling.
            shards: `(number, items)` of each shard.
            progress: progress bar that counts items.

        Raises:
            RuntimeError: if the pipeline failed. The message has the last lines of Beam's error.
        """
        # The description may be large, so it is not a part of the pipeline.
        path = (job.directory / JOB_FILE).absolute()
        content = pickle.dumps((write, read, job, dict(shards)))
        write_atomically(path, content, mode=0o600)
        step = _WriteShard(str(path), hashlib.sha256(content).hexdigest())
        try:
            pipeline = apache_beam.Pipeline(options=PipelineOptions(self.options))
            written = (
                pipeline
                | "shards" >> apache_beam.Create([number for number, _ in shards])
                | apache_beam.Reshuffle()
                | "write" >> apache_beam.ParDo(step).with_outputs("skipped", main="written")
            )
            if self._skipped is not None:
                written.skipped | "skipped" >> self._skipped
            _run(pipeline, _Progress(read, job, shards, progress))
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise RuntimeError(
                f"The pipeline of Apache Beam that writes to {job.directory} must not fail. The same call continues "
                f"after the finished shards. Received: {lines[-1].strip()}"
            ) from error
        finally:
            path.unlink(missing_ok=True)


def _run(pipeline: "apache_beam.Pipeline", progress: "_Progress") -> None:
    """Runs a pipeline.

    It runs in a thread of its own. Beam's DirectRunner waits forever for a process that was killed, although it raises
    an exception about it in another thread.
    """
    errors: list[BaseException] = []
    results: list[Any] = []
    finished = threading.Event()

    def run() -> None:
        try:
            results.append(pipeline.run())
            results[0].wait_until_finish()
        except BaseException as error:
            errors.append(error)
        finished.set()

    def note(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None and "Worker subprocess exited" in str(failure.exc_value):
            errors.append(failure.exc_value)
            finished.set()
        else:
            former(failure)

    former, threading.excepthook = threading.excepthook, note
    try:
        threading.Thread(target=run, daemon=True).start()
        seconds = _POLL_SECONDS
        while not finished.wait(seconds):
            begin = time.monotonic()
            progress.update()
            seconds = max(_POLL_SECONDS, (time.monotonic() - begin) / _MAX_POLLING)
    except KeyboardInterrupt:
        for result in results:  # otherwise a cluster would go on
            result.cancel()
        raise
    finally:
        threading.excepthook = former
    if errors:
        raise errors[0]
    progress.update()


class _Progress:
    """Progress bar of the images in finished shards."""

    def __init__(self, read: Callable[..., Any], job: ShardJob, shards: Sequence[tuple[int, Any]], bar: tqdm):
        self._read, self._job, self._bar = read, job, bar
        self._missing = {number: len(items) for number, items in shards}

    def update(self) -> None:
        for number in list(self._missing):
            if self._read(self._job, number) is not None:
                self._bar.update(self._missing.pop(number))


class _WriteShard(apache_beam.DoFn):
    """Writes the shard of a number, and yields the number and its skipped records."""

    def __init__(self, path: str, sha256: str):
        self._path, self._sha256 = path, sha256

    def process(self, number: int) -> Iterator[Any]:
        write, read, job, items = _load_job(self._path, self._sha256)
        images = apache_beam.metrics.Metrics.counter("keras_arcface", "images")
        with _writing:
            report = read(job, number)
            if report is None:
                report = write(job, number, items[number], images.inc)
        yield number
        for message in report.skipped:
            record = {"directory": str(job.directory), "shard": number, "message": message}
            yield apache_beam.pvalue.TaggedOutput("skipped", record)


# A process of Beam may run several parts of a pipeline at once. They share one job, whose model may not be thread-safe.
_writing = threading.Lock()
_loading = threading.Lock()
_jobs: dict[tuple[str, str], Any] = {}


def _load_job(path: str, sha256: str) -> Any:
    """Loads the description of the shards once in a process."""
    with _loading:
        if (path, sha256) not in _jobs:
            try:
                content = Path(path).read_bytes()
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{path} must be on a file system that all workers share, and exists as long as the call that runs "
                    "the pipeline. Received: no such file"
                ) from error
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError(f"{path} must be the file of this pipeline. Received: that of a later run")
            _jobs.clear()
            _jobs[path, sha256] = pickle.loads(content)
        return _jobs[path, sha256]
