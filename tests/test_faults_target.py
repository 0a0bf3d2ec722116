"""A run's target whatever happens: held by one run, replaced at once, left as it was by a failure.

With stages that act (`tests/fake_stage.py`); `tests/test_faults_disk.py` and
`tests/test_faults_kill.py` have real conversions.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from driver import lock
from driver.workspace import Workspace
from schemas.errors import EnvironmentProblem, UsageError
from tests.namespaces import in_namespace
from tests.rooms import listing, net, start, wait_for

MODEL = {"names.json": "{}", "report.json": "{}", "old": "old"}


def model(folder: str) -> Path:
    """A folder that passes for a converted model."""
    return filled(folder, MODEL)


def filled(folder: str, files: dict[str, str]) -> Path:
    Path(folder).mkdir(parents=True)
    for name, text in files.items():
        Path(folder, name).write_text(text)
    return Path(folder)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def mine():
    """`filled` with names like a run's; gone after the test, as somebody looks for such names."""
    made = []
    yield lambda folder, files: made.append(filled(folder, files))
    for folder in made:
        shutil.rmtree(folder)
    Path(".out.work").unlink(missing_ok=True)


# One run at a time


@pytest.fixture
def holder(room):
    """A run that works on `out` until it is told to go on; its process."""
    script = net("pid pid\nwait_for go\n---\n", "held.prototxt")
    with start(room.root, "convert", script, "-o", "out") as process:
        wait_for(room.here / "pid")
        yield process
        Path("go").write_text("")
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    "argv",
    [
        ("convert", "net.prototxt", "-o", "out"),
        ("convert", "net.prototxt", "-o", "./out", "--force"),
        ("extract", "net.prototxt", "-o", "out"),
        ("build", "net.prototxt", "-o", "../here/out"),
    ],
    ids=" ".join,
)
def test_a_second_run_into_a_target_says_who_holds_it(room, holder, call, argv):
    before = sorted(Path().rglob("*"))
    net("pid started\n---\npid started\n")
    done = call(*argv)
    assert done.code == EnvironmentProblem.exit_code
    assert done.err.count("\n") == 1
    who = f"process {holder.pid} on {socket.gethostname()} since 20"
    assert f"another run works on this target: {who}" in done.err
    assert "orchestrate convert held.prototxt -o out" in done.err
    assert sorted(Path().rglob("*")) == sorted([*before, Path("net.prototxt")])
    Path("go").write_text("")
    holder.communicate(timeout=60)
    assert holder.returncode == 0
    assert Path("out/names.json").exists()


def test_another_target_is_another_lock(room, holder, call):
    assert call("convert", net("---\n"), "-o", "other").code == 0


