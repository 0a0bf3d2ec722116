"""What this machine has of memory, asked before much of it is taken."""

from __future__ import annotations

import os
import re

from schemas.errors import EnvironmentProblem


def physical() -> int:
    """The bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free() -> int:
    """The bytes that can be taken now, with what is left of swap; `physical` where none tells."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", file.read(), re.MULTILINE))
        return 1024 * (int(sizes["MemAvailable"]) + int(sizes["SwapFree"]))
    except (OSError, KeyError):
        return physical()


def require(needed: int, what: str, hint: str = "") -> None:
    """Refuses a job that needs more memory than this machine has.

    Args:
        needed: bytes.
        what: what needs them, in the plural.
        hint: what to do about it.

    Raises:
        EnvironmentProblem: it does.
    """
    if needed > physical():
        raise EnvironmentProblem(
            f"{what} need {needed:,} bytes, this machine has {physical():,}", hint=hint
        )
