"""The whole of `orchestrate convert`, beside a bare `import tensorflow`; where its time goes."""

from __future__ import annotations

import sys

from benchmarks.bench import Bench, convert, report
from benchmarks.figures import MB, Result, Table, Target, noisy, timing_table
from benchmarks.processes import Command, interleaved

TITLE = "Conversion"

# Net -> seconds.
LIMITS = {"vgg16": 15.0, "resnet-152": 25.0, "squeezenet_v1.1": 8.0}
MEMORY = 3000.0  # MB, of VGG-16


def measure(bench: Bench) -> Result:
    """Conversion's figures; the results stay for other parts."""
    commands = [
        Command("`import tensorflow`, the floor", [sys.executable, "-c", "import tensorflow"])
    ]
    for name in LIMITS:
        out = bench.result(name)
        commands.append(Command(name, convert(bench.nets.files(name), out), [out]))
    timings = interleaved(commands, bench.repeat, bench.say)
    text = "Class, npz, .keras and SavedModel, each loaded again and compared, every blob."
    result = Result(timings, [timing_table("`orchestrate convert`", timings, text)])
    for (name, limit), timing in zip(LIMITS.items(), timings[1:], strict=True):
        claim = f"convert {name} in {limit:.0f} s"
        key, mark = f"conversion-{name}", noisy(timing)
        result.targets.append(Target(key, claim, timing.command, timing.median, limit, "s", mark))
    vgg = timings[1]
    claim = "convert vgg16 in 3,000 MB, all processes"
    result.targets.append(
        Target("conversion-memory", claim, vgg.command, vgg.peak_bytes / MB, MEMORY, "MB")
    )
    result.tables.append(_profile(bench))
    return result


def _profile(bench: Bench) -> Table:
    """What report.json of each last conversion says of its steps."""
    reports = {name: report(bench.result(name)) for name in LIMITS}
    steps = list(dict.fromkeys(step for one in reports.values() for step in one["seconds"]))
    rows: list[tuple[object, ...]] = [
        (step, *(one["seconds"].get(step) for one in reports.values())) for step in steps
    ]
    peaks = [one.get("peak_bytes") for one in reports.values()]
    for kind in dict.fromkeys(kind for peak in peaks if isinstance(peak, dict) for kind in peak):
        found = [peak.get(kind) if isinstance(peak, dict) else None for peak in peaks]
        rows.append((f"{kind}, peak MB", *(value and value / MB for value in found)))
    text = "From `report.json` of the last repetition; steps overlap, and some lie within others."
    return Table("Profile, seconds of each step", ("step", *reports), rows, text)
