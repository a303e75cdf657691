"""CPU time and memory of a group of processes, for the scripts of this folder."""

import contextlib
import os
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.2  # seconds between two looks, which miss the last moments of a process


def processes_of(group: int) -> dict[int, tuple[int, float]]:
    """Returns the parent and the CPU seconds of each process of a group."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                found[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
    return found


def memory_of(process: int) -> int:
    """Returns the memory of a process in bytes, with its share of the pages that it shares (PSS)."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return 0


class Usage:
    """Measures a group of processes in a `with` block, by default that of this process.

    Attributes:
        seconds: time of the block.
        cpu_seconds: CPU time of all processes of the group in the block.
        memory: peak memory of all processes together, in bytes.
    """

    def __init__(self, group: int | None = None):
        self._group = os.getpgrp() if group is None else group

    def __enter__(self) -> "Usage":
        self.memory, self._seen = 0, {}
        self._before = {process: cpu for process, (_, cpu) in processes_of(self._group).items()}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begin = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self._begin
        self._is_over.set()
        self._thread.join()
        self._look()
        self.cpu_seconds = sum(cpu - self._before.get(process, 0) for process, cpu in self._seen.items())

    def _watch(self) -> None:
        while not self._is_over.wait(INTERVAL):
            self.memory = max(self.memory, sum(map(memory_of, self._look())))

    def _look(self) -> list[int]:
        found = processes_of(self._group)
        self._seen |= {process: cpu for process, (_, cpu) in found.items()}
        return list(found)
