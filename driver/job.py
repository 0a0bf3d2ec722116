"""Follows one job of one worker from its start to its result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from driver.display import Display
from driver.interrupts import poll, shielded
from driver.worker import StageFailed, Worker, end, interpreter, ready
from driver.workspace import Workspace
from schemas.errors import EnvironmentProblem, StageCrashed, revive

TICK = 0.1
"""Seconds between two looks at a silent worker."""

LONGEST_LOOK = 1.0
"""Seconds that at most count as a worker's silence from one look to the next: in a longer time it
was this process that stood still."""


def result_of(
    worker: Worker,
    show: Display,
    *,
    beside: Worker | None = None,
    opening: Path | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Waits for the job that `worker` is doing, and returns the fields of its result.

    Args:
        beside: a worker that is warming up meanwhile; if it fails, there is nothing to wait for.
        opening: the HDF5 file from outside that the job opens, if it does.
        timeout: seconds the job may take.

    Raises:
        StageFailed: the job failed, or its worker crashed, was killed or took too long. Unless the
            worker itself has said that it failed, the worker is gone.
    """
    watched = [worker] if beside is None else [worker, beside]
    try:
        event = _follow(worker, watched, show, opening, timeout)
    except KeyboardInterrupt:
        end(watched)
        raise
    except BaseException:
        end([worker])  # its next job would be given the result of this one
        raise
    if event["event"] == "error":
        raise _failure(event, worker)
    return {name: value for name, value in event.items() if name != "event"}


def _follow(
    worker: Worker,
    watched: list[Worker],
    show: Display,
    opening: Path | None,
    timeout: float | None,
) -> dict[str, Any]:
    """The event with which `worker` ends its job."""
    deadline = None if timeout is None else time.monotonic() + timeout
    looked = time.monotonic()
    while True:
        poll()
        for source in ready(watched, TICK):
            for event in _read(source):
                _show(event, source, show)
                if source is worker and event["event"] in ("error", "result"):
                    return event
                if event["event"] == "error":
                    end([source])
                    raise _failure(event, source)
            if source.ended:
                died = source.death(opening if source is worker else None)
                end([source])
                raise died
        now = time.monotonic()
        _require_life(watched, min(now - looked, LONGEST_LOOK))
        looked = now
        if deadline is not None and now > deadline:
            late = f"the {worker.stage} worker took longer than {timeout:g} s"
            raise worker.stuck(late, "raise --timeout")


def _require_life(watched: list[Worker], seconds: float) -> None:
    """Ends a worker that was silent for too long; `seconds` have passed since the last look."""
    for each in watched:
        if each.is_stuck(seconds):
            raise each.stuck(
                f"the {each.stage} worker stopped responding {each.silent:.0f} s ago",
                "was it stopped, or does it wait for a disk or a device? run it again",
            )


def run_job(
    stage: str,
    argv: Sequence[str],
    work: Workspace,
    show: Display,
    *,
    python: str | None,
    gpu: bool | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`result_of` for a job with a worker of its own, which is gone afterwards.

    Args:
        stage: of `driver.worker.PACKAGES`.
        argv: the worker's command line.
        work: takes its log.
        python: the interpreter the user named, if one was.
        gpu: see `driver.environment.environment`.
        options: for `result_of`.
    """
    log = work.logs / f"{stage}.log"
    with ExitStack() as stack:
        with shielded():
            worker = Worker(
                stage,
                argv,
                log,
                room=work.folder,
                python=interpreter(python),
                verbose=show.verbose,
                gpu=gpu,
            )
            stack.callback(work.sweep, worker.pid)
            stack.enter_context(worker)
        return result_of(worker, show, **options)


def _failure(event: dict[str, Any], worker: Worker) -> StageFailed:
    """The failure that an `error` event reports."""
    error = revive(event)
    printed = isinstance(error, StageCrashed | EnvironmentProblem)
    reported = worker.failed(error) if printed else StageFailed(error, worker.stage)
    reported.traceback = str(event.get("traceback", ""))
    reported.worst = event.get("worst")
    return reported


def _read(worker: Worker) -> list[dict[str, Any]]:
    try:
        return worker.read()
    except StageFailed:
        end([worker])
        raise


def _show(event: dict[str, Any], worker: Worker, show: Display) -> None:
    kind = event["event"]
    if kind == "warning":
        show.warning(str(event.get("message", "")))
    elif kind == "progress":
        task = str(event.get("task", ""))
        done, total, note = _count(event, "done"), _count(event, "total"), event.get("note", "")
        show.progress(worker.stage, task, done, total, str(note))


def _count(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0
