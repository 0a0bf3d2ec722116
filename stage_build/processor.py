"""What the processor can do."""

from __future__ import annotations

from pathlib import Path

# Linux's names of what computes in bfloat16: x86's, and Arm's.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor is known to have no instructions for bfloat16; only Linux tells."""
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    told = [line.partition(":") for line in lines]
    flags = {
        flag
        for name, _, value in told
        if name.strip() in ("flags", "Features")
        for flag in value.split()
    }
    return bool(flags) and flags.isdisjoint(BFLOAT16)
