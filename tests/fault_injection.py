"""Fails every file operation of a store in turn, and checks the state that each failure leaves.

    python tests/fault_injection.py               # all stores
    python tests/fault_injection.py checkpoint    # stores whose name contains the text

A first run counts the operations. Then each case repeats the run with one fault at one operation, in a new directory:
an error (ENOSPC, EIO or EACCES), a disk that stays full, or the death of the process, before the operation or in the
middle of a write. After an error, the message must name the directory, the state must be the old or the new one, and no
temporary file may remain. After each fault, a normal run must reach the new state and remove the files of the killed
one. Only the server's configuration may be left with old and new files ("mixed"), because `write_configuration`
replaces its files one after the other, those of the settings before the scripts.

Operations of C and C++ code, such as TensorFlow's writer of SavedModels, are not intercepted. Linux only.
"""

import argparse
import builtins
import collections
import contextlib
import dataclasses
import errno
import importlib
import io
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

MODULES = (
    *("file_faults", "dataset_faults", "teacher_faults", "checkpoint_faults", "publication_faults"),
    "gallery_faults",
)
_WRITING = ("open for writing", "write", "truncate", "mkdir", "link", "sendfile")  # operations that need space
_KILLED, _FAILED = 77, 78  # exit codes of a child process
_MAX_SECONDS = 60  # of a child process

_real = {name: getattr(os, name) for name in dir(os)}
_real_open = io.open


class Store:
    """File or directory that the package writes, with an old and a new state.

    Attributes:
        name: name in the table.
        may_be_mixed: whether the store is several files that are replaced one after the other, so that a fault may
            leave some old and some new files.
    """

    name: str
    may_be_mixed = False

    def prepare(self, directory: Path) -> None:
        """Creates the old state in an empty directory."""

    def run(self, directory: Path) -> None:
        """Changes the old state to the new one."""
        raise NotImplementedError

    def rerun(self, directory: Path) -> None:
        """Runs again after a failure."""
        self.run(directory)

    def state(self, directory: Path) -> str:
        """Returns "old", "new", "mixed" (old and new files), or a description of another state."""
        raise NotImplementedError

    def litter(self, directory: Path) -> list[str]:
        """Returns the names of the files that must not remain, by default those of unfinished writes and locks."""
        names = [path.name for path in sorted(directory.rglob("*"))]
        return [name for name in names if name.endswith((".tmp", ".lock"))]


@dataclasses.dataclass(frozen=True)
class Fault:
    """Fault at a file operation: an error number, or the death of the process if `error` is None."""

    error: int | None
    half: bool = False  # after half of the data is written
    stays: bool = False  # at all later operations that need space, too

    def __str__(self) -> str:
        name = "kill" if self.error is None else errno.errorcode[self.error]
        return name + " after half of the data" * self.half + " from then on" * self.stays

    def is_possible(self, operation: str) -> bool:
        kind = operation.partition(": ")[0]
        return (kind in ("write", "sendfile") or not self.half) and (kind in _WRITING or not self.stays)


FAULTS = (
    *(Fault(error, half) for error in (errno.ENOSPC, errno.EIO, errno.EACCES, None) for half in (False, True)),
    Fault(errno.ENOSPC, stays=True),
    Fault(errno.ENOSPC, half=True, stays=True),
)


