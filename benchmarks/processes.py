"""Runs a command and measures it with all its children: seconds, and the peak of their memory."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.1


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: wall time.
        peak_bytes: the largest sum of proportional set sizes (PSS) of the process and its
            descendants, sampled ten times a second; pages that processes share count once. Read
            from Linux's /proc; 0 on other systems.
    """

    seconds: float
    peak_bytes: int


def run(command: Sequence[str], **options: object) -> Measured:
    """Runs `command` to its end.

    Args:
        options: for subprocess.Popen; the output is taken here.

    Raises:
        subprocess.CalledProcessError: it failed; `stderr` holds what it said.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    peak = sampler.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=output)
    return Measured(seconds, peak)


class _Sampler(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._peak = max(self._peak, sum(map(_pss, _tree(self._pid))))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self._peak


def _tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _pss(pid: int) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
