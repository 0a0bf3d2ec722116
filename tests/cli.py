"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def orchestrate(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """``python orchestrate.py ...``, its output caught."""
    command = [sys.executable, str(ROOT / "orchestrate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def _toml(value: object) -> str:
    """A catalogue's value; what is no number, no boolean and no list is text."""
    return json.dumps(value if isinstance(value, (bool, float, list)) else str(value))


def run_batch(models: list[dict], folder: Path) -> dict[str, dict]:
    """Converts `models` (catalogue entries) into `folder` with one batch; name -> its result."""
    catalogue = folder / "catalogue.toml"
    lines = []
    for model in models:
        values = {key: _toml(value) for key, value in model.items()}
        lines += ["[[model]]", *(f"{key} = {value}" for key, value in values.items())]
    catalogue.write_text("\n".join(lines) + "\n", "utf-8")
    done = orchestrate("batch", catalogue, "-o", folder / "out", "--jobs", 2, "--json")
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)["models"]
    assert [result["name"] for result in results] == [model["name"] for model in models]
    return {result["name"]: result for result in results}
