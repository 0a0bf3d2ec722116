"""The look at what a session leaves behind finds each kind, and fails the session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.paths import ROOT

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").is_file(), reason="not run: no /proc"
)
TIDY = """
from multiprocessing import resource_tracker

def test(tmp_path):
    resource_tracker.ensure_running()
"""
STRAY = '''
import subprocess, sys

def test():
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = f"""if True:
        import subprocess
        process = subprocess.Popen({sleeper!r}, start_new_session=True)
        open("stray", "w").write(str(process.pid))
    """
    subprocess.run([sys.executable, "-c", start], stdout=subprocess.DEVNULL, check=True)
'''
TEMPORARY = """
import subprocess, sys, tempfile

def test():
    tempfile.mkdtemp(prefix="orchestrate-")
    code = "import tempfile; tempfile.mkstemp(prefix='tmp-')"
    subprocess.run([sys.executable, "-c", code], check=True)
"""
NAMES = [".out.work", ".out.4711.work", ".out.4711.partial", ".out.4711.old", ".out.lock"]
WORK = f"""
def test(tmp_path):
    for name in {NAMES}:
        (tmp_path / "deep" / name).mkdir(parents=True)
"""


@pytest.fixture
def session(tmp_path):
    """Runs a session of its own with one test: exit code and output."""

    def run(text, *options):
        (tmp_path / "test_inner.py").write_text(textwrap.dedent(text))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-p", "tests.left_behind", "--basetemp", tmp_path / "base", *options]
        ran = subprocess.run(
            command,
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout

    yield run
    for path in (tmp_path / "base").rglob(".out.*"):
        path.rmdir()


def test_nothing_is_found_after_a_tidy_session(session):
    code, out = session(TIDY)
    assert code == 0 and "LEFT BEHIND" not in out


@needs_proc
def test_a_stray_process_is_found(session, tmp_path):
    """One that has lost its parent, and left its session."""
    code, out = session(STRAY)
    number = int((tmp_path / "stray").read_text())
    os.kill(number, signal.SIGKILL)
    assert code == 1
    assert f"LEFT BEHIND: process {number}: {sys.executable} -c import time" in out
    assert "1 passed" in out


def found(out, kind):
    """The paths of a kind that a session has named."""
    start = f"LEFT BEHIND: {kind}: "
    return [Path(line[len(start) :]) for line in out.splitlines() if line.startswith(start)]


def test_temporary_files_are_found(session):
    """The test's own and those of its children."""
    code, out = session(TEMPORARY)
    assert code == 1
    own, childs = found(out, "temporary")
    assert own.name.startswith("orchestrate-") and childs.name.startswith("tmp-")
    assert not own.parent.exists()


def test_work_folders_are_found(session, tmp_path):
    code, out = session(WORK)
    assert code == 1
    deep = tmp_path / "base" / "test0" / "deep"
    assert sorted(found(out, "work")) == sorted(deep / name for name in NAMES)


def test_a_failure_stays_one(session):
    code, out = session("def test():\n    assert False\n")
    assert code == 1 and "LEFT BEHIND" not in out


@needs_proc
def test_sessions_side_by_side_look_at_their_own(session, tmp_path):
    """This one has a process running meanwhile, and temporary files."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        code, out = session(TIDY)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert (code, "LEFT BEHIND" in out) == (0, False)