@pytest.mark.parametrize("here", [".", "../here"])
def test_a_batch_and_a_run_into_one_of_its_models(room, holder, call_json, here):
    Path("catalogue.toml").write_text('[[model]]\nname = "out"\nprototxt = "net.prototxt"\n')
    net("---\n")
    document = call_json("batch", "catalogue.toml", "-o", here)
    assert [model["exit_code"] for model in document["models"]] == [7]
    assert "another run works on this target" in document["models"][0]["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_lock_goes_with_the_run(room, call, number):
    script = net("pid pid\nsleep 60\n---\n", "held.prototxt")
    with start(room.root, "convert", script, "-o", "out") as process:
        worker = int(wait_for(room.here / "pid"))
        process.send_signal(number)
        process.communicate(timeout=60)
    if number == signal.SIGKILL:
        os.killpg(worker, signal.SIGKILL)
        assert ".out.work" in listing(room.here)
    assert call("convert", net("---\n"), "-o", "out").code == 0
    assert listing(room.here) == {"held.prototxt", "net.prototxt", "pid", "out"}


def test_two_runs_at_once_never_share_a_target(tmp_path):
    """Takers and leavers in one process, which flock keeps apart as it does two processes."""
    inside, seen = [], []

    def run():
        for _ in range(100):
            try:
                with Workspace(tmp_path / "new" / "out") as work:
                    inside.append(work)
                    seen.append(len(inside))
                    inside.remove(work)
            except EnvironmentProblem:
                seen.append(0)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 400
    assert max(seen) == 1
    # The maker of the parent may end while another is in it.
    assert listing(tmp_path) <= {"new"}
    assert not [*tmp_path.glob("new/*")]


def test_the_file_of_a_run_that_ended_in_between_is_no_lock(tmp_path, monkeypatch):
    """The holder leaves after its file was opened: that file is nobody's, another one is made."""
    first = Workspace(tmp_path / "out")
    first.__enter__()
    flock = fcntl.flock

    def ended_before(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(None, None, None)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", ended_before)
    with (
        Workspace(tmp_path / "out"),
        pytest.raises(EnvironmentProblem, match="another run"),
        Workspace(tmp_path / "out"),
    ):
        pytest.fail("both have it")


@pytest.mark.parametrize("text", ["", "[", "[" * 4096, "[1]", '"' + "x" * 9000, '{"pid": ['])
def test_a_note_that_says_nothing(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    with Workspace(tmp_path / "out"):
        (tmp_path / ".out.work" / "lock").write_text(text)
        with pytest.raises(EnvironmentProblem, match="it does not say which"):
            Workspace(tmp_path / "out").__enter__()
    assert listing(tmp_path) == set()


def test_a_note_is_bounded(tmp_path):
    with Workspace(tmp_path / "out"):
        note = {"pid": "p" * 500, "host": [1], "command": {"a": "c" * 2000}}
        (tmp_path / ".out.work" / "lock").write_text(json.dumps(note))
        with pytest.raises(EnvironmentProblem, match=r"on \[1\] since \?") as caught:
            Workspace(tmp_path / "out").__enter__()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", lock.NO_LOCKS, ids=lambda number: errno.errorcode[number])
def test_without_locks_runs_have_folders_of_their_own(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Workspace(tmp_path / "out") as first:
        with Workspace(tmp_path / "out") as second:
            assert first.folder != second.folder
        assert first.logs.is_dir()
    assert listing(tmp_path) == set()


def test_a_folder_that_no_run_made_is_left_alone(room, call, mine):
    mine(".out.work", {"thesis.txt": "mine"})
    done = call("convert", net("pid started\n---\n"), "-o", "out")
    assert done.code == UsageError.exit_code
    assert "no run has made this" in done.err
    assert files_of(Path(".out.work")) == {"thesis.txt": "mine"}
    assert listing(room.here) == {"net.prototxt", ".out.work"}


def test_a_link_in_place_of_the_folder_is_left_alone(room, call, mine):
    mine("mine", {"lock": "mine"})
    Path(".out.work").symlink_to("mine")
    assert call("convert", net("pid started\n---\n"), "-o", "out").code == UsageError.exit_code
    assert files_of(Path("mine")) == {"lock": "mine"}


# What dead runs left


def test_what_dead_runs_left_is_swept(room, call, mine):
    filled(".out.work", {"lock": '{"pid": 1}'})
    filled(".out.work/17-0123abcd/logs", {"extract.log": "half"})
    filled(".out.4711.partial", {"names.json": "half"})
    filled(".out.4712.partial", {"names.json": "half"})
    model(".out.4711.old")
    model("out")
    others = {".out.x.partial", ".other.4711.partial", ".out.4711.partial.mine", "out.4711.partial"}
    for name in others:
        mine(name, {"mine": "mine"})
    assert call("convert", net("---\n"), "-o", "out", "--force").code == 0
    assert listing(room.here) == {"net.prototxt", "out", *others}
    assert "old" not in listing(Path("out"))


def test_a_target_that_a_dead_run_had_moved_away_comes_back(room, call):
    model(".out.4711.old")
    filled(".out.4711.partial", {"names.json": "half"})
    done = call("convert", net("error MalformedModel bad\n---\n"), "-o", "out", "--force")
    assert done.code == 3
    assert listing(room.here) == {"net.prototxt", "out"}
    assert files_of(Path("out")) == MODEL


def test_a_file_s_target_is_swept_alike(room, call):
    filled(".net.h5.work/17-0123abcd", {"net.h5": "half"})
    assert call("extract", net("---\nbuilt\n"), "-o", "net.h5").code == 0
    assert listing(room.here) == {"net.prototxt", "net.h5"}
    assert Path("net.h5").read_text() == "built\n"


def test_a_file_that_appeared_meanwhile_is_not_replaced(room, call):
    done = call("extract", net("pid net.h5\n---\nnet\n"), "-o", "net.h5")
    assert done.code == UsageError.exit_code
    assert "this exists already" in done.err
    assert Path("net.h5").read_text().isdigit()
    assert listing(room.here) == {"net.prototxt", "net.h5"}


# Failures that are over


def test_a_success_removes_what_a_failed_run_left(room, call):
    assert call("convert", net("fault oops\n---\n"), "-o", "out").code == 6
    assert listing(room.here) == {"net.prototxt", "out.failed"}
    assert call("convert", net("error MalformedModel bad\n---\n"), "-o", "out").code == 3
    assert listing(room.here) == {"net.prototxt", "out.failed"}
    assert call("convert", net("---\n"), "-o", "out").code == 0
    assert listing(room.here) == {"net.prototxt", "out"}


@pytest.mark.parametrize("fails", [False, True], ids=["success", "crash"])
def test_a_folder_that_no_failed_run_left_stays(room, call, fails):
    filled("out.failed", {"thesis.txt": "mine"})
    script = "fault oops\n---\n" if fails else "---\n"
    done = call("convert", net(script), "-o", "out")
    assert done.code == (6 if fails else 0)
    assert files_of(Path("out.failed")) == {"thesis.txt": "mine"}
    assert "logs and report" not in done.err


def test_a_crash_replaces_what_an_earlier_one_left(room, call):
    filled("out.failed", {"report.json": "{}", "older": ""})
    assert call("convert", net("print new\nfault oops\n---\n"), "-o", "out").code == 6
    assert listing(Path("out.failed")) == {"report.json", "logs"}
    assert listing(room.here) == {"net.prototxt", "out.failed"}


# Targets and folders that cannot be written


@pytest.mark.parametrize(
    "argv",
    [
        ("convert", "net.prototxt", "-o", "ro/out"),
        ("convert", "net.prototxt", "-o", "ro/model", "--force"),
        ("convert", "net.prototxt", "-o", "ro/new/out"),
        ("extract", "net.prototxt", "-o", "ro/net.h5"),
        ("build", "net.prototxt", "-o", "ro/model", "--force"),
        ("batch", "catalogue.toml", "-o", "ro/batch"),
    ],
    ids=" ".join,
)
def test_a_read_only_folder(room, argv):
    net("---\n")
    Path("catalogue.toml").write_text('[[model]]\nname = "a"\nprototxt = "net.prototxt"\n')
    model("ro/model")
    script = 'mount --bind ro ro && mount -o remount,bind,ro ro && exec "$@"'
    command = [sys.executable, room.root / "orchestrate.py", *argv]
    done = in_namespace("sh", "-c", script, "sh", *command)
    assert done.returncode == EnvironmentProblem.exit_code, done.stderr
    assert done.stderr.startswith("error: ro/") and done.stderr.count("\n") == 1
    assert "read-only file system" in done.stderr
    assert listing(Path("ro")) == {"model"}
    assert files_of(Path("ro/model")) == MODEL


def test_a_folder_that_is_not_ours_to_write(tmp_path):
    """As the superuser, to whom everything is, we become somebody else for a moment."""
    theirs = filled(str(tmp_path / "theirs" / "out"), MODEL).parent
    theirs.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            for path in (tmp_path, *tmp_path.parents):
                if not path.stat().st_mode & 0o001:
                    path.chmod(path.stat().st_mode | 0o001)
            os.seteuid(65534)
        with pytest.raises(EnvironmentProblem, match="permission denied"):
            Workspace(theirs / "out").__enter__()
    finally:
        os.seteuid(user)
        theirs.chmod(0o755)
    assert files_of(theirs / "out") == MODEL
    assert listing(theirs) == {"out"}


def test_an_unwritable_temporary_folder_is_told_by_what_needs_it(room, call, monkeypatch):
    net("---\n")
    assert call("convert", "net.prototxt", "-o", "out").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(room.tmp / "no" / "such"))
        found = [call("verify", "out"), call("inspect", "net.prototxt")]
        assert call("convert", "net.prototxt", "-o", "other").code == 0, (
            "it works beside its target"
        )
    for done in found:
        assert done.code == EnvironmentProblem.exit_code
        assert "no folder for temporary files can be written" in done.err
        assert done.err.count("\n") == 1


# Clean parents


@pytest.mark.parametrize("act", ["error MalformedModel bad\n", ""], ids=["failure", "success"])
def test_parents_that_were_made_go_unless_they_are_needed(room, call, act):
    Path("there").mkdir()
    done = call("convert", net(act + "---\n"), "-o", "there/a/b/out")
    assert done.code == (3 if act else 0)
    assert listing(Path("there")) == (set() if act else {"a"})
    if not act:
        assert listing(Path("there/a/b")) == {"out"}


def test_what_the_driver_cannot_write_is_told_with_its_place(room, call, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("driver.pipeline.convert_in", full)
    done = call("convert", net("---\n"), "-o", "new/out")
    assert done.code == EnvironmentProblem.exit_code
    assert done.err == "error: new: no space left on device (check permissions and free space)\n"
    assert listing(room.here) == {"net.prototxt"}


@pytest.mark.parametrize("function", ["open", "pwrite"])
def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, function):
    """As on a disk that is full."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        Workspace(tmp_path / "new" / "out").__enter__()
    monkeypatch.undo()
    assert listing(tmp_path) == set()
