"""net.h5 through pipes: what comes on stdin is to be whole, and stdout carries nothing else."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas import streams
from schemas.errors import EnvironmentProblem, MalformedModel, UsageError
from tests.paths import ROOT

LENGTH = 3 << 20
HEAD = streams.SIGNATURE + bytes(32) + LENGTH.to_bytes(8, "little")
WHOLE = (HEAD + bytes(range(256)) * (LENGTH // 256))[:LENGTH]


def received(content, folder, monkeypatch):
    stdin = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    streams.receive(folder / "net.h5")
    return (folder / "net.h5").read_bytes()


@pytest.mark.parametrize(
    "content",
    [WHOLE, WHOLE + b"more", streams.SIGNATURE + b"\2" + bytes(100)],
    ids=["whole", "user-data-after-it", "another-superblock"],
)
def test_what_comes_is_written(content, tmp_path, monkeypatch):
    assert received(content, tmp_path, monkeypatch) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "stdin: net.h5 was expected, nothing came"),
        (b"\x89HD", "stdin: net.h5 was expected, something else came"),
        (b"Traceback", "stdin: net.h5 was expected, something else came"),
        (HEAD[:20], "stdin: net.h5 was cut off: 20 of 48 bytes came"),
        (HEAD, "stdin: net.h5 was cut off: 48 of 3,145,728 bytes came"),
        (WHOLE[:-1], "stdin: net.h5 was cut off: 3,145,727 of 3,145,728 bytes came"),
    ],
    ids=["nothing", "half-a-signature", "text", "half-a-head", "a-head", "a-byte-less"],
)
def test_what_is_refused(content, message, tmp_path, monkeypatch):
    with pytest.raises(MalformedModel) as refused:
        received(content, tmp_path, monkeypatch)
    assert str(refused.value).startswith(message)


def test_a_terminal_is_refused(tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UsageError, match="a terminal or closed"):
            streams.receive(tmp_path / "net.h5")
    os.close(ours)
    assert list(tmp_path.iterdir()) == []


def test_no_stdin_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="a terminal or closed"):
        streams.receive(tmp_path / "net.h5")


def test_a_stream_that_would_fill_the_disk(tmp_path, monkeypatch):
    free = iter([1 << 30, streams.KEEP_FREE])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(EnvironmentProblem, match="fills the disk"):
        received(WHOLE, tmp_path, monkeypatch)


# --- stage 1 to stdout ----------------------------------------------------------------------------

NET = (ROOT / "examples/digits/deploy.prototxt", ROOT / "examples/digits/digits.caffemodel")

NOISE = """
import os as _os, subprocess as _subprocess
print("printed by caffe")
_os.write(1, b"written by caffe\\n")
_subprocess.run(["echo", "echoed by caffe"], check=True)
"""


@pytest.fixture
def command(tmp_path):
    """Stage 1 as a command, temporary files in a folder of the test's."""
    (tmp_path / "tmp").mkdir()
    environment = dict(os.environ, TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(ROOT))
    environment.pop("USE_PYCAFFE", None)

    def command(*options, **changes):
        return subprocess.Popen(
            [sys.executable, "-m", "stage_extract", *map(str, NET), *options],
            cwd=str(tmp_path),
            env=dict(environment, **changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return command


def test_stdout_takes_what_a_file_does(command, tmp_path):
    assert command("-o", "net.h5").communicate() == (b"", b"")
    out, err = command("-o", "-").communicate()
    assert (out, err) == ((tmp_path / "net.h5").read_bytes(), b"")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_caffe_prints_goes_to_stderr(command, tmp_path):
    noisy = tmp_path / "noisy"
    shutil.copytree(str(ROOT / "tests" / "standin_caffe"), str(noisy))
    with open(str(noisy / "caffe" / "__init__.py"), "a") as module:
        module.write(NOISE)
    path = os.pathsep.join([str(noisy), str(ROOT)])
    options = ("--reader", "pycaffe")
    done = command("-o", "net.h5", *options, PYTHONPATH=path)
    assert b"written by caffe" in done.communicate()[0]  # into a file, nothing need be kept apart
    out, err = command("-o", "-", *options, PYTHONPATH=path).communicate()
    assert out == (tmp_path / "net.h5").read_bytes()
    for how in (b"printed", b"written", b"echoed"):
        assert how + b" by caffe" in err


def test_a_reader_that_goes_away(command, tmp_path):
    process = command("-o", "-")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failure_sends_nothing(command, tmp_path):
    process = command("-o", "-", "--outputs", "nowhere")
    out, err = process.communicate()
    assert (out, process.returncode) == (b"", 2)
    assert err.count(b"\n") == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_terminal_is_not_written_to(tmp_path):
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "stage_extract", *map(str, NET), "-o", "-"],
        cwd=str(ROOT),
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"which is a terminal or closed (redirect it)" in done.stderr


def test_a_closed_stdout():
    """As `>&-` makes it."""
    argv = [sys.executable, "-m", "stage_extract", *map(str, NET), "-o", "-"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *argv], cwd=str(ROOT), stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 2, done.stderr
    assert b"which is a terminal or closed (redirect it)" in done.stderr


def test_a_full_disk_behind_stdout():
    if not Path("/dev/full").exists():
        pytest.skip("not run: no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "stage_extract", *map(str, NET), "-o", "-"],
            cwd=str(ROOT),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 7
    assert done.stderr.startswith(b"error: stdout: no space left on device")
