"""Runs the contenders of a benchmark in separate processes and measures them in turns."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


def serve(task, kinds):
    """Runs a contender: warms up, then measures for the number of seconds in each input line."""
    out, sys.stdout = sys.stdout, sys.stderr
    kind, held_gib = kinds[task.pop("kind")], task.pop("held", 0)
    if first := task.pop("first", None):
        kind(**{**task, **first})(2)
    before = memory()["VmRSS"] if held_gib and not gpu_memory() else 0
    run = kind(**task)
    reset_peak_memory()
    run(2)
    seconds_of_one = run(2) / 2
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        times = max(2, round(float(line) / seconds_of_one))
        seconds_of_one = run(times) / times
        answer = {"seconds": seconds_of_one, "gib": peak_memory() - before - held_gib, **getattr(run, "found", {})}
        print(json.dumps(answer), file=out, flush=True)


def seconds_of(run, times):
    begin = time.perf_counter()
    run(times)
    return time.perf_counter() - begin


def reset_peak_memory():
    """Resets the peak memory of the process and of PyTorch on a GPU. JAX does not support it."""
    Path("/proc/self/clear_refs").write_text("5")
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def memory():
    """Returns the current (`VmRSS`) and peak (`VmHWM`) memory of this process in GiB, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.startswith("Vm")}


def peak_memory():
    """Returns the peak memory in GiB: of the GPU if there is one, else of the process."""
    return gpu_memory() or memory()["VmHWM"]


def gpu_memory():
    """Returns the peak GPU memory in GiB, or 0 without a GPU."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**30
    if "jax" in sys.modules and (statistics_of := sys.modules["jax"].local_devices()[0].memory_stats()):
        return statistics_of["peak_bytes_in_use"] / 2**30
    return 0.0


class Contender:
    """A contender and its measurements.

    Args:
        name: label in the table.
        task: arguments of its process, as JSON.
        backend: Keras backend.
        keep_alive: whether the process stays in memory between rounds.
    """

    def __init__(self, name, task, backend, keep_alive):
        self.name, self.task, self.keep_alive = name, task, keep_alive
        self.environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "OMP_WAIT_POLICY": "passive",  # idle contenders do not use CPU time
            "KMP_BLOCKTIME": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process, self.answers, self.measured, self.gib, self.failed = None, [], [], 0.0, False

    def measure(self, seconds):
        if self.failed:
            return
        if self.process is None:
            command = [sys.executable, sys.argv[0], "--serve", json.dumps(self.task)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, env=self.environment, text=True, **pipes)
            self.process.stdout.readline()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer:
            answer = json.loads(answer)
            self.answers.append(answer)
            self.measured.append(answer["seconds"])
            self.gib = max(self.gib, answer["gib"])
        else:
            self.failed = True
        if self.failed or not self.keep_alive:
            self.stop()

    def stop(self):
        if self.process is not None:
            self.process.communicate()
            self.process = None


def in_turns(contenders, arguments):
    """Measures all contenders round by round, and drops those that cannot run."""
    try:
        for _ in range(arguments.rounds):
            for contender in contenders:
                contender.measure(arguments.seconds)
                print(f"  {contender.name}: {contender.measured[-1:]}", file=sys.stderr, flush=True)
    finally:
        for contender in contenders:
            contender.stop()
    for contender in contenders:
        if contender.failed:
            print(f"{contender.name} cannot run here", file=sys.stderr)
    return [contender for contender in contenders if contender.measured]


def machine():
    """Returns the kind and the name of the device."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return "gpu", subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return "cpu", f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}"
