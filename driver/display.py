"""What a person sees: progress on stderr while a run goes on, tables and summaries after it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from schemas.events import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

SHOWN_WARNINGS = 10
KEPT_WARNINGS = 1000

BATCH = "batch"
"""The stage whose tasks are models."""


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

    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(Text("  " + plain(name), style="dim"), Text(plain(value), overflow="fold"))
    return grid


@dataclass
class _Stage:
    """Where a stage is."""

    task: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    took: float | None = None


class Display:
    """Progress and warnings of a run on stderr.

    Live on a terminal; elsewhere a line per task, in a batch one per model.

    Args:
        progress: whether progress is shown.
        messages: whether warnings and errors are shown; warnings are kept in any case.
        verbose: whether workers are asked for tracebacks; they are shown when the run has ended.
    """

    def __init__(self, progress: bool = True, messages: bool = True, verbose: bool = False) -> None:
        self.verbose = verbose
        self._shows_progress = progress
        self._shows_messages = messages
        self._live: Live | None = None
        self._spinner: Any = None
        self._stages: dict[str, _Stage] = {}
        self._warnings: dict[str, None] = {}
        self._dropped = 0

    def __enter__(self) -> Display:
        if self._shows_progress and sys.stderr.isatty():
            from rich.live import Live
            from rich.spinner import Spinner

            self._spinner = Spinner("dots")
            self._live = Live(
                console=console(sys.stderr),
                get_renderable=self._view,
                transient=True,
                refresh_per_second=8,
            )
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Clears the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def progress(
        self, stage: str, task: str, done: int = 0, total: int = 0, note: str = ""
    ) -> None:
        """`stage` is at `done` of `total` in `task`; a total of at most 1 is not counted out.

        Args:
            note: how it goes, a few words, shown beside the count.
        """
        known = self._stages.setdefault(stage, _Stage())
        changed = known.task != task
        known.task, known.done, known.total, known.note = task, done, total, note
        known.took = None
        told = stage == BATCH or BATCH not in self._stages
        if changed and told and self._live is None and self._shows_progress:
            print(f"{stage}: {plain(task)}", file=sys.stderr, flush=True)

    def done(self, stage: str) -> None:
        """`stage` has finished its part of the run."""
        if stage in self._stages:
            known = self._stages[stage]
            known.task, known.total, known.note = "done", 0, ""
            known.took = time.monotonic() - known.began

    def restart(self) -> None:
        """Another model begins: its stages start from nothing."""
        for stage in set(self._stages) - {BATCH}:
            del self._stages[stage]

    def _view(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        for name, stage in list(self._stages.items()):
            counted = stage.total > 1
            seconds = time.monotonic() - stage.began if stage.took is None else stage.took
            grid.add_row(
                self._spinner if stage.took is None else Text("✓", style="green"),
                Text(name, style="bold"),
                Text(plain(stage.task)[:40]),
                ProgressBar(stage.total, min(stage.done, stage.total), 24) if counted else "",
                Text(f"{stage.done}/{stage.total}" if counted else ""),
                Text(f"{seconds:.0f} s", style="dim"),
                Text(plain(stage.note)[:60]),
            )
        return grid

    def warning(self, message: str) -> None:
        """Shows a warning, once and among the first ten, and keeps it."""
        if message in self._warnings:
            return
        if len(self._warnings) >= KEPT_WARNINGS:
            self._dropped += 1
            return
        self._warnings[message] = None
        if len(self._warnings) <= SHOWN_WARNINGS:
            self._say(f"warning: {plain(message)}", "yellow")

    def error(self, message: str) -> None:
        """Shows an error that does not end the run."""
        self._say(f"error: {plain(message)}", "red")

    def take_warnings(self) -> list[str]:
        """The warnings since the last call; says how many of them were not shown."""
        warnings = list(self._warnings)
        if self._dropped:
            warnings.append(f"and {self._dropped} more warnings")
        hidden = len(self._warnings) + self._dropped - SHOWN_WARNINGS
        if hidden > 0:
            self._say(f"warning: and {hidden} more (--json lists them)", "yellow")
        self._warnings.clear()
        self._dropped = 0
        return warnings

    def _say(self, text: str, style: str) -> None:
        if not self._shows_messages:
            return
        if self._live is not None:
            self._live.console.print(text, style=style, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
