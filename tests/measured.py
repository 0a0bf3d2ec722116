"""A process as its parent sees it: how it ended, how long it took, the most memory it had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

# A process of its own, for a child's peak is never below that of whoever started it, and the
# tests' own is large.
_WATCH = """
import json, os, subprocess, sys, time
began = time.monotonic()
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([code, time.monotonic() - began, peak]))
"""


class Measured(NamedTuple):
    """How a process ended: exit code (negative: the signal), seconds, bytes, what it wrote."""

    code: int
    seconds: float
    peak: int
    out: str
    err: str


def measured(*argv: object, cwd: Path, timeout: float = 300) -> Measured:
    """Runs a command of this interpreter, as in ``measured("-m", "stage_extract", ...)``."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    environment.pop("USE_PYCAFFE", None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", _WATCH, sys.executable, *map(str, argv)],
        cwd=str(cwd),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=True,
    )
    *lines, figures = done.stdout.splitlines(keepends=True)
    code, seconds, peak = json.loads(figures)
    return Measured(code, seconds, peak, "".join(lines), done.stderr)
