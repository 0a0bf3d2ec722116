"""A disk that is full, or fills up while a model is converted; and a limit on the size of files.

Real conversions of examples/digits over an earlier result, which must stay byte for byte.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import filling_disk
from tests.namespaces import in_namespace
from tests.paths import ROOT

DIGITS = ROOT / "examples" / "digits"
INPUTS = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
FULL = 7
ALL = "class,keras,saved_model,tflite,pb"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A folder with an earlier result, and a net.h5."""
    folder = tmp_path_factory.mktemp("earlier")
    done = run("extract", *INPUTS, "-o", folder / "net.h5")
    assert done.returncode == 0, done.stderr
    model = folder / "out"
    model.mkdir()
    for name in ("names.json", "report.json", "model.keras"):
        (model / name).write_text(f'{{"of": "the earlier {name}"}}')
    return folder


@pytest.fixture
def disk(earlier, tmp_path):
    """A copy of it."""
    return shutil.copytree(earlier, tmp_path / "disk")


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "orchestrate.py"), *map(str, arguments), "--quiet"]


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=300, **options
    )


def on_disk(disk: Path, size: str, pattern: str, left: int, *arguments: object) -> dict:
    """What `filling_disk` tells of a command of ours."""
    script = (sys.executable, filling_disk.__file__, disk, size, pattern, left)
    done = in_namespace(*script, *command(*arguments))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def require_one_line(said: str) -> None:
    """One line of an error; where the worker printed something, its last words."""
    first, *more = said.splitlines()
    assert first.startswith("error: "), said
    assert all(line.startswith(("  | ", "logs and report: ")) for line in more), said


def require_nothing_but(files: dict[str, str], earlier: Path) -> None:
    """The earlier result byte for byte, and nothing of ours but what OUT.failed says."""
    ours = {name: digest for name, digest in files.items() if not name.startswith("out.failed/")}
    assert ours == filling_disk.manifest(earlier)
    if len(files) > len(ours):
        assert "out.failed/report.json" in files


CONVERT = ("convert", *INPUTS, "--force")


@pytest.mark.parametrize(
    "argv",
    [CONVERT, ("build", "{disk}/net.h5", "--force")],
    ids=lambda argv: argv[0],
)
def test_a_disk_that_is_full_already(disk, earlier, argv):
    argv = [str(argument).format(disk=disk) for argument in argv]
    found = on_disk(disk, "8m", "", 0, *argv, "-o", disk / "out")
    assert found["code"] == FULL
    assert "are needed" in found["said"]
    require_one_line(found["said"])
    require_nothing_but(found["files"], earlier)


@pytest.mark.parametrize(
    ("pattern", "left", "expected"),
    [
        (".out.work/*/logs/extract.log", 64 * 1024, "bytes are needed"),
        (".out.work/*/net.h5", 1024 * 1024, "bytes are needed"),
        (".out.*.partial", 0, "no space left on device"),
        (".out.*.partial/weights.npz", 0, "no space left on device"),
        (".out.*.partial/saved_model", 0, "no space left on device"),
        (".out.*.partial/saved_model/variables", 8192, "no space left on device"),
        (".out.*.partial/saved_model/saved_model.pb", 0, "no space left on device"),
        (".out.*.partial/model.tflite", 0, "no space left on device"),
        (".out.*.partial/model.pb", 0, "no space left on device"),
        (".out.*.partial/model.keras", 0, "no space left on device"),
        (".out.*.partial/report.json", 0, "no space left on device"),
    ],
    ids=lambda value: str(value).replace("/", ":"),
)
@pytest.mark.slow
def test_a_disk_that_fills_up(disk, earlier, pattern, left, expected):
    """Just after something of the run has appeared; one that is over by then is run again."""
    for _ in range(3):
        found = on_disk(disk, "120m", pattern, left, *CONVERT, "-o", disk / "out", "--formats", ALL)
        if found["code"]:
            break
    assert found["filled"]
    assert found["code"] == FULL, found["said"]
    assert expected in found["said"]
    require_one_line(found["said"])
    require_nothing_but(found["files"], earlier)


@pytest.mark.parametrize(
    ("limit", "argv"),
    [
        (50_000, ("extract", *INPUTS, "-o", "{disk}/new.h5")),
        (50_000, CONVERT),
        pytest.param(20_000, ("build", "{disk}/net.h5", "--force"), marks=pytest.mark.slow),
        (80_000, ("build", "{disk}/net.h5", "--force", "--formats", "class")),
        pytest.param(95_000, CONVERT, marks=pytest.mark.slow),
    ],
    ids=["extract", "convert", "class", "net.h5", "model.keras"],
)
def test_a_limit_on_the_size_of_files(disk, earlier, limit, argv):
    """What is asked of every system: no mount is needed for it."""
    argv = [str(argument).format(disk=disk) for argument in argv]
    if "-o" not in argv:
        argv += ["-o", str(disk / "out")]
    done = run(*argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == FULL, done.stderr
    assert "file too large" in done.stderr
    require_one_line(done.stderr)
    require_nothing_but(filling_disk.manifest(disk), earlier)
