"""A room for the driver: fake stages that act out what a net says, and calls of commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.paths import ROOT


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A root folder with fake stages, and an empty folder to work in."""
    root = tmp_path / "root"
    for stage in ("stage_extract", "stage_build"):
        (root / stage).mkdir(parents=True)
        (root / stage / "__init__.py").write_text("")
        shutil.copy(ROOT / "tests" / "fake_stage.py", root / stage / "__main__.py")
    for name in ("driver", "schemas"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "orchestrate.py", root)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    from driver import worker

    monkeypatch.setattr(worker, "ROOT", root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return SimpleNamespace(root=root, here=here, tmp=tmp_path / "tmp")


@pytest.fixture
def call(capfd):
    """Runs a command in this process: exit code, stdout, stderr."""

    import orchestrate  # not where stage 1 is tested alone

    def call(*argv):
        with pytest.raises(SystemExit) as stopped:
            orchestrate.main([str(argument) for argument in argv])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=stopped.value.code, out=out, err=err)

    return call


@pytest.fixture
def call_json(call):
    """Runs a command with --json; checks what every document must hold."""

    def call_json(*argv):
        done = call(argv[0], "--json", *argv[1:])
        assert done.err == ""
        document = json.loads(done.out, parse_constant=pytest.fail)
        assert done.out.count("\n") == 1
        assert document["exit_code"] == done.code
        assert document["status"] == ("failed" if done.code else "ok")
        assert bool(document["error"]) == bool(done.code)
        assert {"out", "worst"} <= set(document)
        return document

    return call_json


def net(text: str, name: str = "net.prototxt") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start(root: Path, *argv: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(root / "orchestrate.py"), *map(str, argv)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Waits for a state; `what` is said where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_for(path: Path) -> str:
    until(lambda: path.exists() and path.read_text(), f"{path.name} did not appear")
    return path.read_text()


def in_time(seconds: Callable[[], float], most: float = 2.5) -> None:
    """Requires that what takes some `seconds` takes no more than it may.

    On a machine that is busy with other things as well, one of three times will do.
    """
    took: list[float] = []
    while not took or took[-1] > most:
        assert len(took) < 3, f"it took {took} seconds"
        took.append(seconds())


@pytest.fixture
def late(monkeypatch):
    """Has every deadline of a job pass, soon after what is asked for has become true."""

    def late(condition: Callable[[], object]) -> None:
        past = [0.0]

        def clock() -> float:
            past[0] += 1000 if condition() else 0
            return time.monotonic() + past[0]

        monkeypatch.setattr("driver.job.time", SimpleNamespace(monotonic=clock))

    return late


def alive(number: int) -> bool:
    """Whether a process exists that is more than an entry nobody has collected."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{number}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def require_gone(numbers: Iterable[int], seconds: float = 20) -> None:
    """Requires that processes end, which a kill of what is not our own child does not wait for.

    They must be of those that would live longer than these `seconds`.
    """
    pids = list(numbers)
    until(lambda: not any(map(alive, pids)), f"of {pids} some are left", seconds)


def python_of(version: str) -> str:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} in {root}")
    return str(found[-1])


def make_target(kind: str, out: str = "out") -> None:
    """Something that is there already: a file, a link, an empty or a filled folder, a model."""
    if kind == "file":
        Path(out).write_text("mine")
    elif kind == "link":
        Path(out).symlink_to("nowhere")
    else:
        Path(out).mkdir()
        if kind == "model":
            Path(out, "names.json").write_text("{}")
            Path(out, "old").write_text("")
        elif kind == "folder":
            Path(out, "mine").write_text("")
