"""Time and memory of the main job, beside `cp` in the same run: writes results.md and results.json.

Usage: python benchmarks/run.py [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.nets import vgg16  # noqa: E402  the project's root is on the path now
from benchmarks.processes import Measured, run  # noqa: E402

NOISY = 0.15
MB = 1e6


@dataclass(frozen=True)
class Row:
    """One command over its repetitions.

    Attributes:
        seconds: the median.
        spread: (largest - smallest) / median.
        peak_bytes: the largest of all repetitions, for the process tree.
    """

    name: str
    command: str
    seconds: float
    spread: float
    peak_bytes: int


def row(name: str, command: list[str], runs: list[Measured]) -> Row:
    seconds = sorted(measured.seconds for measured in runs)
    middle = statistics.median(seconds)
    shown = " ".join(Path(part).name if "/" in part else part for part in command)
    peak = max(measured.peak_bytes for measured in runs)
    return Row(name, shown, middle, (seconds[-1] - seconds[0]) / middle, peak)


def interleaved(commands: dict[str, list[str]], outputs: list[Path], repeat: int) -> list[Row]:
    """Runs the commands in turn, `repeat` times after a warm-up, each without earlier outputs."""
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for turn in range(repeat + 1):
        for name, command in commands.items():
            for output in outputs:
                remove(output)
            measured = run(command)
            if turn:
                runs[name].append(measured)
    return [row(name, commands[name], runs[name]) for name in commands]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    facts = {"cores": str(os.cpu_count()), "system": platform.platform()}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            facts["processor"] = line.partition(":")[2].strip()
            break
    for package in ("tensorflow", "tensorflow-cpu", "keras", "numpy", "h5py"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**facts, "python": platform.python_version()}


def measure(folder: Path, repeat: int) -> tuple[list[Row], dict[str, str]]:
    """All rows, and each target with what became of it."""
    orchestrate = [sys.executable, str(ROOT / "orchestrate.py")]
    prototxt, caffemodel = vgg16(folder)
    copy, net, out = folder / "copy", folder / "net.h5", folder / "out"
    fast = interleaved(
        {
            "cp": ["cp", str(caffemodel), str(copy)],
            "extract": [
                *[*orchestrate, "extract", str(prototxt), str(caffemodel)],
                *["-o", str(net), "--no-reference", "-q"],
            ],
        },
        [copy, net],
        repeat,
    )  # fmt: skip
    remove(net)
    convert = interleaved(
        {
            "convert": [
                *orchestrate,
                "convert",
                str(prototxt),
                str(caffemodel),
                "-o",
                str(out),
                "-q",
            ]
        },
        [out],
        max(1, repeat // 2),
    )
    remove(out)
    cp, extract, whole = fast[0], fast[1], convert[0]
    targets = {
        f"extract in 3 x cp + 1 s = {3 * cp.seconds + 1:.2f} s": _verdict(
            extract.seconds, 3 * cp.seconds + 1, "s"
        ),
        "extract in 200 MB": _verdict(extract.peak_bytes / MB, 200, "MB"),
        "convert in 40 s": _verdict(whole.seconds, 40, "s"),
        "convert in 3,000 MB": _verdict(whole.peak_bytes / MB, 3000, "MB"),
    }
    return [*fast, *convert], targets


def _verdict(found: float, limit: float, unit: str) -> str:
    if found <= limit:
        return f"met: {found:,.2f} {unit}"
    return f"missed by {found - limit:,.2f} {unit}: {found:,.2f} {unit}"


def write(rows: list[Row], targets: dict[str, str], repeat: int) -> None:
    """results.md for people, results.json for programs."""
    facts = machine()
    lines = [
        "# Results",
        "",
        f"Made by `make bench` ({repeat} repetitions after a warm-up, in turn). VGG-16 with seeded "
        "weights,",
        "553 MB. Peak memory is the sum over the process tree (PSS, ten samples a second).",
        "",
        *(f"* {name}: {value}" for name, value in facts.items()),
        "",
        "| what | command | median s | spread | peak MB |",
        "|---|---|---:|---:|---:|",
    ]
    for item in rows:
        mark = " (noisy)" if item.spread > NOISY else ""
        lines.append(
            f"| {item.name} | `{item.command}` | {item.seconds:.2f} | {item.spread:.0%}{mark} | "
            f"{item.peak_bytes / MB:,.0f} |"
        )
    lines += ["", "| target | outcome |", "|---|---|"]
    lines += [f"| {name} | {outcome} |" for name, outcome in targets.items()]
    here = Path(__file__).resolve().parent
    (here / "results.md").write_text("\n".join(lines) + "\n")
    document = {"machine": facts, "rows": [asdict(item) for item in rows], "targets": targets}
    (here / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    scratch = ROOT / "out"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as folder:
        rows, targets = measure(Path(folder), repeat)
    write(rows, targets, repeat)


if __name__ == "__main__":
    main()
