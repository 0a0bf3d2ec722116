"""Charts as SVG paths: along x one unit for each place, along y pixels from the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HEIGHT = 240
BARS = 110
PAD = 12  # above and below, so that no mark is cut off


@dataclass(frozen=True)
class Tick:
    """A line across a chart, and what it stands for."""

    y: float
    label: str


@dataclass(frozen=True)
class Dots:
    """A chart of dots on a log axis.

    Attributes:
        paths: state -> the dots that have it, as the `d` of an SVG path.
        ticks: powers of ten.
        tolerance: where the line of the tolerance is.
        width: how many places there are along x.
    """

    paths: dict[str, str]
    ticks: tuple[Tick, ...]
    tolerance: float
    width: int


def dots(errors: Sequence[tuple[float | None, str]], tolerance: float) -> Dots:
    """(error, state) of each blob, in order; no error at all stands at the foot, no number on top.

    The axis takes in the tolerance; errors below a millionth of it stand at the foot.
    """
    tolerance = max(tolerance, 1e-9)
    least = tolerance * 1e-6
    sized = [error for error, _ in errors if error is not None and math.isfinite(error)]
    low = math.floor(math.log10(max(min([tolerance, *filter(None, sized)]), least)))
    high = math.ceil(math.log10(min(max([tolerance, *sized]), 1e9)) + 0.25)

    def y(error: float | None) -> float:
        if error is None or not math.isfinite(error):
            return PAD / 2
        if error < 10**low:
            return HEIGHT - PAD / 2
        share = (math.log10(error) - low) / (high - low)
        return max(HEIGHT - 2 * PAD - share * (HEIGHT - 3 * PAD), PAD / 2)

    paths: dict[str, str] = {}
    for place, (error, state) in enumerate(errors):
        paths[state] = paths.get(state, "") + f"M{place + 0.5} {y(error):.1f}h0"
    step = max(1, (high - low) // 6)
    powers = [Tick(y(10.0**power), f"1e{power}") for power in range(low, high + 1, step)]
    return Dots(paths, (*powers, Tick(HEIGHT - PAD / 2, "0")), y(tolerance), max(1, len(errors)))


@dataclass(frozen=True)
class Bars:
    """A chart of bars on a linear axis: the `d` of an SVG path, and the largest value."""

    path: str
    most: int
    width: int


def bars(values: Sequence[int]) -> Bars:
    """A bar for each value above 0."""
    most = max(values, default=0)
    path = "".join(
        f"M{place + 0.1:.1f} {BARS}V{BARS - value / most * (BARS - PAD):.1f}h.8V{BARS}z"
        for place, value in enumerate(values)
        if value > 0
    )
    return Bars(path, most, max(1, len(values)))
