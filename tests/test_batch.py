"""Many models in one run, against stages that act out success, failure and crash."""

from __future__ import annotations

import errno
import fcntl
import inspect
import io
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

import orchestrate
from driver import interrupts
from driver.batch import _Progress
from driver.board import Board, Lane
from driver.catalogue import OPTIONS, _value, read_catalogue
from driver.display import Display, console, grid
from driver.options import Options
from schemas.errors import UsageError
from tests.rooms import (
    alive,
    in_time,
    listing,
    make_target,
    net,
    require_gone,
    start,
    until,
    wait_for,
)


def catalogue(*names: str) -> str:
    """A file of nets that are called as their models."""
    return net(catalogue_text(*names), "c.toml")


def catalogue_text(*names: str) -> str:
    return "".join(f"[[model]]\nname = '{name}'\nprototxt = '{name}'\n" for name in names)


def test_batch(room, call, call_json):
    models = Path("models")
    models.mkdir()
    worst = 'fields {"worst": {"blob": "b|", "error": %s}}\n'
    net("warning w1\n---\npid build1\n" + worst % 1e-7, "models/good")
    net("error MalformedModel bad | net\n---\n", "models/bad")
    net("---\npid build2\nprint dying\nsignal SIGKILL\n", "models/crash")
    net("---\npid build3\n" + worst % 3e-7, "models/late")
    net("---\n", "models/shaped")
    catalogue = "".join(
        f'[[model]]\nname = "{name}"\nprototxt = "{name}"\n'
        for name in ("good", "bad", "crash", "late", "shaped")
    )
    catalogue += 'input-shape = ["data=1,2,3,4"]\nstage = "a"\nphase = "TRAIN"\ntolerance = 1\n'
    catalogue += 'keep-losses = true\ndialect = ["ssd", "bvlc"]\n'
    catalogue += "ignore-unknown = true\nallow-missing = true\n"
    catalogue += 'mean = ["a=mean.npy", "1.5, -2e1", "b=3"]\n'
    catalogue += 'preprocess = ["vgg16", "a=in.toml"]\nlabels = "names.txt"\n'
    catalogue += 'formats = ["class", "tflite"]\nquantize = "int8"\ncalibration = "images"\n'
    catalogue += 'precision = "bfloat16"\n'
    catalogue += 'swap-rgb = true\ninput-layout = "nchw"\nbake-normalization = true\n'
    net(catalogue, "models/c.toml")
    document = call_json("batch", "models/c.toml", "-o", "out", "--formats", "class")
    assert document["exit_code"] == 6
    assert document["error"] == "2 of 5 models failed"
    assert document["worst"] == {"blob": "b|", "error": 3e-7}
    got = {model["name"]: model for model in document["models"]}
    assert [model["exit_code"] for model in got.values()] == [0, 3, 6, 0, 0]
    assert got["good"]["warnings"] == ["w1"] and got["late"]["warnings"] == []
    assert got["crash"]["log"] == ["dying"]
    assert {
        "--input-shape=data=1,2,3,4",
        "--stage=a",
        "--phase=TRAIN",
        "--keep-losses",
        "--ignore-unknown",
        "--allow-missing",
        "--mean=a=models/mean.npy",
        "--mean=1.5, -2e1",
        "--mean=b=3",
        "--preprocess=vgg16",
        "--preprocess=a=models/in.toml",
        "--labels=models/names.txt",
        "--dialect=ssd",
        "--dialect=bvlc",
    } < set(got["shaped"]["stages"]["extract"]["argv"])
    assert {
        "--formats=class,tflite",
        "--tolerance=1.0",
        "--quantize=int8",
        "--precision=bfloat16",
        "--calibration=models/images",
        "--swap-rgb",
        "--input-layout=nchw",
        "--bake-normalization",
    } < set(got["shaped"]["stages"]["build"]["argv"])
    first, second, third = (Path(f"build{i}").read_text() for i in (1, 2, 3))
    assert first == second != third, "one worker until it dies, then a fresh one"
    assert listing(Path("out")) == {
        *("good", "late", "shaped", "crash.failed"),
        *("summary.json", "summary.md", "summary.html"),
    }
    assert Path("out/crash.failed/logs/build.log").read_text() == "dying\n"
    summary = Path("out/summary.md").read_text().splitlines()
    assert summary[0] == "# 3 of 5 models converted and verified"
    assert summary[4].startswith("| good | ok | 1.0e-07 | b\\| | ")
    assert "bad \\| net" in summary[5]
    assert json.loads(Path("out/summary.json").read_text())["models"] == document["models"]


