"""Runs commands and measures them with all their children: seconds, and the peak of memory."""

from __future__ import annotations

import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Timing

ROOT = Path(__file__).resolve().parent.parent
ORCHESTRATE = (sys.executable, str(ROOT / "orchestrate.py"))
INTERVAL = 0.05  # seconds


@dataclass(frozen=True)
class Command:
    """What is run.

    Attributes:
        outputs: files and folders that are removed before each run.
        own: take the seconds that the command prints last, in place of the whole process's.
    """

    name: str
    argv: Sequence[str | Path]
    outputs: Sequence[Path] = ()
    own: bool = False

    @property
    def text(self) -> str:
        """As a person would type it, with file names only."""
        return shorter(self.argv)


def shorter(argv: Sequence[str | Path]) -> str:
    """A command with file names only; code on the line is cut to its first statement."""
    words = []
    for word in map(str, argv):
        first = word.partition("\n")[0]
        is_path = "/" in first and " " not in first
        words.append(Path(first).name if is_path else first + " ..." * (first != word))
    if words[:2] == [Path(sys.executable).name, "orchestrate.py"]:
        words[:2] = ["orchestrate"]
    return shlex.join(words)


@dataclass(frozen=True)
class Measured:
    """What one run of a command took.

    Attributes:
        seconds: wall time.
        peak_bytes: the largest sum of proportional set sizes (PSS) of the process and its
            descendants, sampled every `INTERVAL`; pages that processes share count once. Read from
            Linux's /proc; 0 on other systems, and where it was not asked for.
        output: what it wrote to stdout.
    """

    seconds: float
    peak_bytes: int
    output: str = ""


def run(command: Sequence[str | Path], *, sampled: bool = False) -> Measured:
    """Runs `command` to its end, in the project's folder.

    Args:
        sampled: sample its memory, which costs it time: the kernel counts every page.

    Raises:
        SystemExit: it failed; the message holds what it said.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    sampler = Sampler(process.pid)
    with sampler if sampled else nullcontext():
        output, errors = process.communicate()
        seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{shorter(command)}: exit {process.returncode}\n{output}{errors}")
    return Measured(seconds, sampler.peak, output)


def interleaved(
    commands: Sequence[Command], repeat: int, say: Callable[[str], None]
) -> list[Timing]:
    """Runs the commands in turn, `repeat` times after a warm-up, in which memory is sampled."""
    runs: dict[str, list[Measured]] = {command.name: [] for command in commands}
    for turn in range(repeat + 1):
        for command in commands:
            for output in command.outputs:
                remove(output)
            runs[command.name].append(run(command.argv, sampled=not turn))
    timings = []
    for command in commands:
        warm_up, *done = runs[command.name]
        seconds = tuple(_seconds(command, found) for found in done)
        peak = warm_up.peak_bytes
        timings.append(Timing(command.name, command.text, seconds, peak))
        say(f"{command.name}: {statistics.median(seconds):.3f} s, {peak / 1e6:,.0f} MB")
    return timings


def _seconds(command: Command, found: Measured) -> float:
    return float(found.output.split()[-1]) if command.own else found.seconds


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Sampler(threading.Thread):
    """Samples the memory of a process and its descendants while the `with` block lasts."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.peak = max(self.peak, sum(map(pss, _tree(self._pid))))

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def peak_resident(pid: int) -> int:
    """Bytes, the kernel's own account (VmHWM) of one process, shared libraries included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


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


def pss(pid: int) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
