"""results.json for programs, results.md for people; parts that were not run keep their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import markdown

HERE = Path(__file__).resolve().parent
ELSEWHERE = HERE / "elsewhere.md"

HEAD = """# Results

Made by `make bench`. What is compared runs in turn, ours and the competitor's, after a warm-up;
figures are medians, ratios are of medians, and a spread is (largest - smallest) / median: over 15%
it is marked as noisy. Peak memory is the sum over the process tree (PSS, twenty samples a second,
in the warm-up, which is not timed). The rate of matrix multiplication was measured before, between
and after: where it differs, so did the machine.
"""


def merged(
    earlier: Mapping[str, Any], parts: Mapping[str, Any], order: Sequence[str]
) -> dict[str, Any]:
    """The document with new parts in the place of earlier ones, in `order`."""
    every = {**earlier.get("parts", {}), **parts}
    return {"parts": {name: every[name] for name in order if name in every}}


def load(path: Path) -> dict[str, Any]:
    """An earlier results.json; empty where there is none, or one of another form."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    return document if "parts" in document else {}


def text(document: Mapping[str, Any], remarks: Mapping[str, str]) -> str:
    """results.md.

    Args:
        remarks: why a target was missed, by its key; shown where it is.
    """
    parts = document["parts"].values()
    lines = [HEAD, *_machines(parts), *_targets(parts, remarks)]
    for part in parts:
        lines += _part(part)
    return "\n".join([*lines, ELSEWHERE.read_text()])


def _machines(parts: Any) -> list[str]:
    """Each machine or set of versions once, with the parts that were measured with it."""
    titles: dict[str, list[str]] = {}
    for part in parts:
        facts = "\n".join(f"* {name}: {value}" for name, value in part["machine"].items())
        titles.setdefault(facts, []).append(part["title"])
    lines = ["## Machine", ""]
    for facts, names in titles.items():
        lines += [f"{', '.join(names)}:", ""] * (len(titles) > 1) + [facts, ""]
    return lines


def _targets(parts: Any, remarks: Mapping[str, str]) -> list[str]:
    lines = ["## Targets", "", "| target | outcome | made by |", "| --- | --- | --- |"]
    whys = []
    for part in parts:
        for target in part["targets"]:
            outcome = target["outcome"]
            lines.append(
                f"| {target['claim']} | {outcome} | {part['title']}: `{target['command']}` |"
            )
            if not target["met"]:
                whys += [f"* **{target['claim']}**: {outcome}. {_remark(remarks, target['key'])}"]
    if whys:
        lines += ["", "### What was missed, and why", "", *whys]
    return [*lines, ""]


def _remark(remarks: Mapping[str, str], key: str) -> str:
    return " ".join(remarks.get(key, "No reason is known yet.").split())


def _part(part: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## {part['title']}",
        "",
        f"`{part['command']}`, {part['date']}, of {part['commit']}, {part['repeat']} repetitions; "
        f"nets: {part['nets']}.",
        "",
    ]
    for table in part["tables"]:
        lines += markdown(table)
    return lines + _rates(part["rates"])


def _rates(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    columns = list(dict.fromkeys(name for found in rates.values() for name in found))
    rows = [[moment, *map(found.get, columns)] for moment, found in rates.items()]
    title = "Matrix multiplication meanwhile, float32, GFLOP/s"
    return markdown({"title": title, "text": "", "columns": ["when", *columns], "rows": rows})
