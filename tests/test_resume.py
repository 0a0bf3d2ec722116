"""What has not changed is not extracted again, and what is up to date is known to be."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from driver import digests, record
from driver.options import Options
from tests.cli import orchestrate
from tests.paths import ROOT
from tests.rooms import call, call_json, net, room

__all__ = ["call", "call_json", "room"]  # fixtures

NET = """warning odd
fields {"notes": ["odd"], "layers": 9}
---
"""
MADE_OF = Path("out/logs/made_of.json")


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """Files of which nobody need wait to grow old."""
    monkeypatch.setattr(digests, "CLOCK_TICK", -(10**12))
    monkeypatch.setattr(record, "CLOCK_TICK", -(10**12))


@pytest.fixture
def model(room):
    """A net, its weights and what goes with them, in the current folder."""
    net(NET)
    for name in ("w.caffemodel", "labels.txt", "mean.npy", "r.npz"):
        Path(name).write_text(name)
    return room


ARGUMENTS = ("net.prototxt", "w.caffemodel", "-o", "out")


@pytest.fixture
def again(model, call_json):
    """Converts, does what is to be done in between, and converts again: stage 1's own figures."""

    def again(between=lambda: None, first=(), second=None):
        assert "reused" not in call_json("convert", *ARGUMENTS, *first)["stages"]["extract"]
        between()
        second = first if second is None else second
        document = call_json("convert", *ARGUMENTS, "--force", *second)
        assert Path("out/net.h5").read_text() == NET.partition("---\n")[2]
        return document["stages"]["extract"]

    return again


def touch():
    os.utime("w.caffemodel", ns=(1, 1))


def replace():
    shutil.copyfile("w.caffemodel", "new")
    os.replace("new", "w.caffemodel")


