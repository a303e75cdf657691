"""Contenders of a benchmark: each a process of its own, measured in turns."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


def serve(task, kinds):
    """A contender's process: warms up, then measures whenever a line comes, for so many seconds."""
    out, sys.stdout = sys.stdout, sys.stderr
    kind, held = kinds[task.pop("kind")], task.pop("held", 0)
    if first := task.pop("first", None):
        kind(**{**task, **first})(2)
    before = memory()["VmRSS"] if held and not gpu_memory() else 0
    run = kind(**task)
    forget_peak()
    run(2)
    seconds_of_one = run(2) / 2
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        times = max(2, round(float(line) / seconds_of_one))
        seconds_of_one = run(times) / times
        answer = {"seconds": seconds_of_one, "gib": peak_memory() - before - held, **getattr(run, "found", {})}
        print(json.dumps(answer), file=out, flush=True)


def seconds_of(run, times):
    begin = time.perf_counter()
    run(times)
    return time.perf_counter() - begin


def forget_peak():
    """From now on the peak is that of what comes, for PyTorch's on a GPU too. JAX cannot forget."""
    Path("/proc/self/clear_refs").write_text("5")
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def memory():
    """GiB that this process has in memory, now (`VmRSS`) and at most (`VmHWM`), as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.startswith("Vm")}


def peak_memory():
    """GiB: the GPU's where there is one, else resident."""
    return gpu_memory() or memory()["VmHWM"]


def gpu_memory():
    """GiB of the GPU's memory, at most; 0 where there is none."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**30
    if "jax" in sys.modules and (statistics_of := sys.modules["jax"].local_devices()[0].memory_stats()):
        return statistics_of["peak_bytes_in_use"] / 2**30
    return 0.0


class Contender:
    def __init__(self, name, task, backend, stays):
        self.name, self.task, self.stays = name, task, stays
        self.environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "OMP_WAIT_POLICY": "passive",  # who is not measured does not spin
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
        if self.failed or not self.stays:
            self.stop()

    def stop(self):
        if self.process is not None:
            self.process.communicate()
            self.process = None


def in_turns(contenders, arguments):
    """Measures all of them, round by round, and leaves out who cannot run at all."""
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
    """The kind of device, and its name."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return "gpu", subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return "cpu", f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}"