def test_a_line_a_model(room, call):
    net("warning odd\n---\n", "a"), net("error MalformedModel bad | net\n---\n", "b")
    done = call("batch", catalogue("a", "b"), "-o", "out")
    assert done.code == 3
    assert "1 of 2 models" in done.out
    said = done.err.splitlines()
    assert said[0] == "warning: a: odd"
    assert said[1].startswith("batch: 1/2 a: ok, ")
    assert said[2].startswith("batch: 2/2 b: failed, ")
    assert said[3].startswith("error: b: extract: layer 'conv1' (Convolution): bad | net")
    assert said[4:] == ["error: 1 of 2 models failed"]


def test_a_terminal_of_few_lines_shows_how_far_the_batch_is(room):
    """Models that have ended give way."""
    for number in range(12):
        net("---\nwait_for go\n" if number == 11 else "---\n", f"m{number}")
    argv = ("batch", catalogue(*(f"m{number}" for number in range(12))), "-o", "out", "-j", "2")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 60, 0, 0))
    command = [sys.executable, str(room.root / "orchestrate.py"), *argv]
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=env) as process:
        os.close(slave)
        shown = b""
        while b"11/12" not in shown and (said := _read(master)):
            shown += said
        Path("go").write_text("")
        while _read(master):
            pass
    os.close(master)
    assert process.returncode == 0
    assert b"11/12" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so that nobody is left on the other side
        return b""


def test_jobs_run_side_by_side(room, call_json):
    net("pid first\nwait_for second\n---\n", "a"), net("pid second\nwait_for first\n---\n", "b")
    net("pid third\n---\n", "c")
    document = call_json("batch", catalogue("a", "b", "c"), "-o", "out", "--jobs", 2)
    assert [model["name"] for model in document["models"]] == ["a", "b", "c"]
    assert [model["exit_code"] for model in document["models"]] == [0, 0, 0]
    first, second, third = (Path(name).read_text() for name in ("first", "second", "third"))
    assert first != second
    assert third in (first, second), "whichever lane is free takes the next model"


def test_a_crash_costs_one_model_of_its_lane(room, call_json):
    net("pid before\n---\n", "a"), net("signal SIGSEGV\n---\n", "b")
    net("pid after\n---\n", "c")
    document = call_json("batch", catalogue("a", "b", "c"), "-o", "out")
    assert [model["exit_code"] for model in document["models"]] == [0, 6, 0]
    assert Path("before").read_text() != Path("after").read_text()


def test_a_second_run_redoes_what_failed_or_changed(room, call, call_json):
    names = ("same", "weights", "option", "failed", "gone")
    for name in names:
        net(f'note ran-{name}\nwarning odd\nfields {{"notes": ["odd"]}}\n---\n', name)
    net("error MalformedModel bad\n---\n", "failed")
    net("w", "w.caffemodel")
    text = catalogue_text(*names).replace(
        "prototxt = 'weights'\n", "prototxt = 'weights'\nweights = 'w.caffemodel'\n"
    )
    first = call_json("batch", net(text, "c.toml"), "-o", "out")
    assert [model["exit_code"] for model in first["models"]] == [0, 0, 0, 3, 0]
    net("changed", "w.caffemodel"), net("note ran-failed\n---\n", "failed")
    net(text.replace("prototxt = 'option'\n", "prototxt = 'option'\nphase = 'TRAIN'\n"), "c.toml")
    shutil.rmtree("out/gone")
    second = call_json("batch", "c.toml", "-o", "out")
    got = {model["name"]: model for model in second["models"]}
    assert [name for name in got if got[name].get("unchanged")] == ["same"]
    assert second["exit_code"] == 0
    ran = {name: len(Path(f"ran-{name}").read_text().split()) for name in names}
    assert ran == {"same": 1, "weights": 2, "option": 2, "failed": 1, "gone": 2}
    assert got["same"]["warnings"] == first["models"][0]["warnings"] == ["odd"]
    summary = Path("out/summary.md").read_text().splitlines()
    assert summary[0] == "# 5 of 5 models converted and verified, 1 of them unchanged"
    assert summary[4].startswith("| same | unchanged | ")
    done = call("batch", "c.toml", "-o", "out")
    assert done.code == 0 and "5 of them unchanged" in done.out
    done = call("batch", "c.toml", "-o", "out", "--force")
    assert done.code == 0 and "unchanged" not in done.out
    assert Path("ran-same").read_text() == "extract\n", "its net.h5 is still good"
    done = call("batch", "c.toml", "-o", "out", "--no-cache")
    assert done.code == 0 and Path("ran-same").read_text() == "extract\n" * 2