def change_a_byte():
    """Of the same size, at the same time."""
    before = os.stat("w.caffemodel")
    Path("w.caffemodel").write_text("W.caffemodel")
    os.utime("w.caffemodel", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def change_a_byte_in_secret():
    """Of the same size, at the same place, with its old time, as archives and copies give it."""
    before = os.stat("w.caffemodel")
    with Path("w.caffemodel").open("r+") as file:
        file.write("W")
    os.utime("w.caffemodel", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat("w.caffemodel")
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def damage(text):
    return lambda: MADE_OF.write_text(text)


def edit(*path, value):
    """Has the record say something else."""

    def edit():
        document = json.loads(MADE_OF.read_text())
        place = document
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        MADE_OF.write_text(json.dumps(document))

    return edit


def bring_along():
    """The model as a copy brings it, record, times and all: it may be a stranger's."""
    shutil.copytree("out", "theirs", copy_function=shutil.copy2)
    shutil.rmtree("out")
    os.rename("theirs", "out")


def rewrite_net():
    path = Path("out/net.h5")
    path.write_text(path.read_text())


# --- stage 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "second"),
    [
        (lambda: None, None),
        (touch, None),
        (replace, None),
        (lambda: None, ("--formats", "class", "--tolerance", "0.1")),
        (lambda: None, ("--reference", "r.npz")),
    ],
    ids=["nothing", "touched", "replaced-by-equal", "other-formats", "other-reference"],
)
def test_stage_1_is_skipped_after(between, second, again):
    extract = again(between, (), second)
    assert extract["reused"] is True
    assert (extract["layers"], extract["seconds"]) == (9, 0.5)


@pytest.mark.parametrize(
    ("between", "second"),
    [
        (change_a_byte, None),
        (change_a_byte_in_secret, None),
        (lambda: Path("net.prototxt").write_text("progress a 1 1\n" + NET), None),
        (lambda: None, ("--no-cache",)),
        (lambda: None, ("--phase", "TRAIN")),
        (lambda: None, ("--keep-losses",)),
        (lambda: None, ("--outputs", "ip1")),
        (lambda: os.environ.__setitem__("USE_PYCAFFE", "1"), None),
        (rewrite_net, None),
        (bring_along, None),
        (lambda: os.remove("out/net.h5"), None),
        (lambda: os.remove(MADE_OF), None),
        (damage(""), None),
        (damage('{"version": 1, "extract": {'), None),
        (damage("[]"), None),
        (damage("[" * 100_000), None),
        (damage('{"version": 1, "extract": ' + '{"a": ' * 500 + "1" + "}" * 501), None),
        (damage(" " * record.MAX_BYTES + "{}"), None),
        (damage('{"version": 1, "extract": {"result": ' + "9" * 5000 + "}}"), None),
        (lambda: MADE_OF.write_bytes(b"\xff\xfe\0"), None),
        (lambda: (MADE_OF.unlink(), os.mkfifo(MADE_OF)), None),
        (lambda: (MADE_OF.unlink(), MADE_OF.mkdir()), None),
        (edit("version", value=2), None),
        (edit("extract", value=None), None),
        (edit("extract", "files", value=[]), None),
        (edit("extract", "files", value=[{"path": "x"}]), None),
        (edit("extract", "files", 1, "path", value=7), None),
        (edit("extract", "files", 1, "path", value="a\0b"), None),
        (edit("extract", "files", 1, "mtime_ns", value=True), None),
        (edit("extract", "files", 1, "ctime_ns", value=None), None),
        (edit("extract", "files", 1, "sha256", value="0" * 63), None),
        (edit("extract", "arguments", value=[]), None),
        (edit("extract", "arguments", 0, value=["net"]), None),
        (edit("extract", "net.h5", value=[1]), None),
        (edit("extract", "result", value=[]), None),
        (edit("extract", "result", "seconds", value=10**400), None),
        (edit("extract", "result", "seconds", value="long"), None),
        (edit("extract", "result", "peak_bytes", value=float("inf")), None),
        (edit("extract", "code", value="another"), None),
        (edit("extract", "--extract-python", value="/usr/bin/python0"), None),
    ],
)
def test_stage_1_runs_again_after(between, second, again, monkeypatch):
    monkeypatch.setenv("USE_PYCAFFE", "")
    assert "reused" not in again(between, (), second)


SAMPLES = {
    "formats": "class",
    "quantize": "float16",
    "calibration": Path("images"),
    "precision": "bfloat16",
    "input_layout": "nchw",
    "tolerance": 0.1,
    "reference": Path("r.npz"),
    "phase": "TRAIN",
    "stage": ("deploy",),
    "level": 1,
    "input_shape": ("data=1,1,28,28",),
    "outputs": "ip1",
    "dialect": ("ssd",),
    "mean": ("1,2,3",),
    "preprocess": ("caffenet",),
    "labels": Path("labels.txt"),
    "reader": "pycaffe",
    "extract_python": "/usr/bin/env",
    "build_python": "/usr/bin/env",
    "plugin": (Path("own"),),
    "timeout": 9.0,
    "gpu": True,
}
HARMLESS = ("force", "no_cache", "timeout")
"""Options that change nothing in net.h5 or OUT."""


@pytest.mark.parametrize("name", [field.name for field in fields(Options)])
def test_every_option_counts(name, model):
    given = Options(**{name: SAMPLES.get(name, True)})
    assert given != Options()
    asked = [record.Asked.of(NET_FILE, WEIGHTS, options) for options in (Options(), given)]
    assert (asked[0] == asked[1]) == (name in HARMLESS)


def test_a_moved_file_is_the_same(model, call_json):
    call_json("convert", *ARGUMENTS, "--labels", "labels.txt", "--mean", "data=mean.npy")
    # Stage 1 tells of the files that it reads; the double is told which they are.
    assert "reused" not in convert_moved(call_json, "moved")
    net("reads labels labels.txt\nreads mean mean.npy\n" + NET)
    convert(call_json, "--labels", "labels.txt", "--mean", "data=mean.npy")
    assert convert_moved(call_json, "elsewhere")["reused"] is True
    assert convert_moved(call_json, "elsewhere", label="other.txt").get("reused") is None


def convert(call_json, *options):
    return call_json("convert", *ARGUMENTS, "--force", *options)["stages"]["extract"]


def convert_moved(call_json, name, label="labels.txt"):
    """The same conversion from another folder, in which the labels may have another name."""
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    for file in ("net.prototxt", "w.caffemodel", "mean.npy"):
        shutil.copy(file, folder)
    shutil.copy("labels.txt", folder / label)
    return call_json(
        *("convert", folder / "net.prototxt", folder / "w.caffemodel", "-o", "out", "--force"),
        *("--labels", folder / label, "--mean", f"data={folder / 'mean.npy'}"),
    )["stages"]["extract"]


def test_the_files_that_a_recipe_names_are_looked_at(model, call_json):
    net("reads preprocess a.toml\nreads mean mean.npy\n" + NET)
    Path("a.toml").write_text('mean = "mean.npy"\n')
    options = ("--preprocess", "a.toml")
    call_json("convert", *ARGUMENTS, *options)
    assert convert(call_json, *options)["reused"] is True
    Path("mean.npy").write_text("another!")
    assert "reused" not in convert(call_json, *options)
    # What it names beside it is not looked for elsewhere.
    Path("b").mkdir()
    shutil.copy("a.toml", "b")
    assert "reused" not in convert(call_json, "--preprocess", "b/a.toml")


def test_a_plug_in_is_known_by_its_files(model, call_json):
    for name in ("one", "two"):
        (Path(name) / "own").mkdir(parents=True)
        (Path(name) / "own" / "meaning.py").write_text("a = 1\n")
    call_json("convert", *ARGUMENTS, "--plugin", "one/own")
    assert convert(call_json, "--plugin", "two/own")["reused"] is True
    assert "reused" not in convert(call_json)
    convert(call_json, "--plugin", "two/own")
    for name in ("more.py", "inner/table.txt"):  # what a module may import, or read
        Path("two/own", name).parent.mkdir(exist_ok=True)
        Path("two/own", name).write_text("")
        assert "reused" not in convert(call_json, "--plugin", "two/own")
    (Path("two/own/__pycache__")).mkdir()
    Path("two/own/__pycache__/meaning.pyc").write_text("")
    assert convert(call_json, "--plugin", "two/own")["reused"] is True


def test_other_code_extracts_again(model, call_json):
    call_json("convert", *ARGUMENTS)
    (model.root / "stage_extract" / "mean.py").write_text("")
    digests.code_digest.cache_clear()
    assert "reused" not in convert(call_json)
    (model.root / "stage_build" / "lite.py").write_text("")
    digests.code_digest.cache_clear()
    assert convert(call_json)["reused"] is True


def test_another_interpreter_extracts_again(model, call_json):
    call_json("convert", *ARGUMENTS)
    Path("python").symlink_to(sys.executable)
    assert "reused" not in convert(call_json, "--extract-python", "./python")
    assert convert(call_json, "--extract-python", "./python")["reused"] is True


def test_a_file_of_the_recorded_facts_is_not_read(model, call_json, monkeypatch):
    call_json("convert", *ARGUMENTS)
    read = []
    monkeypatch.setattr(record, "hashed", lambda path: read.append(path) or digests.hashed(path))
    assert convert(call_json)["reused"] is True
    assert read == []
    touch()
    assert convert(call_json)["reused"] is True
    assert read == [str(Path("w.caffemodel").absolute())]
    assert convert(call_json)["reused"] is True  # the new record has the new time
    assert len(read) == 1


def test_what_was_written_just_now_is_hashed_once_more(model, call_json, monkeypatch):
    call_json("convert", *ARGUMENTS)
    monkeypatch.setattr(record, "CLOCK_TICK", 10**12)
    read = []
    monkeypatch.setattr(record, "hashed", lambda path: read.append(path) or digests.hashed(path))
    touch()
    assert convert(call_json)["reused"] is True
    assert convert(call_json)["reused"] is True
    assert len(read) == 2


def test_it_says_so(model, call):
    call("convert", *ARGUMENTS)
    done = call("convert", *ARGUMENTS, "--force")
    assert "extract: not run, nothing has changed since out/net.h5" in done.err
    assert "warning: odd" in done.err
    assert "not run: net.h5 is of the same files and options (--no-cache insists)" in done.out
    assert "extract 0.5 s" not in done.out


def test_force_is_still_needed(model, call_json):
    call_json("convert", *ARGUMENTS)
    assert "--force replaces it" in call_json("convert", *ARGUMENTS)["error"]


def test_a_failed_verification_leaves_its_net(model, call_json, monkeypatch):
    call_json("convert", *ARGUMENTS)
    os.rename("out", "out.failed")
    Path("out.failed/report.json").write_text("{}")
    assert call_json("convert", *ARGUMENTS)["stages"]["extract"]["reused"] is True
    assert not Path("out.failed").exists()


def test_what_was_taken_over_is_taken_over_again(model, call_json):
    call_json("convert", *ARGUMENTS)
    assert convert(call_json)["reused"] is True
    assert convert(call_json)["reused"] is True


def test_an_extraction_that_saw_a_file_change_is_not_used(model, call_json):
    net('fields {"files": null}\n' + NET)
    assert "reused" not in call_json("convert", *ARGUMENTS)["stages"]["extract"]
    assert "reused" not in convert(call_json)
    assert json.loads(MADE_OF.read_text())["extract"] is None
    assert record.is_there(OUT)  # a batch may make it again


# --- a model that is up to date -------------------------------------------------------------------


OPTIONS = Options()
NET_FILE, WEIGHTS, OUT = map(Path, ("net.prototxt", "w.caffemodel", "out"))


def state(**options):
    return record.up_to_date(OUT, NET_FILE, WEIGHTS, Options(**options))


@pytest.mark.parametrize(
    ("between", "options", "changed"),
    [
        (lambda: None, {}, None),
        (touch, {}, None),
        (change_a_byte, {}, "weights changed"),
        (change_a_byte_in_secret, {}, "weights changed"),
        (lambda: Path("net.prototxt").write_text("---\n"), {}, "net changed"),
        (lambda: None, {"tolerance": 0.1}, "--tolerance changed"),
        (lambda: None, {"phase": "TRAIN"}, "--phase changed"),
        (lambda: None, {"labels": Path("labels.txt")}, "--labels changed"),
        (lambda: None, {"plugin": (Path("p"),)}, "--plugin changed"),
        (lambda: None, {"build_python": "/usr/bin/env"}, "--build-python changed"),
        (lambda: None, {"no_cache": True}, "--no-cache"),
        (lambda: None, {"gpu": True}, "--gpu changed"),
        (lambda: None, {"gpu": False}, None),
        (lambda: None, {"force": True, "timeout": 9.0}, None),
        (rewrite_net, {}, "net.h5 changed"),
        (bring_along, {}, "net.h5 changed"),
        (lambda: os.remove("out/names.json"), {}, "names.json is missing"),
        (lambda: Path("out/names.json").write_text("{ }"), {}, "names.json changed"),
        (lambda: os.remove("out/logs/built.json"), {}, "no record"),
        (lambda: os.rename("out", "other"), {}, "not converted yet"),
        (lambda: os.remove("w.caffemodel"), {}, "weights changed"),
        (edit("build", value=[]), {}, "no record"),
        (edit("build", "options", value={}), {}, "the order of options changed"),
    ],
)
def test_up_to_date(between, options, changed, model, call_json):
    call_json("convert", *ARGUMENTS)
    between()
    assert state(**options) == changed


@pytest.mark.parametrize("name", ["../net.prototxt", "/etc/passwd", "a\0b"])
def test_a_record_that_names_files_elsewhere(name, model, call_json):
    call_json("convert", *ARGUMENTS)
    built = Path("out/logs/built.json")
    document = json.loads(built.read_text())
    document["files"] = {name: 1}
    built.write_text(json.dumps(document))
    assert state() in ("no record", f"{name} is missing")


def test_reference_and_calibration(model, call_json):
    Path("images").mkdir()
    Path("images/a.png").write_text("a")
    options = {"reference": Path("r.npz"), "calibration": Path("images")}
    options |= {"formats": "tflite", "quantize": "int8"}
    given = (f"--{name}={value}" for name, value in options.items())
    call_json("convert", *ARGUMENTS, *given)
    assert state(**options) is None
    Path("images/b.png").write_text("b")
    assert state(**options) == "--calibration changed"
    os.remove("images/b.png")
    assert state(**options) is None
    os.utime("r.npz", ns=(1, 1))
    assert state(**options) == "--reference changed"


def test_a_reference_that_was_written_just_now_is_never_up_to_date(model, call_json, monkeypatch):
    monkeypatch.setattr(digests, "CLOCK_TICK", 10**12)
    call_json("convert", *ARGUMENTS, "--reference", "r.npz")
    assert state(reference=Path("r.npz")) == "--reference changed"


def test_the_document_of_what_is_up_to_date(model, call_json):
    first = call_json("convert", *ARGUMENTS)
    document = record.document(OUT)
    assert document["unchanged"] is True
    assert document["worst"] == {"blob": "ip1", "error": 1e-7}
    assert document["stages"]["extract"] == first["stages"]["extract"]
    assert (document["status"], document["exit_code"], document["out"]) == ("ok", 0, "out")
    assert document["seconds"] == 1.0


def test_what_is_no_file_leaves_no_descriptor(model):
    """A thousand models of a batch may each have one."""
    (OUT / "logs" / "made_of.json").mkdir(parents=True)
    before = os.dup(0)
    os.close(before)
    for _ in range(3):
        assert not record.is_there(OUT)
        assert digests.hashed(OUT) == (None, "")
    after = os.dup(0)
    os.close(after)
    assert after == before


def test_in_threads(model, call_json):
    call_json("convert", *ARGUMENTS)
    touch()
    found = {}

    def look(number):
        asked = record.Asked.of(NET_FILE, WEIGHTS, OPTIONS)
        taken = record.reuse(OUT, asked, Path(f"taken{number}.h5"))
        found[number] = (record.up_to_date(OUT, NET_FILE, WEIGHTS, OPTIONS), taken is not None)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(16), (None, True))


