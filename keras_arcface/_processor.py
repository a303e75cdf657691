"""Instructions of the CPU."""

import functools
from pathlib import Path


@functools.cache
def has_bfloat16() -> bool:
    """Returns whether the CPU multiplies bfloat16 matrices (AVX512-BF16 or AMX), according to Linux."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
