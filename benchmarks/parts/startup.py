"""How long a person waits for an answer that needs no work."""

from __future__ import annotations

import sys

from benchmarks.bench import Bench
from benchmarks.figures import Result, Target, noisy, timing_table
from benchmarks.processes import ORCHESTRATE, Command, interleaved

TITLE = "Start-up"


def measure(bench: Bench) -> Result:
    """Start-up's figures."""
    large, small = bench.nets.files("vgg16"), bench.nets.files("squeezenet_v1.1")
    timings = interleaved(
        [
            Command("bare Python, the floor", [sys.executable, "-c", "pass"]),
            Command("Python with NumPy and h5py", [sys.executable, "-c", "import numpy, h5py"]),
            Command("help", [*ORCHESTRATE, "--help"]),
            Command("inspect a 553 MB caffemodel", [*ORCHESTRATE, "inspect", large.weights]),
            Command("inspect a prototxt", [*ORCHESTRATE, "inspect", small.prototxt]),
        ],
        bench.repeat,
        bench.say,
    )
    limits = (("help", 0.3), ("inspect", 0.5))
    result = Result(timings, [timing_table("Whole processes", timings)])
    for (key, limit), timing in zip(limits, timings[2:], strict=False):
        claim = f"{timing.name} in {limit} s"
        mark = noisy(timing)
        result.targets.append(
            Target(f"startup-{key}", claim, timing.command, timing.median, limit, "s", mark)
        )
    return result
