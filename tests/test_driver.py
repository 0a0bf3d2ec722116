"""The driver against stages that act out success, failure, crash, hang and garbage."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import orchestrate
from driver import interrupts, outcome, worker, workspace
from schemas.errors import KINDS, EnvironmentProblem
from schemas.events import plain
from tests.paths import ROOT
from tests.rooms import (
    in_time,
    listing,
    make_target,
    net,
    python_of,
    require_gone,
    start,
    wait_for,
)

EXIT_CODES = {kind.__name__: kind.exit_code for kind in KINDS.values()}


# --- a conversion that goes well ------------------------------------------------------------------


def test_convert(room, call_json):
    script = (
        'print noise\nprogress weights 1 2\nwarning odd\nfields {"layers": 9}\n---\n'
        'fields {"worst": {"blob": "ip1", "error": 3e-7}, "compared": {"class": 9}}\n'
    )
    weights = net("w", "net.caffemodel")
    document = call_json("convert", net(script), weights, "-o", "out/lenet")
    assert document["out"] == "out/lenet"
    assert document["worst"] == {"blob": "ip1", "error": 3e-7}
    assert document["warnings"] == ["odd"]
    stages = document["stages"]
    assert stages["extract"]["layers"] == 9
    assert stages["extract"]["argv"][:2] == ["net.prototxt", "net.caffemodel"]
    assert {"--adopt", "--logs", "--extract-report"} <= set(stages["build"]["argv"])
    assert listing(Path("out")) == {"lenet"}
    assert Path("out/lenet/logs/extract.log").read_text() == "noise\n"
    assert listing(room.here) == {"net.prototxt", "net.caffemodel", "out"}


def test_the_build_worker_warms_up_during_the_extraction(room, call):
    (room.root / "stage_build" / "at_start").write_text("pid warm\n")
    assert call("convert", net("wait_for warm\n---\n"), "-o", "out").code == 0


def test_convert_tells_a_person_how_to_use_the_result(room, call):
    script = '---\nfields {"worst": {"blob": "ip1", "error": 3e-7}, "compared": {"class": 9}}\n'
    done = call("convert", net(script), "-o", "lenet")
    assert done.code == 0
    assert "import lenet; net = lenet.load()" in done.out
    assert "3.0e-07 relative, blob 'ip1'" in done.out
    assert "blobs verified  class 9" in done.out


def test_options_reach_their_stage(room, call_json):
    net("r", "r.npz"), net("i", "i.png")
    document = call_json(
        *("convert", net("---\n"), "-o", "out", "--formats", "class,keras", "--tolerance", "0.001"),
        *("--reference", "r.npz", "--phase", "TRAIN", "--level", "0"),
        *("--stage", "a", "--stage=b", "--input-shape", "data=1,3,4,5", "--outputs", "-x,y"),
        *("--reader", "protobuf", "--dialect", "segnet", "--dialect=bvlc", "--keep-losses"),
    )
    extract, build = (document["stages"][stage]["argv"] for stage in ("extract", "build"))
    assert set(extract[3:]) == {
        "--phase=TRAIN",
        "--level=0",
        "--outputs=-x,y",
        "--reader=protobuf",
        "--stage=a",
        "--stage=b",
        "--input-shape=data=1,3,4,5",
        "--dialect=segnet",
        "--dialect=bvlc",
        "--keep-losses",
    }
    assert {"--formats=class,keras", "--tolerance=0.001", "--reference=r.npz"} < set(build)


def test_a_name_like_an_option_is_a_path(room, call_json):
    document = call_json("convert", "-o", "-out", "--", net("---\n", "-net.prototxt"))
    assert document["stages"]["extract"]["argv"][0] == "./-net.prototxt"
    assert Path("-out/names.json").exists()


@pytest.mark.parametrize("flag", ["--quiet", None])
def test_quiet(room, call, flag):
    done = call(
        "convert", net("progress read 1 3\nwarning odd\n---\n"), "-o", "out", *filter(None, [flag])
    )
    assert done.code == 0
    assert ("extract: read" in done.err) == (flag is None)
    assert (done.out == "") == (flag is not None)
    assert "warning: odd" in done.err


def test_warnings_are_shown_once_and_counted(room, call):
    script = "".join(f"warning w{i}\nwarning w{i}\n" for i in range(30)) + "---\n"
    done = call("convert", net(script), "-o", "out")
    shown = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert shown == [f"warning: w{i}" for i in range(10)] + [
        "warning: and 20 more (--json lists them)"
    ]


def test_all_warnings_are_in_the_json(room, call_json):
    script = "".join(f"warning w{i}\n" for i in range(30)) + "---\n"
    assert len(call_json("convert", net(script), "-o", "out")["warnings"]) == 30


def test_live_display(room):
    """On a terminal the display is drawn in place, and gone at the end."""
    script = "progress weights 3 16\nwarning odd\nsleep 0.5\n---\nsleep 0.2\n"
    master, slave = pty.openpty()
    command = [
        sys.executable,
        str(room.root / "orchestrate.py"),
        "convert",
        net(script),
        "-o",
        "out",
    ]
    env = dict(os.environ, TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=env) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
        stdout = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    assert b"weights" in seen and b"3/16" in seen and b"warning: odd" in seen
    assert seen.rstrip().endswith(b"\x1b[2K")
    assert b"is converted and verified" in stdout


# --- stages that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["extract", "build"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"Interrupted"}))
def test_a_reported_error_is_one_line(room, call, kind, stage):
    act = f"error {kind} bad kernel_size\n"
    script = act + "---\n" if stage == "extract" else "---\n" + act
    done = call("convert", net(script), "-o", "out", "--quiet")
    assert done.code == EXIT_CODES[kind]
    first, *more = done.err.splitlines()
    assert first == f"error: {stage}: layer 'conv1' (Convolution): bad kernel_size (mend it)"
    assert more == (["logs and report: out.failed"] if kind == "StageCrashed" else [])
    assert done.out == ""
    left = {"net.prototxt", "out.failed"} if kind == "StageCrashed" else {"net.prototxt"}
    assert listing(room.here) == left


def test_verbose_shows_the_worker_s_traceback(room, call):
    done = call("convert", net("fault oops\n---\n"), "-o", "out", "--verbose")
    assert done.code == 6
    assert "error: extract: RuntimeError: oops" in done.err
    assert "raise RuntimeError(text)" in done.err


def test_a_reported_crash_shows_the_last_words(room, call):
    script = "---\nprint last words\nerror StageCrashed a helper died\n"
    done = call("convert", net(script), "-o", "out", "--quiet")
    assert done.err.splitlines()[1:] == ["  | last words", "logs and report: out.failed"]


def test_an_error_in_json(room, call_json):
    document = call_json(
        "convert", net("error UnsupportedModel no Python layers\n---\n"), "-o", "o"
    )
    assert document["details"] == {
        "kind": "UnsupportedModel",
        "message": "no Python layers",
        "where": "layer 'conv1' (Convolution)",
        "hint": "mend it",
        "stage": "extract",
    }
    assert document["out"] is None


def test_a_failed_verification_names_the_worst_blob(room, call_json):
    event = {
        "event": "error",
        "kind": "VerificationFailed",
        "message": "ip1 differs",
        "worst": {"blob": "ip1", "error": float("nan")},
    }
    script = f"---\nraw {json.dumps(event)}\n"
    document = call_json("convert", net(script), "-o", "out")
    assert document["exit_code"] == 5
    assert document["worst"] == {"blob": "ip1", "error": None}


@pytest.mark.parametrize("stage", ["extract", "build"])
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_death_by_signal(room, call, name, stage):
    act = f"print last words\nprogress reshaping 1 3\nsignal {name}\n"
    script = act + "---\n" if stage == "extract" else "---\npartial partial\n" + act
    done = call("convert", net(script), "-o", "out")
    assert done.code == 6
    error, *lines = done.err[done.err.index("error:") :].splitlines()
    assert error.startswith(f"error: {stage}: the {stage} worker was killed by {name}")
    assert ("as the out-of-memory killer does" in error) == (name == "SIGKILL")
    assert "during 'reshaping'" in error
    assert lines == ["  | last words", "logs and report: out.failed"]
    assert listing(room.here) == {"net.prototxt", "out.failed"}
    assert "last words" in Path(f"out.failed/logs/{stage}.log").read_text()
    assert json.loads(Path("out.failed/report.json").read_text())["exit_code"] == 6


def test_death_in_the_middle_of_the_exchange_gives_the_old_target_back(room, call):
    assert call("convert", net("---\n"), "-o", "out").code == 0
    script = "---\npartial partial\npartial old\nsignal SIGKILL\n"
    assert call("convert", net(script), "-o", "out", "--force").code == 6
    assert Path("out/names.json").exists()
    assert listing(room.here) == {"net.prototxt", "out", "out.failed"}


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
@pytest.mark.parametrize(
    "command", [("build", "net.h5", "-o", "out"), ("inspect", "net.h5"), ("verify", "out")]
)
def test_death_while_opening_hdf5_is_the_file_s_fault(room, call, command, name):
    act = f"progress open 0 1\nsignal {name}\n"
    net(act, "net.h5")
    if command[0] == "verify":
        Path("out").mkdir()
        net(act, "out/net.h5")
    done = call(*command)
    assert done.code == 3
    assert "net.h5: damaged or hostile HDF5" in done.err
    assert len([line for line in done.err.splitlines() if "error" in line]) == 1


@pytest.mark.parametrize(
    "acts", ["progress open 0 1\nprogress opened 1 1\nsignal SIGSEGV\n", "signal SIGSEGV\n"]
)
def test_death_before_or_after_opening_hdf5_is_a_crash(room, call, acts):
    done = call("inspect", net("print last words\n" + acts, "net.h5"))
    assert done.code == 6
    kept = Path(done.err.partition("logs and report: ")[2].strip())
    assert kept.parent.parent == room.tmp
    assert (kept / "logs/extract.log").read_text() == "last words\n"


def test_death_while_opening_our_own_file_is_a_crash(room, call):
    script = "---\nprogress open 0 1\nsignal SIGSEGV\n"
    assert call("convert", net(script), "-o", "out").code == 6


@pytest.mark.parametrize("stage", ["extract", "build"])
def test_an_end_without_a_result(room, call, stage):
    act = "exit 0\n"
    done = call("convert", net(act + "---\n" if stage == "extract" else "---\n" + act), "-o", "out")
    assert done.code == 6
    assert f"the {stage} worker ended with exit code 0 and without a result" in done.err


@pytest.mark.parametrize("stage", ["extract", "build"])
def test_timeout(room, call, late, stage):
    act = "progress thinking 1 2\nstubborn\npid late\nsleep 60\n"
    script = act + "---\n" if stage == "extract" else "---\n" + act
    began = time.monotonic()
    late(lambda: Path("late").exists() and time.time() - Path("late").stat().st_mtime > 0.5)
    done = call("convert", net(script), "-o", "out", "--timeout", "600")
    assert done.code == 6
    assert time.monotonic() - began < 50, "it slept to its end"
    assert f"the {stage} worker took longer than 600 s; its last task was 'thinking'" in done.err


@pytest.mark.parametrize(
    "garbage",
    ["no JSON", "[1]", '{"event": 3}', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")],
    ids=["text", "list", "number", "deep", "surrogate"],
)
def test_garbage_on_the_pipe(room, call, garbage):
    text = garbage if isinstance(garbage, str) else "\ufffd"
    done = call("convert", net(f"raw {text}\nsleep 60\n---\n"), "-o", "out")
    assert done.code == 6
    assert "error: extract: the extract worker broke the protocol" in done.err
    assert "Traceback" not in done.err


def test_an_endless_line_on_the_pipe(room, call, monkeypatch):
    monkeypatch.setattr(worker, "MAX_LINE", 1000)
    done = call("convert", net("raw " + "x" * 5000 + "\nsleep 60\n---\n"), "-o", "out")
    assert done.code == 6


@pytest.mark.parametrize(
    "event",
    [{"event": "progress", "task": 3, "done": "x"}, {"event": "new"}, {"event": "warning"}],
    ids=["progress", "unknown", "warning"],
)
def test_odd_events_do_no_harm(room, call, event):
    assert call("convert", net(f"raw {json.dumps(event)}\n---\n"), "-o", "out").code == 0


@pytest.mark.parametrize(
    "code, kind", [(7, "EnvironmentProblem"), (2, "UsageError"), (3, "StageCrashed")]
)
def test_a_worker_that_cannot_speak(room, call_json, code, kind):
    (room.root / "stage_extract" / "__main__.py").write_text(
        f"import sys\nsys.stderr.write('usage: x\\nx: error: too old\\n')\nsys.exit({code})\n"
    )
    document = call_json("convert", net("---\n"), "-o", "out")
    assert document["details"]["kind"] == kind
    assert "too old" in json.dumps(document)


@pytest.mark.parametrize("stage", ["extract", "build"])
def test_a_missing_package_is_named(room, call, stage):
    main = room.root / f"stage_{stage}" / "__main__.py"
    main.write_text("import no_such_package\n")
    done = call("convert", net("sleep 1\n---\n"), "-o", "out", "--quiet")
    assert done.code == 7
    assert done.err.startswith(
        f"error: {stage}: {sys.executable}: No module named 'no_such_package'"
    )
    assert done.err.count("\n") == 1
    assert listing(room.here) == {"net.prototxt"}


def test_a_build_worker_that_cannot_start_ends_the_run_at_once(room, call):
    (room.root / "stage_build" / "at_start").write_text("error EnvironmentProblem no tensorflow\n")
    began = time.monotonic()
    done = call("convert", net("sleep 60\n---\n"), "-o", "out")
    assert time.monotonic() - began < 50, "the extraction slept to its end"
    assert done.code == 7
    assert "no tensorflow" in done.err


@pytest.mark.parametrize("option", ["--extract-python", "--build-python"])
@pytest.mark.parametrize("python", ["no-such-python", "./broken"])
def test_a_bad_interpreter(room, call, option, python):
    Path("broken").write_text("#!/no/such/shell\n")
    Path("broken").chmod(0o755)
    done = call("convert", net("---\n"), "-o", "out", "-q", option, python)
    assert done.code == 7
    assert done.err.startswith("error: ") and "--extract-python" in done.err
    assert listing(room.here) == {"net.prototxt", "broken"}


def test_a_fault_of_the_driver_is_one_line(room, call, monkeypatch):
    monkeypatch.setattr("driver.pipeline.check_conversion", lambda *args: 1 / 0)
    done = call("convert", net("---\n"), "-o", "out")
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith("error: ZeroDivisionError") and done.err.count("\n") == 1
    done = call("convert", "net.prototxt", "-o", "out", "--verbose")
    assert "Traceback" in done.err


def test_what_a_terminal_would_obey_is_escaped(room, call):
    done = call("convert", net("error MalformedModel \x1b[2J\u202eblob\n---\n"), "-o", "out")
    assert "\x1b" not in done.err and "\u202e" not in done.err
    assert "\\x1b[2J\\u202eblob" in done.err


def test_full_disk(room, call, monkeypatch):
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    done = call("convert", net("---\n"), "-o", "new/out")
    assert done.code == EnvironmentProblem.exit_code
    assert "are needed, 0.0 MB are free" in done.err
    assert listing(room.here) == {"net.prototxt"}


# --- isolation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, os.pathsep.join(["", ".", "./"])], ids=["unset", "dots"])
def test_nothing_is_imported_from_the_current_folder(room, path):
    # What PYTHONPATH shows to the driver itself is its interpreter's doing.
    for name in (
        "numpy",
        "tabnanny",
        "schemas",
        "stage_build",
        *(["json"] if path is None else []),
    ):
        net("raise SystemExit('imported from the current folder')\n", f"{name}.py")
    script = "origin numpy\norigin tabnanny\norigin schemas\n"
    env = dict(os.environ, **({"PYTHONPATH": path} if path else {}))
    process = start(
        room.root, "convert", net(f"{script}---\n{script}"), "-o", "o", "--json", env=env
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    warnings = json.loads(out)["warnings"]
    assert len(warnings) == 6
    assert not [warning for warning in warnings if str(room.here) in warning]
    assert f"build schemas: {room.root / 'schemas' / '__init__.py'}" in warnings


def test_a_worker_sees_its_own_rooms_only(room, call_json):
    script = "origin driver\norigin orchestrate\norigin stage_build\norigin stage_extract\n"
    warnings = call_json("convert", net(f"{script}---\n{script}"), "-o", "o")["warnings"]
    assert [warning.partition(":")[0] for warning in warnings if not warning.endswith("None")] == [
        "extract stage_extract",
        "build stage_build",
    ]


def test_another_interpreter_does_not_see_our_packages(room, call_json):
    script = net("origin typer\norigin rich\norigin schemas\n---\n")
    document = call_json("extract", script, "-o", "n.h5", "--extract-python", python_of("3.8"))
    assert document["warnings"][:2] == ["extract typer: None", "extract rich: None"]


@pytest.mark.parametrize("version", ["2.7", "3.6"])
def test_an_interpreter_too_old_is_told_so_in_one_line(room, call, monkeypatch, version):
    monkeypatch.setattr(worker, "ROOT", ROOT)
    done = call("extract", net("", "n"), "-o", "n.h5", "--extract-python", python_of(version))
    assert done.code == 7
    assert done.err.count("\n") == 1
    assert "needs Python 3.8 or newer" in done.err


def test_environment(room, call_json, monkeypatch, tmp_path):
    names = ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "USE_PYCAFFE", "PYTHONINSPECT")
    for name in names[1:3]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path), "."]))
    monkeypatch.setenv("USE_PYCAFFE", "1")
    monkeypatch.setenv("PYTHONINSPECT", "1")
    script = "".join(f"environ {name}\n" for name in names)
    assert call_json("convert", net(f"{script}---\n{script}"), "-o", "o")["warnings"] == [
        f"extract PYTHONPATH={tmp_path}",
        "extract TF_CPP_MIN_LOG_LEVEL=None",
        "extract KERAS_BACKEND=None",
        "extract USE_PYCAFFE=1",
        "extract PYTHONINSPECT=None",
        "build PYTHONPATH=None",
        "build TF_CPP_MIN_LOG_LEVEL=2",
        "build KERAS_BACKEND=tensorflow",
        "build USE_PYCAFFE=1",
        "build PYTHONINSPECT=None",
    ]


def test_the_driver_imports_no_heavy_package():
    code = (
        "import sys, importlib, pkgutil, orchestrate, driver\n"
        "names = [m.name for m in pkgutil.iter_modules(driver.__path__)]\n"
        "[importlib.import_module('driver.' + name) for name in names if name != 'bootstrap']\n"
        "bad = {'numpy', 'h5py', 'tensorflow', 'keras', 'google', 'caffe', 'stage_extract',\n"
        "       'stage_build', 'schemas.graph', 'schemas.interchange', 'schemas.layers'}\n"
        "print(len(names), sorted(bad & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, _, found = done.stdout.partition(" ")
    assert int(count) > 10
    assert found == "[]\n"


# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("stage", ["extract", "build"])
def test_an_interruption_leaves_nothing_behind(room, number, stage):
    act = "stubborn\nchild child\npid pid\nsleep 60\n"
    script = act + "---\n" if stage == "extract" else "---\npartial partial\n" + act

    def seconds():
        process = start(room.root, "convert", net(script), "-o", "new/out", "--json")
        workers = [int(wait_for(room.here / name)) for name in ("child", "pid")]
        began = time.monotonic()
        process.send_signal(number)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        took = time.monotonic() - began
        assert process.returncode == 130
        assert json.loads(out)["error"] == "interrupted"
        assert err == ""
        require_gone(workers)
        assert listing(room.here) == {"net.prototxt", "child", "pid"}
        Path("child").unlink(), Path("pid").unlink()
        return took

    in_time(seconds)


def test_a_shield_puts_an_interruption_off():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts.handled():  # noqa: PT012
        with interrupts.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            reached.append("end of the block")
        reached.append("beyond it")
    assert reached == ["end of the block"]


def test_an_interruption_during_the_start_of_a_worker(room, call, monkeypatch):
    started = []
    popen = subprocess.Popen

    def interrupted(*args, **options):
        started.append(popen(*args, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(worker.subprocess, "Popen", interrupted)
    done = call("convert", net("sleep 60\n---\n"), "-o", "out", "-q")
    assert (done.code, done.err) == (130, "error: interrupted\n")
    assert len(started) == 1 and started[0].returncode is not None


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.handled():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link", "empty", "folder", "model"])
def test_a_target_that_exists_needs_force(room, call, kind):
    make_target(kind)
    done = call("convert", net("pid started\n---\n"), "-o", "out")
    assert done.code == 2
    told = "error: out: this is not a converted model, and --force replaces nothing else (choose"
    if kind == "model":
        told = "error: out: this exists already (--force replaces it)"
    assert told in done.err
    assert listing(room.here) == {"net.prototxt", "out"}


@pytest.mark.parametrize("kind", ["file", "link", "empty", "folder"])
def test_force_replaces_converted_models_only(room, call, kind):
    make_target(kind)
    assert call("convert", net("pid started\n---\n"), "-o", "out", "--force").code == 2
    assert listing(room.here) == {"net.prototxt", "out"}


def test_force_replaces_a_converted_model(room, call):
    make_target("model")
    assert call("convert", net("---\n"), "-o", "out", "--force").code == 0
    assert "old" not in listing(Path("out"))


def test_force_does_not_replace_an_input(room, call):
    make_target("model")
    done = call("convert", net("---\n", "out/net.prototxt"), "-o", "out", "--force")
    assert done.code == 2
    assert Path("out/net.prototxt").exists()
    net("x")
    assert call("extract", "net.prototxt", "-o", "net.prototxt", "--force").code == 2
    assert Path("net.prototxt").read_text() == "x"


def test_a_model_may_be_built_anew_from_its_own_net(room, call):
    make_target("model")
    assert call("build", net("", "out/net.h5"), "-o", "out", "--force").code == 0


@pytest.mark.parametrize(
    "argv",
    [
        ("convert", "missing", "-o", "out"),
        ("convert", ".", "-o", "out"),
        ("convert", "net.prototxt", "missing.caffemodel", "-o", "out"),
        ("convert", "net.prototxt", "-o", "out", "--reference", "missing.npz"),
        ("convert", "net.prototxt", "-o", ".", "--force"),
        ("convert", "net.prototxt", "-o", "..", "--force"),
        ("convert", "net.prototxt", "-o", "out", "--phase", "BOTH"),
        ("convert", "net.prototxt", "-o", "out", "--reader", "me"),
        ("convert", "net.prototxt", "-o", "out", "--tolerance", "-1"),
        ("convert", "net.prototxt", "-o", "out", "--timeout", "nan"),
        ("convert", "net.prototxt", "-o", "out", "--input-shape", "data=1,x"),
        ("convert", "net.prototxt", "-o", "out", "--level", "x"),
        ("convert", "net.prototxt", "-o", "out", "--bogus"),
        ("convert", "net.prototxt"),
        ("extract", "net.prototxt", "-o", ".", "--force"),
        ("build", "missing.h5", "-o", "out"),
        ("verify", "."),
        ("inspect", "missing"),
        ("inspect", "."),
        ("batch", "missing.toml", "-o", "out"),
        ("bogus",),
    ],
    ids=" ".join,
)
def test_usage_errors(room, call, call_json, argv):
    net("pid started\n---\n")
    done = call(*argv)
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    document = call_json(*argv)
    assert f"error: {document['error']}\n" == done.err
    assert listing(room.here) == {"net.prototxt"}


# --- the other commands ---------------------------------------------------------------------------


def test_extract_and_build(room, call_json):
    document = call_json("extract", net("---\nwarning built\n"), "-o", "made/net.h5")
    assert document["out"] == "made/net.h5"
    assert listing(Path("made")) == {"net.h5"}
    document = call_json("build", "made/net.h5", "-o", "out")
    assert document["warnings"] == ["built"]
    assert "--adopt" not in document["stages"]["build"]["argv"]
    assert Path("made/net.h5").exists() and Path("out/net.h5").exists()
    document = call_json("verify", "out")
    assert document["out"] == "out"
    assert document["stages"]["build"]["argv"] == ["out", "--verify"]
    assert listing(room.tmp) == set()


def test_extract_to_stdout(room):
    process = start(room.root, "extract", net("---\nthe file\n"), "-o", "-", "--json")
    out, err = process.communicate(timeout=60)
    assert out == "the file\n"
    assert json.loads(err)["out"] == "-"
    assert listing(room.here) == {"net.prototxt"}


def test_a_usage_error_goes_to_stderr_where_stdout_is_the_file(room):
    process = start(room.root, "extract", "-o", "-", "--json")
    out, err = process.communicate(timeout=60)
    assert (out, json.loads(err)["exit_code"], process.returncode) == ("", 2, 2)


def test_no_reference_reaches_the_stage(room, call_json):
    document = call_json("extract", net("---\n"), "-o", "net.h5", "--no-reference")
    assert "--no-reference" in document["stages"]["extract"]["argv"]


def test_losses_and_dialects_of_extract_reach_the_stage(room, call_json):
    options = ("--keep-losses", "--dialect", "ssd")
    document = call_json("extract", net("---\n"), "-o", "net.h5", *options)
    assert {"--keep-losses", "--dialect=ssd"} < set(document["stages"]["extract"]["argv"])
    document = call_json("extract", net("---\n"), "-o", "other.h5")
    argv = document["stages"]["extract"]["argv"]
    assert not [text for text in argv if text.startswith(("--keep-losses", "--dialect"))]


FOUND = {
    "kind": "prototxt",
    "title": "LeNet",
    "columns": ["layer", "type"],
    "rows": [["conv1", "Convolution"], ["[red]x", "ReLU"]],
    "facts": {"layers": 2},
}


def test_inspect_a_file(room, call, call_json):
    file = net(f"fields {json.dumps(FOUND)}\n")
    done = call("inspect", file)
    assert done.code == 0
    for text in ("LeNet", "conv1", "Convolution", "[red]x", "layers"):
        assert text in done.out
    document = call_json("inspect", file)
    assert {name: document[name] for name in FOUND} == FOUND


def test_inspect_a_converted_model(room, call, call_json):
    call("convert", net("---\n"), "-o", "out")
    document = call_json("inspect", "out")
    assert document["kind"] == "converted model"
    assert document["columns"] == ["name", "max_error"]
    assert document["rows"] == [["ip1", 1e-7]]
    assert document["facts"] == {"status": "ok", "versions.x": "1"}
    assert "ip1" in call("inspect", "out").out


def test_inspect_a_report_of_many_columns(room, call_json):
    Path("out").mkdir()
    blobs = [{f"{i}": 1, f"{i}+": 2} for i in range(20_000)]
    net(json.dumps({"blobs": [dict.fromkeys(map(str, range(999)), 0), *blobs]}), "out/report.json")
    document = call_json("inspect", "out")
    assert document["columns"] == [str(i) for i in range(16)]
    assert len(document["rows"]) == 20_001


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000], ids=["empty", "list", "deep"])
def test_inspect_a_broken_report(room, call, text):
    Path("out").mkdir()
    net(text, "out/report.json")
    assert call("inspect", "out").code == 3


def test_doctor(room, call, call_json):
    document = call_json("doctor", "--extract-python", sys.executable)
    checks = {check["what"]: check for check in document["checks"]}
    assert checks["driver: Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert checks["extract: numpy"]["ok"] == (document["exit_code"] == 0)
    assert "build: tensorflow" in call("doctor").out


def test_doctor_names_what_is_missing(room, call, call_json):
    document = call_json("doctor", "--build-python", "no-such-python")
    assert document["exit_code"] == 7
    assert document["error"].startswith("missing for a conversion: ")
    assert "build: Python" in document["error"]
    assert "error: missing for a conversion" in call("doctor", "--build-python", "x-python").err


def test_doctor_with_an_old_interpreter(room, call_json):
    document = call_json("doctor", "--extract-python", python_of("2.7"))
    check = next(check for check in document["checks"] if check["what"] == "extract: Python")
    assert (check["ok"], check["found"][:3]) == (False, "2.7")


def test_a_table_goes_with_an_error(room, call, call_json):
    """What one line cannot hold; not with --quiet."""
    table = {"columns": ["layer", "blob"], "rows": [["conv[red]\x1b[31m", "0"], ["ip", "1"]]}
    event = {"event": "error", "kind": "MalformedModel", "message": "no fit", "table": table}
    net("raw " + json.dumps(event) + "\n", "net.prototxt")
    command = ("extract", "net.prototxt", "-o", "net.h5")
    done = call(*command)
    first, _, text = done.err.partition("\n")
    assert (done.code, first) == (3, "error: extract: no fit")
    assert "layer" in text and "conv[red]\\x1b[31m" in text and "\x1b" not in text
    assert call(*command, "--quiet").err == "error: extract: no fit\n"
    assert call_json(*command)["details"]["table"] == table


@pytest.mark.parametrize(
    "path, files", [("models", ["deploy.prototxt", "a.caffemodel"]), ("no", [])]
)
def test_a_folder_in_place_of_a_file(room, call, path, files):
    Path(path).mkdir()
    for name in (*files, "read.me"):
        Path(path, name).touch()
    done = call("extract", path, "-o", "net.h5")
    hint = "pass a file of it: a.caffemodel, deploy.prototxt" if files else "check the path"
    assert (done.code, done.err) == (
        2,
        f"error: {path}: a file was expected, this is a folder ({hint})\n",
    )


# --- small things ---------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [(), ("--help",), ("convert", "-h"), ("batch", "--help")])
def test_help(argv):
    assert "Usage" in CliRunner().invoke(orchestrate.app, argv).output


@pytest.mark.parametrize(
    "command", [info.name or info.callback.__name__ for info in orchestrate.app.registered_commands]
)
def test_help_fits_a_terminal(command):
    shown = CliRunner().invoke(orchestrate.app, [command, "--help"], env={"COLUMNS": "80"}).output
    assert "How it speaks" in shown
    assert "…" not in shown, "cut off"
    assert "[]" not in shown, "brackets taken for markup"


def test_help_from_the_shell_imports_little():
    command = [sys.executable, "-X", "importtime", "orchestrate.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "convert" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"numpy", "h5py", "tensorflow", "google.protobuf", "driver.pipeline"}


@pytest.mark.parametrize(
    "argv",
    [("inspect", "no.prototxt", "--timeout", "3"), ("verify", "none", "--plugin", "a", "-q")],
    ids=lambda argv: argv[0],
)
def test_a_command_imports_little(argv):
    command = [sys.executable, "-X", "importtime", "orchestrate.py", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: " in done.stderr.splitlines()[-1]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "driver.command" in imported
    assert not imported & {"pydantic", "rich.console", "numpy"}


def test_values_reach_a_command_in_their_types(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(orchestrate, "_run", lambda action, values, **_: given.update(values))
    argv = ["extract", "a b.prototxt", "-o", "-", "--level", "3", "--timeout", "2.5"]
    argv += ["--stage", "x", "--stage", "y", "--plugin", "p"]
    result = CliRunner().invoke(orchestrate.app, argv)
    assert result.exit_code == 0, result.output
    assert (given["net"], given["weights"], given["out"]) == (Path("a b.prototxt"), None, Path("-"))
    assert (given["level"], given["timeout"], given["phase"]) == (3, 2.5, None)
    assert (list(given["stage"]), list(given["plugin"])) == (["x", "y"], [Path("p")])
    assert not given["mean"]


def test_a_value_of_another_type_is_refused():
    command = [sys.executable, "orchestrate.py", "extract", "a", "-o", "b", "--level", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--level" in done.stderr
    assert len(done.stderr.splitlines()) == 1


FINE = ("convert", "fine", "-o", "out")
ODD = ("batch", "c.toml", "-o", "out", "--jobs", "2")


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1", "0,1,2"])
@pytest.mark.parametrize("argv", [FINE, ODD], ids=lambda argv: argv[0])
def test_streams_that_are_closed(room, argv, closed):
    """As a daemon's may be: files that are opened would get their numbers."""
    net("warning odd\nprint odd\n---\nprint odd\n", "fine")
    net("".join(f'[[model]]\nname = "{n}"\nprototxt = "fine"\n' for n in "ab"), "c.toml")
    redirected = " ".join(f"{number}>&-" for number in closed.split(","))
    command = [sys.executable, str(room.root / "orchestrate.py"), *argv]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("1" in closed) == ("verified" not in done.stdout)
    assert ("2" in closed) == ("warning: " not in done.stderr)
    folder = Path("out") if argv is FINE else Path("out/b")
    assert json.loads((folder / "report.json").read_text())["status"] == "ok"
    logs = {path.name: path.read_text() for path in (folder / "logs").glob("*.log")}
    assert logs["extract.log"] == "odd\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("options", [(), ("--json",), ("--quiet", "--json")], ids=" ".join)
