"""What the system tells of our processes: how many may run at once, and what one died of.

Standard library only.
"""

from __future__ import annotations

import math
import os
import re
import signal
from pathlib import Path
from typing import Iterator, Optional, Tuple

ROOT = Path("/")

MEMORY = (
    "is memory short? try fewer --formats, a smaller --input-shape, in a batch fewer --jobs, or a "
    "machine with more memory"
)
LIBRARY = "a library gave up: its last words, if it had any, are in the log"
ADVICE = {
    "SIGKILL": MEMORY,
    "SIGABRT": LIBRARY,
    "SIGBUS": LIBRARY,
    "SIGFPE": LIBRARY,
    "SIGSEGV": LIBRARY,
    "SIGILL": "a library was built for another processor: install another build of it",
    "SIGTERM": "somebody ended it, or a batch system at one of its limits: run it again",
    "SIGXCPU": "it used more processor time than `ulimit -t` allows",
    "SIGXFSZ": "it wrote a larger file than `ulimit -f` allows",
}


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def how_it_ended(code: int, kills_before: Optional[int]) -> Tuple[str, str]:
    """How a process ended, in words that follow its name, and what to do about it, if anything.

    Args:
        code: its exit code, or the negative number of the signal that killed it.
        kills_before: what `oom_kills` said before.
    """
    if code >= 0:
        return f"ended with exit code {code}", ""
    name = signal_name(-code)
    if name != "SIGKILL":
        return f"was killed by {name}", ADVICE.get(name, "")
    if (oom_kills() or 0) > (math.inf if kills_before is None else kills_before):
        return "was killed by the out-of-memory killer", MEMORY
    return f"was killed by {name}, as the out-of-memory killer does", MEMORY


def oom_kills(root: Path = ROOT) -> Optional[int]:
    """How many processes the out-of-memory killer has killed around us; None where none tells.

    That is in our control group; without one, on this machine.
    """
    texts = _control(root, "memory", "memory.events", "memory.oom_control")
    for text in (next(texts, ""), _text(root / "proc/vmstat") or ""):
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        if found:
            return int(found[1])
    return None


def processors(root: Path = ROOT) -> int:
    """The processors that this process may use: its affinity and its control groups limit them."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for text in _control(root, "cpu", "cpu.max", "cpu.cfs_quota_us cpu.cfs_period_us"):
        quota, period = text.split()[:2]
        if quota.isdigit() and int(quota):  # else max, or -1
            count = min(count, math.ceil(int(quota) / int(period)))
    return count


def _control(root: Path, controller: str, unified: str, legacy: str) -> Iterator[str]:
    """The texts of our control group's files and of those around it, innermost first.

    Args:
        unified, legacy: their names in version 2 and 1; of several, the texts are joined.
    """
    mount = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top, names = (mount / controller, legacy) if controllers else (mount, unified)
        inner = top / path.lstrip("/")  # in a container it may be the host's name for `top`
        for folder in (inner, *inner.parents):
            texts = [_text(folder / name) for name in names.split()]
            if None not in texts:
                yield " ".join(filter(None, texts))
            if folder == top:
                break


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text("ascii")
    except OSError:
        return None