@pytest.mark.parametrize("kind", ["file", "folder", "model"])
def test_what_no_batch_has_made_is_not_replaced(room, call, kind):
    net("---\n", "a")
    Path("out").mkdir()
    make_target(kind, "out/a")
    done = call("batch", catalogue("a"), "-o", "out")
    assert done.code == 2 and "out/a" in done.err
    assert listing(Path("out")) == {"a"}
    done = call("batch", "c.toml", "-o", "out", "--force")
    assert done.code == (0 if kind == "model" else 2)


@pytest.mark.parametrize("jobs", ["0", "1000"])
def test_a_number_of_jobs_that_nobody_means(room, call, jobs):
    net("---\n", "a")
    done = call("batch", catalogue("a"), "-o", "out", "--jobs", jobs)
    assert done.code == 2 and "--jobs must be between" in done.err


NAMES = ["plain", "a b#?%25.x", "<img src=x onerror=alert(1)>", "'\"&| \u00e9"]


def test_names_are_text_in_the_page(room, call_json):
    net("---\n", "good"), net("error MalformedModel <script>1</script>\n---\n", "bad")
    text = "".join(
        f"[[model]]\nname = {json.dumps(name)}\nprototxt = 'good'\n"
        f"[[model]]\nname = {json.dumps(name + '2')}\nprototxt = 'bad'\n"
        for name in NAMES
    )
    document = call_json("batch", net(text, "c.toml"), "-o", "out")
    found = _Links()
    found.feed(Path("out/summary.html").read_text())
    assert found.tags.isdisjoint({"script", "img"})
    assert found.texts == NAMES
    for link, name in zip(found.links, NAMES, strict=True):
        assert urllib.parse.unquote(link) == f"{name}/report.json"
        assert (Path("out") / urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file()
    assert document["total"] == 8


class _Links(HTMLParser):
    """The tags of a page, its links and what they are called."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.texts, self._in_link = set(), [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self._in_link = tag == "a"
        if self._in_link:
            self.links.append(dict(attributes)["href"])
            self.texts.append("")

    def handle_endtag(self, tag):
        self._in_link = self._in_link and tag != "a"

    def handle_data(self, data):
        if self._in_link:
            self.texts[-1] += data


def test_a_missing_file_fails_its_model_only(room, call_json):
    net("---\n", "a")
    net('[[model]]\nname="x"\nprototxt="no"\n[[model]]\nname="y"\nprototxt="a"\n', "c.toml")
    document = call_json("batch", "c.toml", "-o", "out")
    assert [model["exit_code"] for model in document["models"]] == [2, 0]


@pytest.mark.parametrize(
    "text, code, expected",
    [
        ("[[model]", 3, "not TOML"),
        ("\ufeff\x00", 3, "not TOML"),
        ("", 2, "[[model]] entries"),
        ("model = 3", 2, "[[model]] entries"),
        ("model = [3]", 2, "a table"),
        ("[[model]]\nname='a'", 2, "'prototxt' is missing"),
        ("[[model]]\nprototxt='a'", 2, "'name' is missing"),
        ("[[model]]\nname='../a'\nprototxt='a'", 2, "name a folder"),
        ("[[model]]\nname='.a'\nprototxt='a'", 2, "name a folder"),
        ("[[model]]\nname='summary.md'\nprototxt='a'", 2, "batch writes"),
        ("[[model]]\nname='a'\nprototxt=3", 2, "'prototxt' takes a text, not 3"),
        ("[[model]]\nname='a'\nprototxt='a'\nlevel=true", 2, "takes an integer"),
        ("[[model]]\nname='a'\nprototxt='a'\nkeep_losses=1", 2, "true or false, not 1"),
        ("[[model]]\nname='a'\nprototxt='a'\ndialect=1", 2, "'dialect' takes a text, not 1"),
        ("[[model]]\nname='a'\nprototxt='a'\nbogus=1", 2, "'bogus' is no option"),
        ("[[model]]\nname='a'\nprototxt='a'\nstage=\"\\u0000\"", 2, "null"),
        ("[[model]]\nname='a'\nprototxt='a'\nphase='x'", 2, "--phase must be"),
        ("[[model]]\nname='a'\nprototxt='a'\nbuild-python='x'", 2, "to batch itself"),
        ("[[model]]\nname='a'\nprototxt='a'\nno-reference=true", 2, "is no option"),
        (f"[[model]]\nname='a'\nprototxt='a'\ntimeout={10**400}", 2, "--timeout must be"),
        ("[[model]]\nname='Summary.MD'\nprototxt='a'", 2, "batch writes"),
        ("[[model]]\nname='a'\nprototxt='a'\ninput_shape='d=1'\ninput-shape='d=2'", 2, "twice"),
        ("[[model]]\nname='a'\nprototxt='a'\n[[model]]\nname='A'\nprototxt='a'", 2, "two models"),
        (
            "[[model]]\nname='a'\nprototxt='a'\n[[model]]\nname='a.failed'\nprototxt='a'",
            2,
            "take the place of model 'a.failed'",
        ),
    ],
    ids=range(24),
)
def test_catalogue_errors(room, call, text, code, expected):
    done = call("batch", net(text, "c.toml"), "-o", "out")
    assert done.code == code
    assert expected in done.err and "c.toml" in done.err
    assert listing(room.here) == {"c.toml"}


def test_an_interrupted_batch_still_sums_up(room):
    act = "stubborn\nchild child-{0}\npid pid-{0}\nsleep 60\n---\n"
    net("---\n", "a"), net("---\n", "d")
    for name in "bc":
        net(act.format(name), name)
    files = [room.here / f"{what}-{name}" for name in "bc" for what in ("child", "pid")]
    out = ""

    def seconds():
        nonlocal out
        process = start(room.root, "batch", catalogue(*"abcd"), "-o", "out", "--json", "-j", 2)
        processes = [int(wait_for(file)) for file in files]
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        took = time.monotonic() - began
        assert process.returncode == 130
        require_gone(processes)
        for file in files:
            file.unlink()
        return took

    in_time(seconds)
    document = json.loads(out)
    assert {model["name"]: model["exit_code"] for model in document["models"]} == {
        "a": 0,
        "b": 130,
        "c": 130,
    }
    assert document["total"] == 4
    assert json.loads(Path("out/summary.json").read_text()) == {
        name: value for name, value in document.items() if name != "warnings"
    }
    assert listing(Path("out")) == {"a", "summary.json", "summary.md", "summary.html"}


def test_a_builder_that_dies_as_it_warms_up_costs_one_model(room):
    """The extraction that went on meanwhile is not taken for the next model's."""
    (room.root / "stage_build" / "at_start").write_text("pid builder")
    net("pid started\nwait_for go\n---\n", "a"), net("---\n", "b")
    process = start(room.root, "batch", catalogue("a", "b"), "-o", "out", "--json")
    wait_for(room.here / "started")
    os.kill(int(wait_for(room.here / "builder")), signal.SIGKILL)
    until(lambda: not alive(int(Path("started").read_text())), "the extraction goes on")
    out, _ = process.communicate(timeout=60)
    models = json.loads(out)["models"]
    assert [model["exit_code"] for model in models] == [6, 0]
    assert models[1]["stages"]["extract"]["argv"][0] == "b"


def test_a_worker_that_died_while_it_had_no_job_costs_none(room, call_json, monkeypatch):
    (room.root / "stage_build" / "at_start").write_text("pid builder")
    take = _Progress.take

    def killing(self, document):
        take(self, document)
        pid = int(Path("builder").read_text())
        os.kill(pid, signal.SIGKILL)
        # Dead with all its threads, and left for whoever started it to collect.
        over = os.WEXITED | os.WNOHANG | os.WNOWAIT
        until(lambda: os.waitid(os.P_PID, pid, over), "it lives")

    monkeypatch.setattr(_Progress, "take", killing)
    net("---\n", "a"), net("---\n", "b")
    document = call_json("batch", catalogue("a", "b"), "-o", "out")
    assert [model["exit_code"] for model in document["models"]] == [0, 0]


def test_a_display_that_fails_costs_one_model(room, call_json, monkeypatch):
    """A worker whose model was given up is not asked for another: it would answer for the first."""
    warn = Lane.warning

    def fail(self, message):
        if message == "odd":
            raise ValueError("a fault of ours")
        warn(self, message)

    monkeypatch.setattr(Lane, "warning", fail)
    net("warning odd\nsleep 0.5\nwarning of a\n---\n", "a"), net("warning of b\n---\n", "b")
    models = call_json("batch", catalogue("a", "b"), "-o", "out")["models"]
    assert [model["exit_code"] for model in models] == [6, 0]
    assert models[1]["warnings"] == ["of b"]


def test_an_interruption_between_two_models_is_one(room, call_json, monkeypatch):
    ended = Board.ended

    def interrupted(self, document):
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: interrupts._State.seen, "no signal")
        time.sleep(0.3)  # for the main thread, which no lane hears of but by its asking
        ended(self, document)

    monkeypatch.setattr(Board, "ended", interrupted)
    net("---\n", "a"), net("---\n", "b")
    document = call_json("batch", catalogue("a", "b"), "-o", "out")
    assert (document["exit_code"], document["error"]) == (130, "interrupted")
    assert [model["name"] for model in document["models"]][:1] == ["a"]
    assert json.loads(Path("out/summary.json").read_text())["exit_code"] == 130


