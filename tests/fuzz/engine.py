"""Runs cases of one reader in this process, each within its limits, and counts what came of them.

Mutants are made by plain code from a seed, a reader's name and a case's number, so that any case
can be made again from what a run prints, under any Python. A coverage-guided engine (atheris) was
left out: the mutators know the formats and reach nearly every branch of the readers without
guidance, and it exists for few Pythons and platforms.
"""

from __future__ import annotations

import collections
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from schemas.errors import MalformedModel, UnsupportedModel, UsageError
from schemas.plain_hdf5 import bounded_memory

SECONDS = 2.0  # of processor time, which does not depend on what else runs
BYTES = 200 * 1024 * 1024
MAX_ERROR = 200_000  # characters; a list of layers may be long
SHOWN_FINDINGS = 20

EXPECTED = (MalformedModel, UnsupportedModel, UsageError)


class Reader(Protocol):
    """What is fuzzed.

    Attributes:
        name: of the reader, in reports.
        modules: the files whose branches it should reach, from the project's root; where only
            some functions and classes of one are meant, their names follow it.
        memory: bytes that it may take beside what the process has; more is a MemoryError (Linux).
    """

    name: str
    modules: tuple[str, ...]
    memory: int

    def mutant(self, rng: Random) -> bytes:
        """The mutant that `rng` makes."""

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Reads the mutant made last, all of it; calls `past` once it is past the first layer."""


@dataclass
class Finding:
    """A case that a reader failed."""

    reader: str
    seed: int
    case: int
    what: str


@dataclass
class Figures:
    """What came of some executions.

    Attributes:
        outcomes: how many were read, or refused and how.
        past: how many got past the first layer of the format.
        slowest: processor seconds of the slowest, and its case.
        growth: bytes by which the process's peak memory grew meanwhile.
    """

    executions: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    past: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    growth: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.executions += other.executions
        self.outcomes.update(other.outcomes)
        self.past += other.past
        self.slowest = max(self.slowest, other.slowest)
        self.growth = max(self.growth, other.growth)
        self.findings += other.findings


class TooSlow(BaseException):
    """Raised into an execution; no reader catches it."""


def case_rng(reader: Reader, seed: int, case: int) -> Random:
    return Random(f"{seed} {reader.name} {case}")


def run(
    reader: Reader,
    seed: int,
    cases: Iterable[int],
    seconds: float = SECONDS,
    at: Callable[[int], None] = lambda case: None,
) -> Figures:
    """Executes cases; what a reader should not have done is among the figures' findings.

    Args:
        seconds: of processor time that a case may take.
        at: called with a case's number before it is executed.
    """
    figures = Figures()
    before = peak_bytes()
    with _alarm(), bounded_memory(reader.memory):
        for case in cases:
            at(case)
            _execute(reader, seed, case, seconds, figures)
    figures.growth = peak_bytes() - before
    if figures.growth > reader.memory:
        what = f"the peak of memory grew by {figures.growth >> 20} MB"
        figures.findings.append(Finding(reader.name, seed, -1, what))
    return figures


def _execute(reader: Reader, seed: int, case: int, seconds: float, figures: Figures) -> None:
    data = reader.mutant(case_rng(reader, seed, case))
    past: list[bool] = []
    what = ""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        try:
            reader.read(data, lambda: past.append(True))
            outcome = "read"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except EXPECTED as error:
        outcome = type(error).__name__
        if len(str(error)) > MAX_ERROR:
            what = f"an error of {len(str(error))} characters"
    except TooSlow:
        outcome, what = "too slow", f"{_trace()}\ntook more than {seconds} s"
    except Exception:
        outcome, what = "other error", _trace()
    took = time.process_time() - began
    figures.executions += 1
    figures.outcomes[outcome] += 1
    figures.past += bool(past)
    figures.slowest = max(figures.slowest, (took, case))
    if what:
        figures.findings.append(Finding(reader.name, seed, case, what))


def _trace() -> str:
    return "".join(traceback.format_exception(*sys.exc_info(), limit=-6))[-2000:]


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
