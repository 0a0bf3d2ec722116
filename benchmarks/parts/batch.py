"""Many small models in one run: what a model costs beyond its own work."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.architectures import printed
from benchmarks.bench import Bench
from benchmarks.figures import Result, Table, Target, noisy, timing_table
from benchmarks.processes import ORCHESTRATE, Command, interleaved

TITLE = "Batch"

MODELS = 50
LIMIT = 0.3  # seconds a model beyond its stages' own


def measure(bench: Bench) -> Result:
    """The figures of fifty LeNets."""
    catalogue = _catalogue(bench)
    commands = []
    outs = {jobs: bench.folder / f"batch-{jobs}" for jobs in (1, 2)}
    for jobs, out in outs.items():
        argv = [*ORCHESTRATE, "batch", catalogue, "-o", out, "--jobs", str(jobs), "-q"]
        commands.append(Command(f"{MODELS} LeNets, {jobs} at a time", argv, [out]))
    timings = interleaved(commands, bench.repeat, bench.say)
    found = {jobs: _models(out) for jobs, out in outs.items()}
    beyond = statistics.median(_beyond(model) for model in found[1])
    result = Result(timings, [timing_table("`orchestrate batch`", timings)])
    claim = f"a LeNet in {LIMIT} s beyond its stages' own seconds (median of {MODELS})"
    mark = noisy(timings[0])
    result.targets.append(
        Target("batch-lenet", claim, timings[0].command, beyond, LIMIT, "s", mark)
    )
    result.tables.append(_table(found))
    return result


def _catalogue(bench: Bench) -> Path:
    """Fifty LeNets, each with files of its own."""
    text, shapes = printed("lenet")
    lines = []
    for number in range(MODELS):
        files = bench.nets.written(f"lenet-{number}", text, shapes)
        lines += ["[[model]]", f'name = "lenet-{number}"']
        lines += [f'prototxt = "{files.prototxt}"', f'weights = "{files.weights}"']
    catalogue = bench.folder / "lenets.toml"
    catalogue.write_text("\n".join(lines) + "\n")
    return catalogue


def _models(out: Path) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads((out / "summary.json").read_text())["models"]
    assert len(models) == MODELS and all(model["status"] == "ok" for model in models)
    return models


def _beyond(model: dict[str, Any]) -> float:
    """The seconds of a model in which neither stage was at work on it."""
    return float(model["seconds"] - sum(stage["seconds"] for stage in model["stages"].values()))


def _table(found: dict[int, list[dict[str, Any]]]) -> Table:
    rows = []
    for jobs, models in found.items():
        stages = [
            statistics.median(model["stages"][stage]["seconds"] for model in models)
            for stage in ("extract", "build")
        ]
        whole = statistics.median(model["seconds"] for model in models)
        beyond = [_beyond(model) for model in models]
        rows.append((jobs, *stages, statistics.median(beyond), max(beyond), whole))
    columns = ("at a time", "extract", "build", "beyond", "most beyond", "whole")
    text = (
        "Medians over the models of the last repetition, in seconds; class, .keras and SavedModel, "
        "every blob verified. The first model of a lane waits for TensorFlow."
    )
    return Table("A model's seconds", columns, rows, text)
