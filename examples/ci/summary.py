"""What orchestrate's --json documents say, as a Markdown table: summary.py build.json verify.json

A document that is not there belongs to a step that was not run. Standard library only.
"""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path

COLUMNS = ("step", "result", "worst error", "in blob", "seconds", "message")


def row(path: Path) -> list[str]:
    """The cells of one document."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text:
        return [path.stem, "not run", "", "", "", ""]
    document = json.loads(text)
    worst = document["worst"] or {}
    error, seconds = worst.get("error"), document.get("seconds")
    return [
        path.stem,
        f"{document['status']} ({document['exit_code']})",
        "" if error is None else f"{error:.1e}",
        worst.get("blob", ""),
        "" if seconds is None else f"{seconds:.1f}",
        document["error"] or "; ".join(document.get("warnings", [])),
    ]


def line(cells: list[str]) -> str:
    """A row of the table; a model's names may hold anything."""
    plain = (html.escape(" ".join(cell.split()), quote=False) for cell in cells)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in plain) + " |"


def main() -> None:
    print(line(list(COLUMNS)))
    print("|" + " --- |" * len(COLUMNS))
    for name in sys.argv[1:]:
        print(line(row(Path(name))))


if __name__ == "__main__":
    main()
