"""`inspect`: what is in a file, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from driver.display import Display, facts_grid, table
from driver.job import run_job
from driver.options import Options
from driver.outcome import Outcome, ok_document
from driver.worker import path_argument
from driver.workspace import ScratchSpace, check_input
from schemas.errors import MalformedModel, UsageError, cannot_use

MAX_REPORT = 64 << 20
MAX_COLUMNS = 16  # our own reports have fewer


def inspect(path: Path, options: Options, show: Display) -> Outcome:
    """The contents of a prototxt, weights, net.h5, or a converted model's folder.

    Files are opened in a worker only; of a folder, its report is read.
    """
    if path.is_dir():
        found = _report(path)
    else:
        check_input(path)
        argv = ["--inspect", path_argument(path)]
        with ScratchSpace("inspect") as work:
            found = run_job(
                "extract",
                argv,
                work,
                show,
                python=options.extract_python,
                opening=path,
                timeout=options.timeout,
            )
    document = ok_document(None, **{name: found.get(name) for name in FIELDS})
    facts = {"kind": found.get("kind", ""), **(found.get("facts") or {})}
    rows = [[_shown(cell) for cell in row] for row in found.get("rows") or ()]
    shown = [
        table(str(found.get("title", path)), found.get("columns") or (), rows),
        facts_grid((name, _shown(value)) for name, value in facts.items()),
    ]
    return Outcome(document, tables=shown, is_product=True)


def _shown(value: Any) -> str:
    """A value as a person likes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "x".join(str(item) for item in value)
    return str(value)


FIELDS = ("kind", "title", "columns", "rows", "facts")


def _report(folder: Path) -> dict[str, Any]:
    """What report.json in `folder` says, in the form in which a worker describes a file."""
    path = folder / "report.json"
    if not path.is_file():
        raise UsageError(
            "a file or a converted model was expected, this folder holds no report.json",
            str(folder),
            "check the path",
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_REPORT + 1)
    except OSError as error:
        raise cannot_use(path, error) from error
    if len(content) > MAX_REPORT:
        raise MalformedModel("a report of at most 64 MiB was expected", str(path))
    try:
        report = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedModel(f"this is not JSON: {error}", str(path), "convert again") from error
    if not isinstance(report, dict):
        raise MalformedModel("a JSON object was expected", str(path), "convert again")
    rows, columns = _blob_rows(report.get("blobs"))
    return {
        "kind": "converted model",
        "title": str(folder),
        "columns": columns,
        "rows": rows,
        "facts": dict(_flat(report)),
    }


def _blob_rows(blobs: Any) -> tuple[list[list[Any]], list[str]]:
    """Rows and columns of a list of records, one a blob, all with the members of the first."""
    records = [blob for blob in blobs if isinstance(blob, dict)] if isinstance(blobs, list) else []
    columns = list(records[0])[:MAX_COLUMNS] if records else []
    return [[record.get(name, "") for name in columns] for record in records], columns


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The single values of a report, two levels deep."""
    facts: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict) and not prefix:
            facts += _flat(value, name + ".")
        elif value is not None and not isinstance(value, dict | list):
            facts.append((prefix + name, value))
    return facts
