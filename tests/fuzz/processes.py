"""Runs the readers in processes of their own, and sees from outside what ends one."""

from __future__ import annotations

import collections
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tests.fuzz import corpus
from tests.fuzz.caffemodels import Caffemodels, EmbeddedNets
from tests.fuzz.engine import Figures, Finding, Reader, run
from tests.fuzz.hdf5 import Hdf5Weights, Interchanges
from tests.fuzz.prototxts import Prototxts

READERS = {
    each.name: each for each in (Caffemodels, EmbeddedNets, Prototxts, Interchanges, Hdf5Weights)
}
# libhdf5 may die of a damaged file: the driver turns that into exit code 3.
MAY_DIE = (Interchanges.name, Hdf5Weights.name)
DEATHS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)

CHUNK = 500  # cases that a process is given at a time
WARM = 20  # cases of each reader that are run before any is counted
SILENCE = 60.0  # seconds after which a process that is at the same case still is ended


def reader(name: str, folder: Path) -> Reader:
    """A reader by name, with its corpus; its mutants are written to `folder`."""
    if name == Caffemodels.name:
        return Caffemodels(corpus.caffemodels(), corpus.means(), folder)
    if name == EmbeddedNets.name:
        return EmbeddedNets(corpus.caffemodels(), (), folder)
    if name == Prototxts.name:
        return Prototxts(corpus.texts())
    if name == Interchanges.name:
        return Interchanges(corpus.interchanges(folder), folder)
    return Hdf5Weights(corpus.hdf5_weights(), folder)


def scratch() -> Any:
    """A folder for mutants, in memory where the system has such."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if shared.is_dir() else None)


@dataclass(frozen=True)
class Task:
    """Cases `first` up to `last` of a reader."""

    name: str
    first: int
    last: int


def serve(
    pipe: connection.Connection, at: Any, folder: str, seed: int, names: Sequence[str]
) -> None:
    """The process: runs the tasks that come through the pipe, and answers with their figures."""

    def note(case: int) -> None:
        at.value = case

    readers = {name: reader(name, Path(folder)) for name in names}
    for each in readers.values():
        run(each, seed, range(-WARM, 0))
    pipe.send(None)
    while True:
        task = pipe.recv()
        cases = range(task.first, task.last)
        pipe.send(run(readers[task.name], seed, cases, at=note))


class Lane:
    """One process, and the task it is at."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.at = context.Value("q", -1, lock=False)
        self._folder = scratch()
        given = (theirs, self.at, self._folder.name, seed, names)
        self.process = context.Process(target=serve, args=given)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self._seen = (-1, time.monotonic())

    def give(self, task: Task) -> None:
        self.task = task
        self.pipe.send(task)

    def is_silent(self) -> bool:
        """Whether it has been at the same case for too long."""
        if self.task is None or self.at.value != self._seen[0]:
            self._seen = (self.at.value, time.monotonic())
        return time.monotonic() - self._seen[1] > SILENCE

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self._folder.cleanup()


@dataclass
class Plan:
    """Tasks still to be given, reader by reader in turn."""

    executions: dict[str, int]
    deadline: float
    waiting: collections.deque[Task] = field(default_factory=collections.deque)
    next: dict[str, int] = field(default_factory=dict)
    turn: int = 0

    def task(self) -> Task | None:
        if time.monotonic() > self.deadline:
            return None
        if self.waiting:
            return self.waiting.popleft()
        names = list(self.executions)
        for _ in names:
            name = names[self.turn % len(names)]
            self.turn += 1
            first = self.next.get(name, 0)
            last = min(first + CHUNK, self.executions[name])
            if first < last:
                self.next[name] = last
                return Task(name, first, last)
        return None


def fuzz(
    executions: dict[str, int], seed: int, seconds: float = 1e9, processes: int = 2
) -> dict[str, Figures]:
    """The figures of each reader after its executions, or when the time is over.

    A process that dies is replaced, and what it was given is done but for the case it died of.
    """
    names = list(executions)
    figures = {name: Figures() for name in names}
    plan = Plan(executions, time.monotonic() + seconds)
    lanes = [Lane(seed, names) for _ in range(processes)]
    try:
        while lanes:
            connection.wait(
                [each for lane in lanes for each in (lane.pipe, lane.process.sentinel)], 5
            )
            lanes = [next_ for lane in lanes for next_ in _step(lane, plan, figures, seed)]
    finally:
        for lane in lanes:
            lane.end()
    return figures


def _step(lane: Lane, plan: Plan, figures: dict[str, Figures], seed: int) -> list[Lane]:
    """Takes what the lane has to say; the lane that goes on, if any does."""
    try:
        if lane.pipe.poll():
            found = lane.pipe.recv()
            if lane.task is not None:
                figures[lane.task.name].add(found)
            lane.task = None
        elif lane.process.is_alive() and not lane.is_silent():
            return [lane]
        else:
            raise EOFError
    except (EOFError, OSError):
        return [_replaced(lane, plan, figures, seed)]
    task = plan.task()
    if task is None:
        lane.end()
        return []
    lane.give(task)
    return [lane]


def _replaced(lane: Lane, plan: Plan, figures: dict[str, Figures], seed: int) -> Lane:
    """A lane for one that died or hung, whose case is counted."""
    hung = lane.is_silent()
    if not hung:
        lane.process.join(timeout=10)
    lane.end()
    task, case = lane.task, lane.at.value
    if task is None:
        raise RuntimeError(f"a process ended before it was given a task: {lane.process.exitcode}")
    code = lane.process.exitcode or 0
    what = "did not end" if hung else f"ended its process, exit code {code}"
    outcome = Figures(1, collections.Counter({what: 1}))
    if hung or task.name not in MAY_DIE or -code not in DEATHS:
        outcome.findings.append(Finding(task.name, seed, case, what))
    figures[task.name].add(outcome)
    for first, last in ((task.first, case), (case + 1, task.last)):
        if first < last:
            plan.waiting.append(Task(task.name, first, last))
    return Lane(seed, list(figures))