ALLOWED = ("old", "new", "mixed")  # "mixed" is another text if the store may not be mixed


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a case. `state` and `litter` are those directly after the fault, or after the next run if it fails."""

    number: int
    operation: str
    fault: Fault
    state: str
    litter: list[str]


def check(store: Store, faults=FAULTS, every: int = 1) -> Iterator[Outcome]:
    """Runs each case of a store, or one out of `every`."""
    with tempfile.TemporaryDirectory() as folder:
        template, directory = Path(folder, "template"), Path(folder, "run")
        template.mkdir()
        store.prepare(template)
        assert store.state(template) == "old", store.state(template)
        shutil.copytree(template, directory)
        with Injection(directory) as injection:
            store.run(directory)
        assert store.state(directory) == "new", store.state(directory)
        assert not store.litter(directory), store.litter(directory)
        cases = [
            (number, operation, fault)
            for number, operation in enumerate(injection.operations)
            for fault in faults
            if fault.is_possible(operation)
        ]
        for number, operation, fault in cases[::every]:
            shutil.rmtree(directory)
            shutil.copytree(template, directory)
            run = _run_killed if fault.error is None else _run_failing
            error = run(store, directory, number, fault)
            yield Outcome(number, operation, fault, *_judge(store, directory, fault, error))


def _run_failing(store: Store, directory: Path, number: int, fault: Fault) -> Exception | None:
    try:
        with Injection(directory, number, fault):
            store.run(directory)
    except Exception as error:  # judged by the caller
        return error
    return None


def _run_killed(store: Store, directory: Path, number: int, fault: Fault) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks of processes with several threads
        process = os.fork()
    if process == 0:
        try:
            signal.alarm(_MAX_SECONDS)
            with Injection(directory, number, fault):
                store.run(directory)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(_FAILED)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status == _KILLED, f"the child process must be killed at operation {number}. Received: status {status}"


def _judge(store: Store, directory: Path, fault: Fault, error: Exception | None) -> tuple[str, list[str]]:
    state, litter = store.state(directory), []
    if state == "mixed" and not store.may_be_mixed:
        state = "old and new files"
    if fault.error is not None and error is None:
        state = state if state == "new" else f"{state}, without an error"
    elif fault.error is not None:
        litter = store.litter(directory)
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        if not isinstance(error, (OSError, ValueError)) or str(directory) not in message:
            state = f"{type(error).__name__} that does not name a file: {message}"
    if state in ALLOWED and not litter:
        try:
            store.rerun(directory)
        except Exception as next_error:
            return f"{state}, then {type(next_error).__name__}: {next_error}", []
        next_state, litter = store.state(directory), store.litter(directory)
        if next_state != "new":
            state = f"{state}, then {next_state}"
    return state, litter


class Injection(contextlib.ExitStack):
    """Context manager that records the file operations below a directory, and lets one of them fail.

    Args:
        directory: directory whose operations are recorded.
        number: index of the operation that fails; None for no fault.
        fault: what happens at that operation.
    """

    def __init__(self, directory: Path, number: int | None = None, fault: Fault | None = None):
        super().__init__()
        self._directory, self._number, self._fault = os.path.realpath(directory), number, fault
        self.operations: list[str] = []

    def __enter__(self) -> "Injection":
        super().__enter__()
        for name, kind in {
            **{"replace": "rename", "rename": "rename", "link": "link", "symlink": "link", "mkdir": "mkdir"},
            **{"unlink": "unlink", "remove": "unlink", "rmdir": "unlink", "truncate": "truncate"},
            **{"fsync": "fsync", "fdatasync": "fsync", "ftruncate": "truncate"},
        }.items():
            self._patch(os, name, self._make_simple(kind, _real[name]))
        for name in ("write", "pwrite"):
            self._patch(os, name, self._make_write(_real[name]))
        self._patch(os, "sendfile", self._sendfile)
        if hasattr(os, "copy_file_range"):
            self._patch(os, "copy_file_range", self._refuse_copy_file_range)
        self._patch(os, "open", self._os_open)
        self._patch(io, "open", self._open)
        self._patch(builtins, "open", self._open)
        return self

    def perform(self, kind: str, path: str, function: Callable, write_half: Callable | None = None, filename=None):
        """Records an operation, and performs it or the fault."""
        if path != self._directory and not path.startswith(self._directory + os.sep):
            return function()
        number, fault = len(self.operations), self._fault
        operation = f"{kind}: {os.path.relpath(path, self._directory)}"
        self.operations.append(operation)
        if fault is not None and self._number is not None:
            is_later = fault.stays and number > self._number and kind in _WRITING
            if number == self._number or is_later:
                if fault.half and write_half is not None:
                    write_half()
                if fault.error is None:
                    os._exit(_KILLED)
                raise OSError(fault.error, os.strerror(fault.error), *([] if filename is None else [filename]))
        return function()

    def _patch(self, module, name: str, function: Callable) -> None:
        self.enter_context(mock.patch.object(module, name, function))

    def _make_simple(self, kind: str, real: Callable) -> Callable:
        def intercept(path, *args, **kwargs):
            filename = None if isinstance(path, int) else path
            directory = kwargs.get("dir_fd") or kwargs.get("src_dir_fd")
            absolute = _absolute(path, directory)
            return self.perform(kind, absolute, lambda: real(path, *args, **kwargs), filename=filename)

        return intercept

    def _make_write(self, real: Callable) -> Callable:
        def intercept(descriptor, data, *offset):
            half = bytes(data)[: len(data) // 2]
            path = _absolute(descriptor)
            return self.perform(
                "write", path, lambda: real(descriptor, data, *offset), lambda: real(descriptor, half, *offset)
            )

        return intercept

    def _sendfile(self, target, source, offset, count, **kwargs):
        real, half = _real["sendfile"], os.fstat(source).st_size // 2
        return self.perform(
            "sendfile",
            _absolute(target),
            lambda: real(target, source, offset, count, **kwargs),
            lambda: real(target, source, offset, half, **kwargs),
        )

    def _refuse_copy_file_range(self, *_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))  # callers continue with `sendfile`

    def _os_open(self, path, flags, mode=0o777, *, dir_fd=None):
        is_writing = flags & (os.O_WRONLY | os.O_RDWR)
        return self.perform(
            "open for writing" if is_writing else "open for reading",
            _absolute(path, dir_fd),
            lambda: _real["open"](path, flags, mode, dir_fd=dir_fd),
            filename=path,
        )

    def _open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        is_writing = not set(mode).isdisjoint("wax+")
        path = _absolute(file)

        def open_file():
            if not is_writing or opener is not None:
                return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = _InterceptedFile(file, mode.replace("b", "").replace("t", ""), closefd)
            raw.injection, raw.path = self, path
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        if isinstance(file, int):  # opening the file was an operation already
            return open_file()
        kind = "open for writing" if is_writing else "open for reading"
        return self.perform(kind, path, open_file, filename=file)


class _InterceptedFile(io.FileIO):
    """Unbuffered file, whose writes are operations of an injection."""

    injection: Injection
    path: str

    def write(self, data):
        write, half = super().write, bytes(data)[: len(bytes(data)) // 2]
        return self.injection.perform("write", self.path, lambda: write(data), lambda: write(half))

    def truncate(self, size=None):
        truncate = super().truncate
        return self.injection.perform("truncate", self.path, lambda: truncate(size))


def _absolute(path, directory: int | None = None) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}").removesuffix(" (deleted)")
    parent = os.getcwd() if directory is None else os.readlink(f"/proc/self/fd/{directory}")
    head, tail = os.path.split(os.path.join(parent, os.fsdecode(path)))
    return os.path.join(os.path.realpath(head), tail)


def find_stores(text: str = "") -> list[Store]:
    """Returns the stores of all modules whose name contains a text."""
    stores = [store for module in MODULES for store in importlib.import_module(module).STORES]
    return [store for store in stores if text in store.name]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", nargs="?", default="", help="part of the name of the stores; all by default")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    sys.path[1:1] = [str(Path(__file__).with_name(folder)) for folder in ("data", "gallery", "training", "serving")]
    print("store | operations | cases | old | new | mixed | other | litter\n---|---|---|---|---|---|---|---")
    num_bad = 0
    for store in find_stores(arguments.store):
        outcomes = list(check(store))
        states = collections.Counter(outcome.state if outcome.state in ALLOWED else "other" for outcome in outcomes)
        bad = [outcome for outcome in outcomes if outcome.state not in ALLOWED or outcome.litter]
        num_bad += len(bad)
        counts = [len({outcome.number for outcome in outcomes}), len(outcomes)]
        counts += [states[state] for state in (*ALLOWED, "other")]
        print(store.name, *counts, sum(bool(outcome.litter) for outcome in outcomes), sep=" | ")
        for outcome in bad[:20]:
            print(f"    {outcome.fault} at {outcome.operation}: {outcome.state} {outcome.litter}")
    sys.exit(num_bad > 0)


if __name__ == "__main__":
    main()
