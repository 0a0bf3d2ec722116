"""What a test session leaves behind: processes, temporary files, work folders. Any fails it.

Every process that a session starts, and every one that those start, carries the session's token in
its environment. Temporary files go to a folder of the session's own; what pytest keeps for those
who debug lies elsewhere. Sessions may run side by side, and within one another.

A plug-in of pytest's: `tests/conftest.py` has it, and ``-p tests.left_behind`` gives it to others.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

TOKENS = "ORCHESTRATE_TESTS"
"""The environment variable with the tokens of a session and those that it runs in."""

PATIENCE = 10.0
"""Seconds in which what was told to end may end."""

WORK = re.compile(r"\..+\.(work|partial|old|lock)")
"""The names of the folders and files that a run works in."""

OTHERS = ("__autograph_generated_file",)
"""Files that libraries in pytest's own process remove only as it exits."""

TRACKER = b"multiprocessing.resource_tracker"
"""Python's own helper, which ends when the process that it watches does: ours is still there."""

ELSEWHERE = (".git", ".venv", ".venvs", "out")
"""Folders of the repository in which no test works: `out` is for people."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist, looked at from its session
        config.pluginmanager.register(Look())


class Look:
    """Prepares a session's surroundings, and looks at them when it is over."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.token = uuid.uuid4().hex
        # Children only: /proc tells the environment that a process was started with.
        os.environ[TOKENS] = f"{os.environ.get(TOKENS, '')} {self.token}".strip()
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        self.temporary = Path(tempfile.mkdtemp(prefix="orchestrate-tests-"))
        # Registered first, so called last.
        atexit.register(shutil.rmtree, self.temporary, ignore_errors=True)
        os.environ["TMPDIR"] = str(self.temporary)
        tempfile.tempdir = None
        self.known = set(works(ROOT))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        base = session.config._tmp_path_factory.getbasetemp()
        processes = lasting(self.token)
        self.found = [f"process {pid}: {command}" for pid, command in processes.items()]
        self.found += [f"temporary: {told(path)}" for path in temporary(self.temporary)]
        self.found += [f"work: {path}" for path in works(base)]
        self.found += [f"work: {path}" for path in works(ROOT) if path not in self.known]
        if self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not Path("/proc/self/environ").is_file():
            terminalreporter.write_line("left behind: processes not looked at (no /proc)")
        for each in self.found:
            terminalreporter.write_line(f"LEFT BEHIND: {each}", red=True)


def lasting(token: str) -> dict[int, str]:
    """The processes of a session that do not end: number -> command line."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = dict(processes(token))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def processes(token: str) -> Iterator[tuple[int, str]]:
    """The processes started with `token` in their environment; none where there is no /proc."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
                if TRACKER in command and parent == os.getpid():
                    continue
                yield int(folder.name), command.decode("utf-8", "replace")[:200].strip()
        except OSError:  # not ours, or over
            continue


def temporary(folder: Path) -> list[Path]:
    """The temporary files in `folder` but those of libraries."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(OTHERS))


def told(path: Path) -> str:
    """A path, and what it holds: whoever left it is found by that."""
    if path.is_dir():
        return f"{path}, with {sorted(each.name for each in path.iterdir())}"
    return f"{path}, {path.lstat().st_size} bytes"


def works(folder: Path) -> Iterator[Path]:
    """What runs have left in `folder` where they worked."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if WORK.fullmatch(name):
                yield Path(parent, name)
        folders[:] = [name for name in folders if not WORK.fullmatch(name)]
        if Path(parent) == ROOT:
            folders[:] = [name for name in folders if name not in ELSEWHERE]
