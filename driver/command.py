"""Runs one command: progress, signals, and its end as exit code, summary or JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from driver.display import Display, console, facts_grid, give_up, heard, say, table
from driver.interrupts import handled
from driver.outcome import Outcome, failed_document, finite, one_line
from driver.worker import StageFailed
from schemas.errors import ConversionError, cannot_use
from schemas.events import plain


@dataclass(frozen=True)
class Manners:
    """How a command speaks.

    Attributes:
        quiet: neither progress nor summary.
        verbose: tracebacks too.
        as_json: one JSON document, and nothing else.
        to_stderr: stdout is taken by the result itself.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    to_stderr: bool = False

    @property
    def stream(self) -> IO[str]:
        return sys.stderr if self.to_stderr else sys.stdout


def run(action: Callable[[Display], Outcome], manners: Manners) -> int:
    """Runs `action` and returns the exit code; no exception comes out but a broken stdout's."""
    try:
        return _run(action, manners)
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(manners.stream)
        problem = cannot_use("stderr" if manners.to_stderr else "stdout", error)
        say(f"error: {problem}")
        return problem.exit_code


def _run(action: Callable[[Display], Outcome], manners: Manners) -> int:
    silent = manners.quiet or manners.as_json
    warnings: list[str] = []
    with handled():
        try:
            with Display(not silent, not manners.as_json, manners.verbose) as show:
                try:
                    outcome = action(show)
                finally:
                    warnings = show.take_warnings()
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as problem:
            document = failed_document(problem)
            _report_failure(problem, document, warnings, manners)
            exit_code: int = document["exit_code"]
            return exit_code
    if manners.as_json:
        outcome.document.setdefault("warnings", warnings)
        print_json(outcome.document, manners.stream)
        return outcome.exit_code
    if outcome.is_product or not manners.quiet:
        _summary(outcome, manners.stream)
    if outcome.exit_code:
        say(f"error: {plain(outcome.document['error'])}")
    return outcome.exit_code


def print_json(document: dict[str, Any], stream: IO[str]) -> None:
    """One document on one line."""
    print(json.dumps(finite(document)), file=stream, flush=True)


def _summary(outcome: Outcome, stream: IO[str]) -> None:
    screen = console(stream)
    for renderable in outcome.tables:
        screen.print(renderable)
    if outcome.title:
        screen.print(plain(outcome.title), style="bold", soft_wrap=True)
    if outcome.facts:
        screen.print(facts_grid(outcome.facts))


def _report_failure(
    problem: BaseException, document: dict[str, Any], warnings: list[str], manners: Manners
) -> None:
    trace = _trace(problem)
    if manners.as_json:
        document["warnings"] = warnings
        if manners.verbose:
            document["traceback"] = trace
        print_json(document, manners.stream)
        return
    lines = [f"error: {plain(one_line(problem))}"]
    if isinstance(problem, StageFailed):
        lines += [f"  | {plain(line)}" for line in problem.said]
        if problem.kept:
            lines.append(f"logs and report: {plain(problem.kept)}")
    if manners.verbose and trace:
        lines += map(plain, trace.splitlines())
    say("\n".join(lines))
    found = document["details"].get("table")
    if found and not manners.quiet:
        with heard():
            console(sys.stderr).print(table("", found["columns"], found["rows"]))


def _trace(problem: BaseException) -> str:
    """The worker's traceback; the driver's own where the fault may be its own."""
    if isinstance(problem, StageFailed):
        return problem.traceback
    if isinstance(problem, ConversionError | KeyboardInterrupt):
        return ""
    return "".join(traceback.format_exception(problem))
