"""Competitors in processes of their own, which answer "run it" over a pipe, in turn.

A process that is not asked is stopped (SIGSTOP), so that no waiting thread of one side takes time
from another.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.figures import Timing
from benchmarks.processes import ROOT, peak_resident, shorter

TURN = 0.3  # seconds that a turn fills
NO_OPENCV = "not installed (opencv-python-headless)"


def has_opencv() -> bool:
    """Whether OpenCV can be compared with."""
    return importlib.util.find_spec("cv2") is not None


class Worker:
    """A side of `benchmarks.sides` in a process of its own, at rest unless it is asked.

    Several may be made at once: a worker starts by itself, and is waited for by `ready`.

    Attributes:
        loaded: seconds that it says it took to start, without imports; None until it is ready.
    """

    def __init__(self, side: str, *arguments: object, threads: int = 0) -> None:
        environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2")
        if threads:
            environment |= {"OPENBLAS_NUM_THREADS": str(threads), "BENCH_THREADS": str(threads)}
        command = [sys.executable, "-m", "benchmarks.sides", side, *map(str, arguments)]
        self.command = shorter(command)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.pid = self._process.pid
        atexit.register(self.close)
        self.loaded: float | None = None

    def ready(self) -> Worker:
        """Waits until it has started; it is at rest then."""
        if self.loaded is None:
            self.loaded = float(self._answer())
            self._rest()
        return self

    def ask(self, request: str, **values: Any) -> Any:
        """The answer, a JSON value; at rest again after it."""
        self.ready()
        os.kill(self.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"request": request, **values}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._rest()
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.command} ended; BENCH_VERBOSE=1 shows what it said")
        return json.loads(answer)

    def _rest(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)


def in_turn(
    workers: Mapping[str, Worker],
    label: str,
    case: Any,
    repeat: int,
    say: Callable[[str], None],
    turn: float = TURN,
) -> dict[str, Timing]:
    """Seconds of one call, by side: each fills a turn, `repeat` times after a warm-up.

    Args:
        label: of the case, for people.
        case: what the sides are asked for, see `benchmarks.sides`.
        turn: seconds.
    """
    for worker in workers.values():
        worker.ready()
    found: dict[str, list[float]] = {name: [] for name in workers}
    for count in range(repeat + 1):
        for name, worker in workers.items():
            seconds = worker.ask("time", case=case, seconds=turn if count else 0)
            if count:
                found[name].append(seconds)
    timings = {
        name: Timing(f"{label}, {name}", worker.command, tuple(found[name]))
        for name, worker in workers.items()
    }
    for timing in timings.values():
        say(f"{timing.name}: {1e3 * timing.median:.1f} ms")
    return timings


def once(side: str, *arguments: object) -> Any:
    """The answer of one of `sides.ONCE`, a JSON value, from a process of its own."""
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2")
    command = [sys.executable, "-m", "benchmarks.sides", side, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, check=True)
    return json.loads(done.stdout)


def first_calls(worker: Worker, batches: tuple[int, ...]) -> tuple[dict[int, float], int]:
    """Seconds of the first call at each batch size, and the peak resident memory until then."""
    seconds = {batch: worker.ask("first", case=batch) for batch in batches}
    return seconds, peak_resident(worker.pid)