# --- the stages themselves ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A real model, converted twice, and then with a byte of its weights changed."""
    folder = tmp_path_factory.mktemp("digits")
    for name in ("deploy.prototxt", "digits.caffemodel"):
        shutil.copy(ROOT / "examples" / "digits" / name, folder)
    arguments = [
        *("convert", folder / "deploy.prototxt", folder / "digits.caffemodel"),
        *("-o", folder / "out", "--formats", "class", "--json"),
    ]

    def converted(*options):
        done = orchestrate(*arguments, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    first = converted()
    kept = {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}
    return SimpleNamespace(folder=folder, converted=converted, first=first, kept=kept)


@pytest.mark.slow
def test_a_real_model(digits):
    out, net_file = digits.folder / "out", digits.folder / "deploy.prototxt"
    weights = digits.folder / "digits.caffemodel"
    options = Options(formats="class")
    assert "reused" not in digits.first["stages"]["extract"]
    assert record.up_to_date(out, net_file, weights, options) is None
    document = record.document(out)
    assert document["worst"] == digits.first["worst"]
    assert document["stages"]["extract"] == digits.first["stages"]["extract"]
    second = digits.converted("--force")
    assert second["stages"]["extract"] == {**digits.first["stages"]["extract"], "reused": True}
    assert second["worst"] == digits.first["worst"]
    for name, content in digits.kept.items():
        if name not in ("report.json", "report.html"):  # these have times
            assert (out / name).read_bytes() == content, name
    assert record.up_to_date(out, net_file, weights, options) is None
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert record.up_to_date(out, net_file, weights, options) == "weights changed"
    assert "reused" not in digits.converted("--force")["stages"]["extract"]
