"""Peak of the resident memory of a process, in MiB. Linux only."""

from pathlib import Path


def reset_peak() -> float:
    """Sets the peak of this process to its present memory, and returns it."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak(process: int | str = "self") -> float:
    """Returns the peak of a process since its start, or since the last reset."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
