"""Searches for inputs that break a reader of files or answers, guided by coverage.

    python tests/fuzzing/fuzz.py                        # every target, 2 seconds each
    python tests/fuzzing/fuzz.py rec idx --seconds 600  # two targets, 10 minutes each

A target is a module in `tests/fuzzing/targets/`. It reads one input as a user would:

    COVERS = ("keras_arcface/data/recordio_format.py",)  # files whose coverage is reported
    ALLOWED = (ValueError,)   # exceptions that a damaged input may raise
    MAX_SECONDS = 5           # CPU time per input, all threads together; optional
    MAX_MIB = 256             # growth of the resident memory per input; optional
    def seeds() -> list[bytes]
    def run(data: bytes) -> None

Another exception, a crash of the process, more time or more memory is a finding: the input is saved, the traceback is
printed, and the exit status is 1. Inputs that once were a finding are kept in `tests/fuzzing/corpus/TARGET/`; the tests
run them again, and the search starts from them and from the seeds.

The table has the executions, the seconds, the branches that libFuzzer counted in `keras_arcface`, and the share of the
lines and branches of the files in `COVERS` that the inputs of the search reach. It requires Linux and `atheris`.
"""

import argparse
import atexit
import contextlib
import hashlib
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from pathlib import Path

FOLDER = Path(__file__).parent
_PATIENCE = 10  # limit of the time on the clock, as a multiple of `MAX_SECONDS`, for a machine that is busy or stalls
_MEMORY_DISK = "/dev/shm" if os.path.isdir("/dev/shm") else None
sys.path[:0] = [str(FOLDER.parent / folder) for folder in ("", "data", "serving")]
peak_memory = importlib.import_module("peak_memory")  # in one of these folders


def target_names() -> list[str]:
    """Returns the names of all targets."""
    return sorted(path.stem for path in (FOLDER / "targets").glob("*.py"))


def load_target(name: str):
    """Imports a target."""
    return importlib.import_module(f"fuzzing.targets.{name}")


def inputs(name: str) -> dict[str, bytes]:
    """Returns the seeds of a target and its former findings."""
    found = {path.name: path.read_bytes() for path in sorted((FOLDER / "corpus" / name).glob("*"))}
    return found | {f"seed-{index}": seed for index, seed in enumerate(load_target(name).seeds())}


def check(target, data: bytes) -> None:
    """Runs a target, and raises an error for an exception that is not allowed, or too much time or memory."""
    with _time_limit(signal.ITIMER_REAL, signal.SIGALRM, _PATIENCE * _max_seconds(target)):
        _check_but_waiting(target, data)


def warm_up(target) -> None:
    """Runs a target once without limits, because a first run may load or compile code."""
    with contextlib.suppress(*target.ALLOWED):
        target.run(target.seeds()[0])


def _max_seconds(target) -> float:
    return getattr(target, "MAX_SECONDS", 5)


def _check_but_waiting(target, data: bytes) -> None:
    """Does what `check` does, but without a limit on the time that the process waits."""
    cpu_time = _time_limit(signal.ITIMER_PROF, signal.SIGPROF, _max_seconds(target))
    with cpu_time, _memory_limit(getattr(target, "MAX_MIB", 256)), contextlib.suppress(*target.ALLOWED):
        target.run(data)


@contextlib.contextmanager
def _time_limit(timer: int, number: int, seconds: float):
    """Raises a TimeoutError after some seconds of a timer, which sends the signal `number`.

    It is raised again at the end, because a reader may convert every error to one that is allowed.
    """
    error = TimeoutError(f"reading takes more than {seconds:g} seconds")
    is_over = False

    def stop(*_):
        nonlocal is_over
        is_over = True
        raise error

    previous = signal.signal(number, stop)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, previous)
    if is_over:
        raise error


@contextlib.contextmanager
def _memory_limit(limit: float):
    """Raises a MemoryError if the resident memory has grown by more than `limit` MiB at any time."""
    before = peak_memory.reset_peak()
    yield
    growth = peak_memory.peak() - before
    if growth > limit:
        raise MemoryError(f"reading takes {growth:.0f} MiB; the limit is {limit} MiB")


