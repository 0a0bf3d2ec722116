"""What is done to figures: medians, spreads, ratios, verdicts, a line through points, tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOISY = 0.15
MB = 1e6


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def percent(values: Sequence[float]) -> str:
    """The spread as it is shown, marked where it is over `NOISY`."""
    found = spread(values)
    return f"{found:.0%}" + (" (noisy)" if found > NOISY else "")


@dataclass(frozen=True)
class Timing:
    """One thing that was timed over its repetitions.

    Attributes:
        command: what was run.
        seconds: of each repetition, in order.
        peak_bytes: of the process tree; 0: not measured.
    """

    name: str
    command: str
    seconds: tuple[float, ...]
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "command": self.command,
            "seconds": list(self.seconds),
            "median": self.median,
            "spread": spread(self.seconds),
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Target:
    """What is claimed, and what was found.

    Attributes:
        key: of remarks.toml.
        claim: in words.
        command: what made the figure.
        noisy: whether a spread behind it was over `NOISY`.
        at_least: whether the limit is a lower one.
    """

    key: str
    claim: str
    command: str
    found: float
    limit: float
    unit: str
    noisy: bool = False
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit

    @property
    def outcome(self) -> str:
        """As in ``met: 1.02 s`` or ``missed by 0.30 s (20%): 1.80 s``."""
        found = f"{shown(self.found)} {self.unit}"
        mark = " (noisy)" if self.noisy else ""
        if self.met:
            return f"met: {found}{mark}"
        off = abs(self.found - self.limit)
        return f"missed by {shown(off)} {self.unit} ({off / self.limit:.0%}): {found}{mark}"

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "met": self.met, "outcome": self.outcome}


@dataclass(frozen=True)
class Table:
    """Rows under columns, with a title and a text; cells are text, numbers or None."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text: str = ""

    def document(self) -> dict[str, Any]:
        """JSON values."""
        rows = [list(row) for row in self.rows]
        return {"title": self.title, "text": self.text, "columns": [*self.columns], "rows": rows}


@dataclass
class Result:
    """What a part found."""

    timings: list[Timing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {name: [item.document() for item in items] for name, items in vars(self).items()}


def timing_table(title: str, timings: Sequence[Timing], text: str = "") -> Table:
    """Commands with medians, spreads and peaks."""
    rows = [
        (t.name, f"`{t.command}`", t.median, percent(t.seconds), t.peak_bytes / MB or None)
        for t in timings
    ]
    return Table(title, ("what", "command", "median s", "spread", "peak MB"), rows, text)


def noisy(*timings: Timing) -> bool:
    """Whether any of them spreads over `NOISY`."""
    return any(spread(timing.seconds) > NOISY for timing in timings)


def faster(key: str, claim: str, ours: Timing, other: Timing, limit: float) -> Target:
    """That ours takes at most 1 / `limit` of the other's time."""
    ratio = other.median / ours.median
    return Target(key, claim, ours.command, ratio, limit, "x", noisy(ours, other), at_least=True)


@dataclass(frozen=True)
class Line:
    """y = start + slope * x, and the largest distance of a point from it."""

    start: float
    slope: float
    deviation: float


def line(points: Sequence[tuple[float, float]]) -> Line:
    """The least-squares line through (x, y)."""
    slope, start = statistics.linear_regression(*zip(*points, strict=True))
    return Line(start, slope, max(abs(y - start - slope * x) for x, y in points))


def shown(value: Any) -> str:
    """A cell as text: numbers with three significant digits, whole ones with commas."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def markdown(table: Mapping[str, Any]) -> list[str]:
    """A `Table` document as lines; a column whose first value is a number stands at the right."""
    rows = table["rows"]
    marks = ["---"] * len(table["columns"])
    for place in range(len(marks)):
        cells = [row[place] for row in rows if row[place] is not None]
        if cells and not isinstance(cells[0], str):
            marks[place] = "---:"
    lines = [f"### {table['title']}", ""]
    lines += [table["text"], ""] if table["text"] else []
    for row in (table["columns"], marks, *rows):
        lines.append("| " + " | ".join(shown(cell).replace("|", "\\|") for cell in row) + " |")
    return [*lines, ""]
