"""What a person sees of a batch while it runs: the models under way, and those that have ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from driver.display import Display, Screen, Stage, grid, stage_row
from schemas.events import plain

SHOWN_ENDED = 8
"""Models that have ended that stay in view."""


class Lane(Display):
    """Progress and warnings of one model of a batch; the board shows the former."""

    def __init__(self, screen: Screen, model: str, verbose: bool) -> None:
        super().__init__(verbose=verbose, screen=screen)
        self._model = plain(model)
        self.began = time.monotonic()

    def _line(self, text: str) -> None:
        """A batch has a line a model, not one a task."""

    def _warn(self, text: str) -> None:
        super()._warn(f"{self._model}: {text}")

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The stage that is under way, under the model's name."""
        busy = [stage for stage in list(self._stages.items()) if stage[1].took is None]
        name, stage = busy[-1] if busy else ("", Stage())
        task = f"{name}: {stage.task}" if name else ""
        yield stage_row(self._model, Stage(task, stage.done, stage.total, stage.note, self.began))


class Board:
    """The models of a batch: those under way, the last that ended, how many there are.

    In the place of what the run's display would show.

    Args:
        show: of the whole run.
        total: the number of models.

    Attributes:
        verbose: whether workers are asked for tracebacks.
    """

    def __init__(self, show: Display, total: int) -> None:
        self.verbose = show.verbose
        self._screen = show.screen
        self._total = total
        self._lanes: list[Lane] = []
        self._ended: deque[dict[str, Any]] = deque(maxlen=SHOWN_ENDED)
        self._count = 0
        self._made = 0
        self._failed = 0
        self._began = time.monotonic()
        self._screen.start(lambda: grid(self.rows()))

    @contextmanager
    def lane(self, model: str) -> Iterator[Lane]:
        """Shows a model while the block lasts."""
        lane = Lane(self._screen, model, self.verbose)
        self._lanes.append(lane)
        try:
            yield lane
        finally:
            self._lanes.remove(lane)

    def ended(self, document: dict[str, Any]) -> None:
        """A model has ended; one call at a time."""
        self._count += 1
        self._made += not document.get("unchanged")
        self._ended.append(document)
        name = plain(document["name"])
        self._screen.line(f"batch: {self._count}/{self._total} {name}: {_how(document)}")
        if document["error"]:
            self._failed += 1
            self._screen.message(f"error: {name}: {plain(document['error'])}", "red")

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The grid of the whole batch; a terminal of few lines shows the first of them."""
        seconds = time.monotonic() - self._began
        left = seconds / self._made * (self._total - self._count) if self._made else 0
        notes = [f"{self._failed} failed"] if self._failed else []
        notes += [f"about {left:.0f} s to go"] if left else []
        yield stage_row("batch", Stage("", self._count, self._total, ", ".join(notes), self._began))
        for lane in list(self._lanes):
            yield from lane.rows()
        for document in reversed(list(self._ended)):
            yield _ended_row(document)


def _how(document: dict[str, Any]) -> str:
    """How a model ended, in a few words."""
    if document.get("unchanged"):
        return "unchanged"
    how, seconds = document["status"], document.get("seconds")
    return f"{how}, {seconds:.1f} s" if isinstance(seconds, int | float) else str(how)


def _ended_row(document: dict[str, Any]) -> tuple[Any, ...]:
    from rich.text import Text

    good = document["status"] == "ok"
    return (
        Text("✓", style="green") if good else Text("✗", style="red"),
        Text(plain(document["name"]), style="" if good else "red", no_wrap=True),
        Text(_how(document), style="dim", no_wrap=True),
    )