def test_a_full_disk_that_stdout_is_on(room, options):
    with open("/dev/full", "w") as full:
        command = [sys.executable, room.root / "orchestrate.py", "convert", net("---\n")]
        command += ["-o", "out", *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 7
    said = "error: stdout: no space left on device (check permissions and free space)"
    assert done.stderr.splitlines()[-1] == said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["full", "broken"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_run_goes_on_though_nobody_can_see_it(room, kind, code):
    """Messages for a person are not what it is run for."""
    act = "error MalformedModel bad\n" if code else ""
    net("warning a\nwarning b\n---\n", "fine"), net(f"warning c\n{act}---\n", "other")
    text = "".join(f'[[model]]\nname = "{n}"\nprototxt = "{n}"\n' for n in ("fine", "other"))
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") if kind == "full" else os.fdopen(writing, "w") as stderr:
        command = [sys.executable, room.root / "orchestrate.py", "batch", net(text, "c.toml")]
        done = subprocess.run(
            [*command, "-o", "out"], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
        )
    assert done.returncode == code
    models = json.loads(Path("out/summary.json").read_text())["models"]
    assert [model["warnings"] for model in models] == [["a", "b"], ["c"]]
    assert "2 models converted" in done.stdout


def test_an_interruption_before_a_run_has_begun_is_told(room, call, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("driver.command.run", interrupted)
    done = call("convert", net("---\n"), "-o", "out")
    assert (done.code, done.out, done.err) == (130, "", "error: interrupted\n")


def test_a_closed_stdout_is_no_error(room):
    net(f"fields {json.dumps({**FOUND, 'rows': [['x' * 50, 'y']] * 3000})}\n")
    process = start(room.root, "inspect", "net.prototxt")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) != 0
    process.stderr.close()


@pytest.mark.parametrize(
    "value, expected",
    [(float("nan"), None), ({"a": [float("inf"), 1.5]}, {"a": [None, 1.5]}), ((1, "x"), [1, "x"])],
)
def test_json_has_no_nan(value, expected):
    assert outcome.finite(value) == expected


def test_plain_keeps_text_on_one_line():
    assert plain("é conv1 ü") == "é conv1 ü"
    assert plain("\r\n\x00\ud800\u2028\x9b") == "\\r\\n\\x00\\ud800\\u2028\\x9b"
