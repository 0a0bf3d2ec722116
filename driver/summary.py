"""What a batch came to: summary.json for programs, summary.md and summary.html for people."""

from __future__ import annotations

import html
import json
import math
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from driver.display import table
from driver.interrupts import shielded
from driver.outcome import finite
from schemas.errors import Interrupted, cannot_use
from schemas.events import plain

COLUMNS = ("model", "status", "worst error", "in blob", "seconds", "message")

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }}
body {{ padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-bottom: 1px solid #8884; padding: .3rem .8rem .3rem 0 }}
th, td {{ text-align: left; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
td:nth-child(3), td:nth-child(5) {{ font-variant-numeric: tabular-nums; white-space: nowrap }}
.ok {{ color: light-dark(#176b2c, #7fd897) }}
.failed {{ color: light-dark(#b3151b, #ff9a9a); font-weight: 600 }}
@media (max-width: 45rem) {{
  thead, td:empty {{ display: none }}
  table, tbody, tr {{ display: block }}
  tr {{ border-bottom: 1px solid #8884; padding: .5rem 0 }}
  td {{ border: 0; display: inline-block; padding: 0 1rem 0 0; vertical-align: top }}
  td:nth-child(1), td:nth-child(6) {{ display: block }}
  td:nth-child(4)::before {{ content: "in " }}
  td:nth-child(5)::after {{ content: " s" }}
}}
</style>
<h1>{title}</h1>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</html>
"""


def summed_up(
    models: Sequence[dict[str, Any]], total: int, out: Path, interrupted: bool = False
) -> dict[str, Any]:
    """The document of a batch.

    Args:
        models: the document of each model that has ended, in the catalogue's order.
        total: how many there are.
        interrupted: whether those that are missing never will end.
    """
    failed = sum(model["status"] != "ok" for model in models)
    exit_code = max((model["exit_code"] for model in models), default=0)
    if interrupted and len(models) < total:
        exit_code = Interrupted.exit_code
    error = f"{failed} of {total} models failed" if failed else None
    worst = max(models, key=lambda model: _rank(_error(model)), default={"worst": None})
    return {
        "status": "failed" if exit_code else "ok",
        "exit_code": exit_code,
        "error": "interrupted" if exit_code == Interrupted.exit_code else error,
        "out": str(out),
        "worst": worst["worst"],
        "total": total,
        "models": list(models),
    }


def headline(document: dict[str, Any]) -> str:
    """The batch in a line."""
    models = document["models"]
    good = sum(model["status"] == "ok" for model in models)
    kept = sum(bool(model.get("unchanged")) for model in models)
    unchanged = f", {kept} of them unchanged" if kept else ""
    return f"{good} of {document['total']} models converted and verified{unchanged}"


def as_table(document: dict[str, Any]) -> Any:
    """The batch as a rich table, without the messages, which were shown as they came."""
    rows = [_row(model)[:-1] for model in document["models"]]
    return table(headline(document), COLUMNS[:-1], rows)


def write(document: dict[str, Any], out: Path) -> None:
    """Writes the three files into `out`, each whole.

    Raises:
        EnvironmentProblem: they cannot be written.
    """
    texts = {
        "summary.json": json.dumps(finite(document), indent=2) + "\n",
        "summary.md": _markdown(document),
        "summary.html": _html(document, out),
    }
    try:
        with shielded():
            for name, text in texts.items():
                _put(out / name, text)
    except OSError as error:
        raise cannot_use(out, error) from error


def _put(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _markdown(document: dict[str, Any]) -> str:
    lines = [f"# {headline(document)}", "", _cells(COLUMNS), "|" + " --- |" * len(COLUMNS)]
    for model in document["models"]:
        # A renderer of Markdown takes tags for HTML.
        cells = (html.escape(plain(cell), quote=False).replace("|", "\\|") for cell in _row(model))
        lines.append(_cells(cells))
    return "\n".join(lines) + "\n"


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _html(document: dict[str, Any], out: Path) -> str:
    return PAGE.format(
        title=html.escape(headline(document)),
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        rows="\n".join(_html_row(model, out) for model in document["models"]),
    )


def _html_row(model: dict[str, Any], out: Path) -> str:
    name, status, *rest = (html.escape(plain(cell)) for cell in _row(model))
    report = _report(model, out)
    if report:
        name = f'<a href="{html.escape(urllib.parse.quote(report))}">{name}</a>'
    cells = [name, f'<span class="{html.escape(model["status"])}">{status}</span>', *rest]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _report(model: dict[str, Any], out: Path) -> str | None:
    """The report to link, relative to `out`: what there is to read of the model."""
    folder = model["name"] if model["status"] == "ok" else f"{model['name']}.failed"
    for file in ("report.html", "report.json"):
        if (out / folder / file).is_file():
            return f"{folder}/{file}"
    return None


def _row(model: dict[str, Any]) -> list[str]:
    error = _error(model)
    return [
        model["name"],
        "unchanged" if model.get("unchanged") else model["status"],
        "" if error is None else f"{error:.1e}",
        "" if error is None else str(model["worst"].get("blob", "")),
        f"{model['seconds']:.1f}" if isinstance(model.get("seconds"), int | float) else "",
        model["error"] or "",
    ]


def _error(model: dict[str, Any]) -> float | None:
    worst = model["worst"]
    value = worst.get("error") if isinstance(worst, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _rank(error: float | None) -> float:
    """Orders errors from none to NaN, which no comparison would find."""
    if error is None:
        return -1.0
    return math.inf if math.isnan(error) else error