def _search(name: str, corpus: str, findings: str, seconds: int, seed: int) -> None:
    """Searches in this process, which ends with the search."""
    import atheris

    target = load_target(name)
    known = inputs(name)
    for label, data in known.items():
        Path(corpus, label).write_bytes(data)

    warm_up(target)

    def run(data):
        try:
            _check_but_waiting(target, data)  # libFuzzer limits the time on the clock
        except BaseException:
            path = f"{findings}crash-{hashlib.sha1(data).hexdigest()}"
            Path(path).write_bytes(data)
            print(f"Input written to {path}", flush=True)
            raise

    longest = max(map(len, known.values()), default=0)
    options = {
        "max_total_time": seconds,
        "timeout": _PATIENCE * _max_seconds(target),
        "rss_limit_mb": 16384,
        "print_final_stats": 1,
    }
    options |= {"artifact_prefix": findings, "max_len": max(4096, 2 * longest), "seed": seed}
    atheris.Setup([sys.argv[0], corpus, *(f"-{key}={value}" for key, value in options.items())], run)
    atheris.Fuzz()


def _measure_coverage(name: str, corpus: str) -> None:
    """Prints the share of the lines and branches of `COVERS` that the inputs of a search reach."""
    import coverage

    root = FOLDER.parents[1]
    measured = coverage.Coverage(data_file=None, branch=True, config_file=False, source=[str(root / "keras_arcface")])
    measured.start()
    target = load_target(name)
    for path in Path(corpus).iterdir():
        with contextlib.suppress(*target.ALLOWED):
            target.run(path.read_bytes())
    measured.stop()
    with open(os.devnull, "w") as nowhere:
        share = measured.report(include=[str(root / file) for file in target.COVERS], file=nowhere)
    print(f"covered: {share:.0f}%")


def _in_child(function, *arguments) -> tuple[int, str]:
    """Runs a function in a forked process, and returns the exit status and what the process printed."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            atexit.unregister(weakref.finalize._exitfunc)  # temporary directories belong to the parent
            try:
                function(*arguments)
                sys.stdout.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", default=target_names(), metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=2, help="time for each target")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search; 0: a random one")
    parser.add_argument("--findings", default="fuzz-findings", help="directory for inputs that break a target")
    parser.add_argument("--corpus", help="directory that keeps the inputs of the search, one folder for each target")
    parser.add_argument("--coverage", action="store_true", help="also report the coverage of the files in COVERS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_MEMORY_DISK) as temporary:
        tempfile.tempdir = temporary  # for the files of the targets
        sys.exit(_search_all(arguments, Path(arguments.corpus or temporary)))


def _search_all(arguments, corpora: Path) -> int:
    from tqdm import tqdm

    logging.disable()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        _load_instrumented(arguments.targets)
    os.makedirs(arguments.findings, exist_ok=True)
    print(f"{'target':20}{'executions':>12}{'seconds':>9}{'branches':>10}{'covered':>9}  finding", flush=True)
    failed = 0
    for name in tqdm(arguments.targets, unit="target", disable=None):
        corpus = corpora / name
        corpus.mkdir(parents=True, exist_ok=True)
        prefix = os.path.join(arguments.findings, f"{name}-")
        start = time.monotonic()
        status, text = _in_child(_search, name, str(corpus), prefix, arguments.seconds, arguments.seed)
        seconds = time.monotonic() - start
        covered = "-"
        if arguments.coverage:
            command = f"import sys; sys.argv = ['']; import fuzz; fuzz._measure_coverage({name!r}, {str(corpus)!r})"
            covered = _last(r"covered: (\d+%)", _output([sys.executable, "-c", command]))
        executions, branches = _last(r"number_of_executed_units: (\d+)|#(\d+)\s", text), _last(r"cov: (\d+)", text)
        finding = _last(rf"({re.escape(prefix)}\S+)", text) if status != 0 else ""
        print(f"{name:20}{executions:>12}{seconds:>9.0f}{branches:>10}{covered:>9}  {finding}", flush=True)
        if status != 0:
            failed += 1
            print("\n".join(text.strip().splitlines()[-40:]), flush=True)
    if not os.listdir(arguments.findings):
        os.rmdir(arguments.findings)
    return min(failed, 1)


def _load_instrumented(names: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["keras_arcface"]):
        for name in names:
            load_target(name)
            _check_that_a_fork_works(name)


def _check_that_a_fork_works(name: str) -> None:
    """Raises an error if TensorFlow has started threads: it hangs in a process that is forked then."""
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if any(thread.startswith("tf_") for thread in threads):
        raise RuntimeError(f"target {name}: the import must not start threads of TensorFlow")


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True).stdout


def _last(pattern: str, text: str) -> str:
    """Returns the last text that a group of a pattern matches, or a dash."""
    matches = list(re.finditer(pattern, text))
    return next(filter(None, matches[-1].groups())) if matches else "-"


if __name__ == "__main__":
    main()
