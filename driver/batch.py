"""Many models, some at a time: lanes on this machine, each with workers that stay, or a cluster.

What an earlier run converted is left as it is while nothing that it was made of has changed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from driver import record, summary
from driver.board import Board
from driver.catalogue import Entry, read_catalogue
from driver.cluster.runs import convert_all
from driver.cluster.session import Cluster
from driver.crew import Crew
from driver.display import Display
from driver.interrupts import shielded
from driver.options import Options
from driver.outcome import Outcome, failed_document
from driver.pipeline import check_conversion, convert_in
from driver.workspace import Workspace, check_target_folder
from schemas.errors import ConversionError, Interrupted, UsageError, cannot_use
from schemas.processes import processors

Take = Callable[[dict[str, Any]], None]
"""Takes the document of a model that has ended."""

MAX_JOBS = 256
SUMMARY_EVERY = 5.0
"""Seconds between two summaries of a batch that goes on."""


class _Progress:
    """Takes the models' documents as they end, from any thread, and keeps the summary."""

    def __init__(self, entries: Sequence[Entry], out: Path, board: Board) -> None:
        self._names = [entry.name for entry in entries]
        self._out = out
        self._board = board
        self._lock = threading.Lock()
        self._ended: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()

    def take(self, document: dict[str, Any]) -> None:
        """Takes the document of a model that has ended."""
        with self._lock:
            self._ended[document["name"]] = document
            self._board.ended(document)
            if time.monotonic() - self._written > SUMMARY_EVERY:
                with contextlib.suppress(ConversionError):  # told by the last one
                    summary.write(self.document(), self._out)
                self._written = time.monotonic()

    def document(self, interrupted: bool = False) -> dict[str, Any]:
        """The batch so far, in the catalogue's order."""
        models = [self._ended[name] for name in self._names if name in self._ended]
        return summary.summed_up(models, len(self._names), self._out, interrupted)


def batch(
    catalogue: Path,
    out: Path,
    jobs: int,
    options: Options,
    show: Display,
    cluster: Cluster | None = None,
) -> Outcome:
    """Converts every model of `catalogue` into `out`/NAME, and sums up.

    A model that fails does not keep the others from being converted. The exit code is the worst
    model's.

    Args:
        jobs: how many models are converted at once.
        cluster: has them converted, where it is given.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"--jobs must be between 1 and {MAX_JOBS}, not {jobs}")
    entries = read_catalogue(catalogue, options)
    _check_targets(entries, out)
    with Workspace(out) as work:
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_use(out, error) from error
        board = Board(show, len(entries))
        progress = _Progress(entries, out, board)
        interrupted = False
        try:
            changed = _changed(entries, out, progress.take)
            if not changed:
                pass
            elif cluster is None:
                _convert_all(changed, out, jobs, work, board, progress.take)
            else:
                for model in convert_all(changed, out, work.folder, cluster, show):
                    progress.take(model)
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            if cluster is None:
                summary.write(progress.document(interrupted=True), out)
            raise
        document = progress.document(interrupted)
        summary.write(document, out)
    return Outcome(
        document,
        tables=[summary.as_table(document)],
        facts=[("summary", out / "summary.html")],
    )


def _check_targets(entries: Sequence[Entry], out: Path) -> None:
    """Raises UsageError for the first target that is not to be replaced, before any work."""
    if out.exists() and not out.is_dir():
        raise UsageError("a folder for the models was expected", str(out), "choose another -o")
    for entry in entries:
        inputs = (entry.prototxt, entry.weights, entry.options.reference)
        replaced = entry.options.force or record.is_there(out / entry.name)
        check_target_folder(out / entry.name, replaced, inputs)


def _changed(entries: Sequence[Entry], out: Path, take: Take) -> list[Entry]:
    """The models that are to be converted; `take` is given the others, as they are."""
    changed = []
    for entry in entries:
        target = out / entry.name
        net, weights = entry.prototxt, entry.weights
        if entry.options.force or record.up_to_date(target, net, weights, entry.options):
            changed.append(entry)
        else:
            take({"name": entry.name, **record.document(target)})
    return changed


def _convert_all(
    entries: Sequence[Entry],
    out: Path,
    jobs: int,
    work: Workspace,
    board: Board,
    take: Take,
) -> None:
    """Converts in as many lanes as there are jobs; an interruption ends them all.

    Each lane is a thread that follows its own workers; they ask for an interruption themselves.
    """
    pending = deque(entries)
    lanes = min(jobs, len(entries))
    threads = max(1, processors() // lanes)

    def lane(number: int) -> None:
        room = work.folder / f"lane-{number}"
        (room / "logs").mkdir(parents=True)
        with Crew(room, board.verbose, threads) as crew:
            while True:
                try:
                    entry = pending.popleft()
                except IndexError:
                    return
                document = _convert_one(entry, out / entry.name, crew, board)
                take(document)
                if document["exit_code"] == Interrupted.exit_code:
                    return

    with ThreadPoolExecutor(lanes) as pool:
        try:
            with shielded():
                running = [pool.submit(lane, number) for number in range(lanes)]
            wait(running)
        except BaseException:
            pending.clear()
            raise  # when the lanes have ended
        for each in running:
            each.result()


def _convert_one(entry: Entry, out: Path, crew: Crew, board: Board) -> dict[str, Any]:
    began = time.monotonic()
    with board.lane(entry.name) as show:
        try:
            options = replace(entry.options, force=True)
            check_conversion(entry.prototxt, entry.weights, out, options)
            with Workspace(out) as work:
                outcome = convert_in(work, crew, entry.prototxt, entry.weights, options, show)
            document = outcome.document
        except (Exception, KeyboardInterrupt) as problem:
            document = failed_document(problem)
            document["seconds"] = time.monotonic() - began
        return {"name": entry.name, **document, "warnings": show.take_warnings()}
