"""Measures what the project claims, beside its competitors: results.md and results.json.

Usage: python benchmarks/run.py [--only PART ...] [--repeat 5] [--no-shared] [--out DIR]
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import machine, report  # noqa: E402  the project's root is on the path now
from benchmarks.bench import Bench  # noqa: E402
from benchmarks.nets import SHARED, Nets  # noqa: E402

TOML = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PARTS = (
    *("extraction", "startup", "forward", "conversion", "batch"),
    *("serving", "layers", "precision"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="of the parts")
    parser.add_argument("--repeat", type=int, default=5, help="of each comparison, at least 1")
    parser.add_argument("--no-shared", action="store_true", help="nets that are printed here")
    parser.add_argument("--out", type=Path, default=report.HERE, help="of results.md and .json")
    given = parser.parse_args()
    if given.repeat < 1:
        parser.error("--repeat: at least 1 was expected")
    nets = Nets(ROOT / "out" / "bench-nets", SHARED.is_dir() and not given.no_shared)
    remarks = TOML.loads((report.HERE / "remarks.toml").read_text())
    nets.folder.mkdir(parents=True, exist_ok=True)
    meter = machine.Rates()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=nets.folder.parent) as folder:
            bench = Bench(given.repeat, Path(folder), nets, meter)
            for name in [part for part in PARTS if part in given.only]:
                part = measured(bench, name)
                write(given.out, {name: part}, remarks)
    finally:
        meter.close()


def measured(bench: Bench, name: str) -> dict[str, Any]:
    """One part's document, with where, when and how it was made."""
    part = importlib.import_module(f"benchmarks.parts.{name}")
    started = time.monotonic()
    print(part.TITLE, file=sys.stderr, flush=True)
    bench.begin()
    result = part.measure(bench)
    bench.rate("after")
    shared = "" if bench.nets.shared else " --no-shared"
    bench.say(f"{name}: {time.monotonic() - started:.0f} s in all")
    return {
        "title": part.TITLE,
        "command": f'make bench ARGS="--only {name} --repeat {bench.repeat}{shared}"',
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "repeat": bench.repeat,
        "nets": bench.nets.origin,
        "machine": machine.facts(),
        "seconds": time.monotonic() - started,
        "rates": dict(bench.rates),
        **result.document(),
    }


def write(folder: Path, parts: dict[str, Any], remarks: dict[str, str]) -> None:
    """Both files, each part as soon as it is measured."""
    folder.mkdir(parents=True, exist_ok=True)
    document = report.merged(report.load(folder / "results.json"), parts, PARTS)
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "results.md").write_text(report.text(document, remarks))


def _commit() -> str:
    """As in ``commit 1a2b3c4``, with a word where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        others = ["--", ".", ":!benchmarks/results.*"]
        changed = subprocess.check_output(
            [*git, "status", "--porcelain", "-uno", *others], text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return f"commit {head}" + (" with changes" if changed.strip() else "")


if __name__ == "__main__":
    main()