def test_a_catalogue_takes_what_convert_takes():
    """But what one worker has in common for all, and how the command speaks."""
    given = set(inspect.signature(orchestrate.convert).parameters)
    others = {"net", "out", "build_python", "quiet", "verbose", "json"}
    assert set(OPTIONS) == given - others | {"name", "prototxt"}
    for option in given - others:
        try:
            _value(option, "1", Path())
        except UsageError as error:
            assert "takes" in error.message  # another kind of value


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("envs/caffe/bin/python", "models/envs/caffe/bin/python"),
        ("./python", "models/python"),
        ("python2", "python2"),
        ("/usr/bin/python3", "/usr/bin/python3"),
        ("~/python", "~/python"),
    ],
)
def test_an_interpreter_s_path_is_relative_to_the_catalogue(tmp_path, program, expected):
    text = f"[[model]]\nname = 'a'\nprototxt = 'a'\nextract-python = '{program}'\n"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "c.toml").write_text(text)
    (entry,) = read_catalogue(tmp_path / "models" / "c.toml", Options())
    assert entry.options.extract_python in (expected, str(tmp_path / expected))


def test_a_model_without_a_record_is_made_again(room, call_json):
    """One whose files changed as they were read, say; it is a batch's all the same."""
    net('fields {"files": null}\n---\n', "a")
    for _ in range(2):
        (model,) = call_json("batch", catalogue("a"), "-o", "out")["models"]
        assert model["exit_code"] == 0 and "unchanged" not in model


