"""Converts the shared models and the table's eight nets, and writes docs/results.md.

python tools/results.py [OUT] [--only NAME ...]: needs the shared folder, 8 GB of disk and some ten
minutes. Every format is made of a net of at most 128 MB of weights, the default formats of others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from stage_build.delivery import DEFAULT, FORMATS, LARGE  # noqa: E402  the root is on the path now

SHARED = ROOT.parent / "shared"
OUT = ROOT / "docs" / "results.md"
# The nets of the original caffe-tensorflow's table, as they lie in the shared zoo.
TABLE = (
    "bvlc_alexnet",
    "bvlc_reference_caffenet",
    "nin_imagenet",
    "bvlc_googlenet",
    "vgg16",
    "resnet-50",
    "resnet-101",
    "resnet-152",
)
UNSUPPORTED = 4

HEAD = """# Results

Made by `python tools/results.py`: every model is converted by `orchestrate batch`, and what was
written is loaded again in another process and held to the reference: every blob of the class and of
`model.keras`, every output of the others. *Weights* are the float32 numbers alone. An error is the
largest in any blob or output, relative to the largest magnitude in it, between the format and the
NumPy forward pass, which real Caffe's recorded numbers hold.

The first part are trained models with their own weights; the second are published nets with seeded
random weights, which let float32 rounding grow in deep nets as trained ones do not: where an error
is beyond 1e-4, every layer alone, fed the reference's own bottoms, is within 1e-5.
TFLite and the frozen graph are made up to 128 MB of weights.
"""


@dataclass(frozen=True)
class Case:
    """A model, and the formats that are tried, best first."""

    name: str
    prototxt: Path
    weights: Path
    tries: tuple[tuple[str, ...], ...]


def trained() -> Iterator[Case]:
    """The shared models, whose weights are small."""
    for folder in sorted((SHARED / "models").iterdir()):
        if folder.is_dir():
            weights = folder / "weights.caffemodel"
            yield Case(folder.name, folder / "deploy.prototxt", weights, tries(weights))


def seeded(folder: Path) -> Iterator[Case]:
    """The table's nets, with weights that are written into `folder`."""
    for name in TABLE:
        net, weights = SHARED / "zoo" / name, folder / f"{name}.caffemodel"
        subprocess.run(
            [sys.executable, SHARED / "tools" / "fill_caffemodel.py", net, weights], check=True
        )
        yield Case(name, net / "deploy.prototxt", weights, tries(weights))


def tries(weights: Path) -> tuple[tuple[str, ...], ...]:
    """The formats for weights of that size; without those that a layer may have no place in."""
    if weights.stat().st_size > LARGE:
        return (DEFAULT,)
    constant = tuple(name for name in FORMATS if FORMATS[name].constant)
    return ((*DEFAULT, *constant), *((*DEFAULT, name) for name in constant), DEFAULT)


def converted(cases: Sequence[Case], folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> report of each case.

    Raises:
        SystemExit: one failed, for another reason than that a format has no place for a layer.
    """
    reports: dict[str, dict[str, Any]] = {}
    left = [(case, 0) for case in cases]
    while left:
        catalogue, out = folder / "catalogue.toml", folder / f"out{len(left)}"
        catalogue.write_text("".join(_entry(case, case.tries[turn]) for case, turn in left))
        batch = [sys.executable, str(ROOT / "orchestrate.py"), "batch", str(catalogue)]
        command = [*batch, "-o", str(out), "--force", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        models = {model["name"]: model for model in json.loads(done.stdout)["models"]}
        again = []
        for case, turn in left:
            if models[case.name]["status"] == "ok":
                reports[case.name] = json.loads((out / case.name / "report.json").read_text())
            elif models[case.name]["exit_code"] == UNSUPPORTED and turn + 1 < len(case.tries):
                again.append((case, turn + 1))
            else:
                sys.exit(f"{case.name}: {models[case.name]['error']}")
        left = again
    return reports


def _entry(case: Case, formats: Sequence[str]) -> str:
    texts = {
        "name": case.name,
        "prototxt": str(case.prototxt),
        "weights": str(case.weights),
        "formats": ",".join(formats),
    }
    return "\n".join(["[[model]]", *(f"{k} = {json.dumps(v)}" for k, v in texts.items()), ""])


def table(reports: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: a row a model, size and worst error of each format."""
    columns = ["model", "weights", "blobs", *FORMATS, "seconds"]
    lines = ["", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name, report in reports.items():
        artefacts = report["artefacts"]
        cells = [name, _size(4 * report["parameters"]), str(len(artefacts["class"]["blobs"]))]
        cells += [_made(artefacts.get(format_)) for format_ in FORMATS]
        spent = report["seconds"]
        lines.append("| " + " | ".join([*cells, f"{spent['extract'] + spent['build']:.0f}"]) + " |")
    return lines


def _made(part: dict[str, Any] | None) -> str:
    if part is None:
        return "–"
    worst = part["worst"]
    return f"{_size(part['bytes'])}, {worst['max_error'] / (worst['magnitude'] or 1):.0e}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def main() -> None:
    """Converts and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the models")
    options = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"the models are not there: {SHARED}")
    lines = [HEAD.rstrip()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for title, cases in (("Trained models", trained()), ("Table nets", seeded(folder))):
            chosen = [case for case in cases if case.name in (options.only or [case.name])]
            if chosen:
                (folder / title).mkdir()
                reports = converted(chosen, folder / title)
                lines += ["", f"## {title}", *table(reports)]
                versions = next(iter(reports.values()))["versions"]
    lines += ["", "Made with " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]
    options.out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
