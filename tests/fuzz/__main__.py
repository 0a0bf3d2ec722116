"""Fuzzes the readers of files from strangers, for a bounded time, and prints what was seen.

    python -m tests.fuzz                                         every reader, two minutes
    python -m tests.fuzz --executions 500000 --seconds 3600 --reader caffemodel
    python -m tests.fuzz --reader prototxt --seed 7 --case 1234  one case again, with its traceback

Exits with 1 if a reader raised anything but our own errors, took more than 2 s or 200 MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz import engine, processes
from tests.paths import ROOT


def main() -> int:
    options = parsed()
    names = options.reader or list(processes.READERS)
    if options.case is not None or options.sample:
        return here(names, options)
    began = time.monotonic()
    each = dict.fromkeys(names, options.executions)
    found = processes.fuzz(each, options.seed, options.seconds, options.processes)
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s, {options.processes} processes")
    for name, figures in found.items():
        print(shown(name, figures))
    print_coverage(names, options.seed)
    findings = [finding for figures in found.values() for finding in figures.findings]
    for finding in findings[: engine.SHOWN_FINDINGS]:
        print(
            f"\n{finding.reader}: python -m tests.fuzz --reader {finding.reader!r} "
            f"--seed {finding.seed} --case {finding.case}\n{finding.what}"
        )
    print(f"findings: {len(findings)}")
    return 1 if findings else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzzes the readers.")
    parser.add_argument(
        "--reader", action="append", choices=list(processes.READERS), help="default: all"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--seconds", type=float, default=120, help="of wall time; default: 120")
    parser.add_argument("--executions", type=int, default=10**9, help="at most, of each reader")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--case", type=int, help="runs this case alone, here")
    parser.add_argument("--sample", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def here(names: Sequence[str], options: argparse.Namespace) -> int:
    """Runs cases in this process: one, to be looked at, or a sample, to be measured."""
    with processes.scratch() as folder:
        for name in names:
            reader = processes.reader(name, Path(folder))
            if options.case is None:
                engine.run(reader, options.seed, range(options.sample), seconds=60)
                continue
            data = reader.mutant(engine.case_rng(reader, options.seed, options.case))
            print(repr(data))
            began = time.process_time()
            try:
                reader.read(data, lambda: print("past the first layer"))
            except engine.EXPECTED as error:
                print(f"{type(error).__name__}: {error}")
            print(f"{time.process_time() - began:.3f} s, {engine.peak_bytes() >> 20} MB")
    return 0


def shown(name: str, figures: engine.Figures) -> str:
    """The figures of one reader, on two lines."""
    share = figures.past / max(1, figures.executions)
    outcomes = ", ".join(f"{count} {what}" for what, count in figures.outcomes.most_common())
    return (
        f"{name}: {figures.executions} executions, {share:.0%} past the first layer, slowest "
        f"{figures.slowest[0]:.2f} s (case {figures.slowest[1]}), peak memory +"
        f"{figures.growth >> 20} MB\n    {outcomes}"
    )


SAMPLE = 8000  # executions that branch coverage is measured over


def print_coverage(names: Sequence[str], seed: int) -> None:
    """Prints the share of each reader's branches that a sample of the cases reached."""
    if importlib.util.find_spec("coverage") is None:
        print("branch coverage: not measured, the package coverage is not installed")
        return
    for name in names:
        modules = processes.READERS[name].modules
        reached = {
            module: branches(report, module)
            for report in [measured(name, seed)]
            for module in modules
        }
        covered, total = (sum(counts) for counts in zip(*reached.values(), strict=True))
        each = ", ".join(
            f"{Path(module.partition(':')[0]).name} {found}/{there}"
            for module, (found, there) in reached.items()
        )
        print(f"{name}: {covered / total:.1%} of the branches reached ({each})")


def measured(name: str, seed: int) -> dict[str, Any]:
    """coverage's report on the files of one reader, after a sample of its cases."""
    paths = ",".join(module.partition(":")[0] for module in processes.READERS[name].modules)
    with tempfile.TemporaryDirectory() as folder:
        data, report = f"--data-file={folder}/data", f"{folder}/report.json"
        sample = ["-m", "tests.fuzz", f"--sample={SAMPLE}", f"--seed={seed}", f"--reader={name}"]
        for command in (
            ["run", "--branch", f"--include={paths}", data, *sample],
            ["json", "-q", data, "-o", report],
        ):
            subprocess.run([sys.executable, "-m", "coverage", *command], cwd=ROOT, check=True)
        return dict(json.loads(Path(report).read_text(encoding="utf-8"))["files"])


def branches(report: dict[str, Any], module: str) -> tuple[int, int]:
    """How many branches of a reader's module were reached, and how many there are."""
    path, _, names = module.partition(":")
    wanted = names.split()
    summaries = [
        function["summary"]
        for name, function in report[path]["functions"].items()
        if not wanted or name.partition(".")[0] in wanted
    ]
    return (
        sum(summary["covered_branches"] for summary in summaries),
        sum(summary["num_branches"] for summary in summaries),
    )


if __name__ == "__main__":
    sys.exit(main())