@pytest.mark.parametrize("moment", ["goes on", "is over"])
def test_a_summary_that_cannot_be_written(room, call_json, monkeypatch, moment):
    """Models are converted all the same, and nothing half-written stays."""
    monkeypatch.setattr("driver.batch.SUMMARY_EVERY", -1)
    replace, refused = os.replace, []

    def full(old, new):
        if "summary" in str(new) and (moment == "is over" or not refused):
            refused.append(new)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    net("---\n", "a"), net("---\n", "b")
    document = call_json("batch", catalogue("a", "b"), "-o", "out")
    assert refused
    assert document["exit_code"] == (7 if moment == "is over" else 0)
    summaries = {"summary.json", "summary.md", "summary.html"} if moment == "goes on" else set()
    assert listing(Path("out")) == {"a", "b"} | summaries


def test_a_lane_that_the_system_refuses_ends_the_batch(room, call_json, monkeypatch):
    """As `ulimit -u` has it; the models under way are converted."""
    started = threading.Thread.start

    def refused(thread):
        if thread.name.endswith("_1"):
            raise RuntimeError("can't start new thread")
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    for name in "abc":
        net("---\n", name)
    document = call_json("batch", catalogue(*"abc"), "-o", "out", "--jobs", "2")
    assert document["exit_code"] == 7 and "no thread can be started" in document["error"]
    models = json.loads(Path("out/summary.json").read_text())["models"]
    assert {model["exit_code"] for model in models} <= {0}


def test_a_lane_that_cannot_go_on_leaves_its_models_to_the_others(room, call_json, monkeypatch):
    """The run fails, but when they are converted, and it sums up."""
    take, taken = _Progress.take, []

    def broken(self, document):
        take(self, document)
        taken.append(document)
        if len(taken) == 1:
            raise RuntimeError("a fault of ours")

    monkeypatch.setattr(_Progress, "take", broken)
    for name in "abc":
        net("---\n", name)
    document = call_json("batch", catalogue(*"abc"), "-o", "out", "--jobs", "2")
    assert document["exit_code"] == 6 and "a fault of ours" in document["error"]
    models = json.loads(Path("out/summary.json").read_text())["models"]
    assert [model["exit_code"] for model in models] == [0, 0, 0]


def test_unchanged_models_took_no_time():
    """What is told of them is of the run that made them, and says nothing of this one."""
    board = Board(Display(progress=False), 3)
    same = {"name": "a", "status": "ok", "error": None, "seconds": 9.0, "unchanged": True}
    shown = []
    for document in (same, {**same, "name": "b", "unchanged": False}):
        board.ended(document)
        stream = io.StringIO()
        console(stream).print(grid(board.rows()))
        shown.append(stream.getvalue())
    assert "unchanged" in shown[0] and "9.0 s" not in shown[0] and "to go" not in shown[0]
    assert "ok, 9.0 s" in shown[1]
