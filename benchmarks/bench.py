"""What every part is given: repetitions, nets, a folder, conversions that parts share."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Rates
from benchmarks.nets import Files, Nets
from benchmarks.processes import ORCHESTRATE, run


@dataclass
class Bench:
    """One run of the benchmarks.

    Attributes:
        repeat: of each comparison, after a warm-up.
        folder: removed at the end.
        rates: matrix-multiplication rates of the part at hand: what was going on -> GFLOP/s.
    """

    repeat: int
    folder: Path
    nets: Nets
    meter: Rates
    rates: dict[str, dict[str, float]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """To whoever waits."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def begin(self) -> None:
        """Another part: what was measured last is what it starts with."""
        last = list(self.rates.values())[-1:]
        self.rates.clear()
        if last:
            self.rates["before"] = last[0]
        else:
            self.rate("before")

    def rate(self, moment: str) -> None:
        """Measures the matrix-multiplication rate now."""
        self.rates[moment] = self.meter.measure()
        self.say(f"{moment}: " + ", ".join(f"{k} {v:.0f}" for k, v in self.rates[moment].items()))

    @property
    def peak(self) -> float:
        """GFLOP/s on all cores: the most that any library reached at any moment."""
        every = [item for rates in self.rates.values() for item in rates.items()]
        return max(value for name, value in every if "all cores" in name)

    def result(self, name: str) -> Path:
        """Where a net's converted result lies, if there is one."""
        return self.folder / f"{name}-converted"

    def converted(self, name: str, *options: str) -> Path:
        """A net's converted result; made if this run has not made it yet."""
        marks = "".join(option.strip("-") for option in options)
        out = self.result(name + marks)
        if not out.exists():
            run(convert(self.nets.files(name), out, *options))
            self.say(f"converted {name} {' '.join(options)}")
        return out


def convert(files: Files, out: Path, *options: str) -> list[str | Path]:
    """The command that converts a net."""
    return [*ORCHESTRATE, "convert", files.prototxt, files.weights, "-o", out, *options, "-q"]


def extract(files: Files, out: Path, *options: str) -> list[str | Path]:
    """The command that extracts a net without a reference."""
    given: list[str | Path] = [files.prototxt, files.weights, "-o", out]
    return [*ORCHESTRATE, "extract", *given, "--no-reference", *options, "-q"]


def report(folder: Path) -> dict[str, Any]:
    """report.json of a result."""
    return dict(json.loads((folder / "report.json").read_text()))
