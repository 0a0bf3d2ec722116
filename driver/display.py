"""What a person sees: progress on stderr while a run goes on, tables and summaries after it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from schemas.events import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

SHOWN_WARNINGS = 10
KEPT_WARNINGS = 1000


def console(stream: IO[str] | None = None) -> Console:
    """A rich console on `stream` (default stdout) that prints texts as they are."""
    from rich.console import Console

    stream = stream or sys.stdout
    wide = None if stream.isatty() else 160
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=wide)


def table(title: str, columns: Sequence[object], rows: Iterable[Sequence[object]]) -> Any:
    """A rich table of plain texts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(
        title=Text(plain(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in columns:
        result.add_column(Text(plain(column)), overflow="fold")
    for row in rows:
        result.add_row(*(Text(plain(cell)) for cell in row))
    return result


def facts_grid(facts: Iterable[tuple[str, object]]) -> Any:
    """Names and values in two aligned columns."""
    from rich.table import Table
    from rich.text import Text

    laid = Table.grid(padding=(0, 2))
    for name, value in facts:
        laid.add_row(Text("  " + plain(name), style="dim"), Text(plain(value), overflow="fold"))
    return laid


@dataclass
class Stage:
    """Where a stage is."""

    task: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    took: float | None = None


@contextmanager
def heard() -> Iterator[None]:
    """Whoever read stderr may be gone, or its disk full: the run goes on, and says no more."""
    try:
        yield
    except OSError:
        give_up(sys.stderr)


def give_up(stream: IO[str]) -> None:
    """Has nobody take what is still written to `stream`, nor what it holds."""
    with suppress(OSError):
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, stream.fileno())
        os.close(nobody)


def say(text: str) -> None:
    """Prints lines to stderr."""
    with heard():
        print(text, file=sys.stderr, flush=True)


class Screen:
    """Stderr, for whoever has something to show, from any thread.

    Args:
        progress: whether progress is shown: live on a terminal, in lines elsewhere.
        messages: whether warnings and errors are shown.
    """

    def __init__(self, progress: bool, messages: bool) -> None:
        self._shows_progress = progress
        self._shows_messages = messages
        self._lock = threading.Lock()
        self._live: Live | None = None

    def start(self, view: Callable[[], Any]) -> None:
        """Shows what `view` draws, on a terminal, until `stop` or another view."""
        self.stop()
        if self._shows_progress and sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(
                console=console(sys.stderr),
                get_renderable=view,
                transient=True,
                refresh_per_second=8,
            )
            with heard():
                self._live.start()

    def stop(self) -> None:
        """Clears the view."""
        if self._live is not None:
            with heard():
                self._live.stop()
            self._live = None

    def line(self, text: str) -> None:
        """Shows a line of progress where there is no view."""
        if self._shows_progress and self._live is None:
            self._print(text)

    def message(self, text: str, style: str) -> None:
        """Shows a warning or an error, above the view."""
        if not self._shows_messages:
            return
        if self._live is not None:
            with heard():
                self._live.console.print(text, style=style, soft_wrap=True)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        with self._lock:
            say(text)


class Display:
    """Progress and warnings of a run on stderr.

    Live on a terminal; elsewhere a line per task.

    Args:
        progress: whether progress is shown.
        messages: whether warnings and errors are shown; warnings are kept in any case.
        verbose: whether workers are asked for tracebacks; they are shown when the run has ended.
        screen: another run's, to show it there.
    """

    def __init__(
        self,
        progress: bool = True,
        messages: bool = True,
        verbose: bool = False,
        screen: Screen | None = None,
    ) -> None:
        self.verbose = verbose
        self.screen = screen or Screen(progress, messages)
        self._stages: dict[str, Stage] = {}
        self._warnings: dict[str, None] = {}
        self._dropped = 0

    def __enter__(self) -> Display:
        self.screen.start(lambda: grid(self.rows()))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.screen.stop()

    def progress(
        self, stage: str, task: str, done: int = 0, total: int = 0, note: str = ""
    ) -> None:
        """`stage` is at `done` of `total` in `task`; a total of at most 1 is not counted out.

        Args:
            note: how it goes, a few words, shown beside the count.
        """
        known = self._stages.setdefault(stage, Stage())
        changed = known.task != task
        known.task, known.done, known.total, known.note = task, done, total, note
        known.took = None
        if changed:
            self._line(f"{stage}: {plain(task)}")

    def _line(self, text: str) -> None:
        self.screen.line(text)

    def done(self, stage: str) -> None:
        """`stage` has finished its part of the run."""
        if stage in self._stages:
            known = self._stages[stage]
            known.task, known.total, known.note = "done", 0, ""
            known.took = time.monotonic() - known.began

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """What is under way, for a grid."""
        for name, stage in list(self._stages.items()):
            yield stage_row(name, stage)

    def warning(self, message: str) -> None:
        """Shows a warning, once and among the first ten, and keeps it."""
        if message in self._warnings:
            return
        if len(self._warnings) >= KEPT_WARNINGS:
            self._dropped += 1
            return
        self._warnings[message] = None
        if len(self._warnings) <= SHOWN_WARNINGS:
            self._warn(plain(message))

    def take_warnings(self) -> list[str]:
        """The warnings since the last call; says how many of them were not shown."""
        warnings = list(self._warnings)
        if self._dropped:
            warnings.append(f"and {self._dropped} more warnings")
        hidden = len(self._warnings) + self._dropped - SHOWN_WARNINGS
        if hidden > 0:
            self._warn(f"and {hidden} more (--json lists them)")
        self._warnings.clear()
        self._dropped = 0
        return warnings

    def _warn(self, text: str) -> None:
        self.screen.message(f"warning: {text}", "yellow")


def stage_row(name: str, stage: Stage) -> tuple[Any, ...]:
    """A stage for a grid: spinner, name, task, bar, count, seconds, note."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    counted = stage.total > 1
    seconds = time.monotonic() - stage.began if stage.took is None else stage.took
    return (
        _spinner() if stage.took is None else Text("✓", style="green"),
        Text(name, style="bold", no_wrap=True),
        Text(plain(stage.task)[:40], no_wrap=True),
        ProgressBar(stage.total, min(stage.done, stage.total), 12) if counted else "",
        Text(f"{stage.done}/{stage.total}" if counted else ""),
        Text(f"{seconds:.0f} s", style="dim", no_wrap=True),
        Text(plain(stage.note)[:60], no_wrap=True),
    )


@lru_cache(maxsize=1)
def _spinner() -> Any:
    """One for all rows: a spinner turns by the time it is first shown."""
    from rich.spinner import Spinner

    return Spinner("dots")


def grid(rows: Iterable[tuple[Any, ...]]) -> Any:
    """A view of rows."""
    from rich.table import Table

    result = Table.grid(padding=(0, 1))
    for row in rows:
        result.add_row(*row)
    return result
