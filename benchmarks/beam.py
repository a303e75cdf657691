"""Compares conversion and embedding on Apache Beam with the same work by local processes.

    python benchmarks/beam.py path/to/train.rec --copies 20

The records are repeated. Each way writes all files, and the script compares them byte for byte with those of the local
processes, where the order of the work cannot matter. Then it kills a worker of Beam's DirectRunner in the middle,
counts what remains, and runs the same call again. "job service" is Beam's portable runner with a pool of external
workers, the interfaces through which Flink and Spark run pipelines.

Wall-clock times include the start of the processes, which load TensorFlow.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convert import repeat

from keras_arcface import data

IMAGES_PER_SHARD = 2_000


def ways(processes: int, job_service: str, pool: str) -> dict[str, list[str]]:
    """Returns the options of the command for each way to run it."""
    direct = ["--beam", "--direct_running_mode=multi_processing", f"--direct_num_workers={processes}"]
    portable = ["--beam", "--runner=PortableRunner", f"--job_endpoint={job_service}", "--environment_type=EXTERNAL"]
    return {
        "local, 1 process": [],
        f"local, {processes} processes": ["--processes", str(processes)],
        "Beam, DirectRunner in the process": ["--beam"],
        f"Beam, DirectRunner, {processes} processes": direct,
        "Beam, job service and external workers": [*portable, f"--environment_config={pool}"],
    }


def checksums(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.name != ".lock"
    }


def command(source: Path, output: Path, options: list[str]) -> list[str]:
    size = ["--examples-per-shard", str(IMAGES_PER_SHARD)]
    return [sys.executable, "-m", "keras_arcface", "convert", str(source), str(output), *size, *options]


def compare(source: Path, folder: Path, options: dict[str, list[str]], count: int) -> None:
    expected: dict[str, str] = {}
    print(f"{'':42}{'seconds':>9}{'images/s':>10}  files")
    for name, extra in options.items():
        output = folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        begin = time.perf_counter()
        done = subprocess.run(command(source, output, extra), capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr}")
        found = checksums(output)
        expected = expected or found
        same = "equal" if found == expected else "DIFFERENT"
        print(f"{name:42}{seconds:9.1f}{count / seconds:10,.0f}  {len(found)} {same}", flush=True)


def kill_a_worker(source: Path, folder: Path, options: list[str]) -> None:
    """Kills one worker process of a pipeline after a third of the shards, and runs the command again."""
    expected = checksums(folder / "out")
    output = folder / "killed"
    shards = len(list((folder / "out").glob("*.tfrecord")))
    process = subprocess.Popen(
        command(source, output, options), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while len(list(output.glob("*.tfrecord"))) < shards // 3:
        if process.poll() is not None:
            raise RuntimeError("The pipeline ended before a worker could be killed.")
        time.sleep(0.05)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    begin = time.perf_counter()
    _, error = process.communicate()
    seconds = time.perf_counter() - begin
    message = [line for line in error.decode(errors="replace").splitlines() if line.startswith("error:")]
    remaining = len(list(output.glob("*.tfrecord")))
    print(f"\nA worker killed: exit code {process.returncode} after {seconds:.1f} s.")
    print(f"{remaining} of {shards} shards remain.")
    print("\n".join(message))
    begin = time.perf_counter()
    subprocess.run(command(source, output, options), capture_output=True, check=True)
    same = "equal" if checksums(output) == expected else "DIFFERENT"
    print(f"The same command again: {time.perf_counter() - begin:.1f} s, {shards} shards, {same}")


def workers(session: int) -> list[int]:
    """Returns the worker processes of Beam in a session."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if b"apache_beam.runners.worker.sdk_worker_main" in words and os.getsid(int(entry)) == session:
                found.append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rec", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the folder for temporary files")
    arguments = parser.parse_args()
    from apache_beam.runners.portability import local_job_service
    from apache_beam.runners.worker import worker_pool_main

    # The pool starts workers by the name `python`.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        pool_address, pool = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(use_process=True)
        service = local_job_service.LocalJobServicer(str(folder / "staging"))
        port = service.start_grpc_server()
        try:
            source = folder / "train.rec"
            repeat(arguments.rec, arguments.copies, source)
            count = len(data.RecordIO(source))
            print(f"{count:,} images, {source.stat().st_size / 2**20:,.0f} MiB")
            options = ways(arguments.processes, f"localhost:{port}", pool_address)
            compare(source, folder, options, count)
            kill_a_worker(source, folder, options[f"Beam, DirectRunner, {arguments.processes} processes"])
        finally:
            service.stop()
            pool.stop(0)


if __name__ == "__main__":
    main()
