"""Stage 2 as a process: one warm worker builds net after net, and outlives every failure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from schemas.errors import ConversionError, MalformedModel, StageCrashed, VerificationFailed
from schemas.interchange import read, write
from stage_build import helper as helpers
from stage_build import report, worker
from tests import nets
from tests.paths import ROOT
from tests.test_interchange import rewrite

PATIENCE = 120

LENET = (
    nets.inputs(data=(2, 3, 10, 12)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    nets.layer("ReLU", "conv", "conv", name="relu"),
    nets.layer("Pooling", "conv", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
    nets.layer("InnerProduct", "pool", "ip", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "ip", "prob"),
)
OTHER = (nets.inputs(image=(2, 3, 5, 7)), nets.layer("Sigmoid", "image", "other"))


def net_file(path: Path, *layers: str, **options) -> Path:
    write(path, nets.net(*(layers or LENET), **{"name": "LeNet", **options}))
    return path


# Helpers, with a stage that has no TensorFlow

STAGE = """
import os, signal, time
from schemas.errors import MalformedModel

def handle(say=None, wait=0, fail=None, die=None, crash=False):
    time.sleep(wait)
    if fail:
        raise MalformedModel(fail, "net.h5", "mend it")
    if crash:
        raise RuntimeError("boom")
    if die:
        os.kill(os.getpid(), die)
    print("noise on stdout")
    return {"say": say, "pid": os.getpid()}
"""


@pytest.fixture(params=["forked", "spawned"])
def stage(tmp_path, monkeypatch, capfd, request):
    """A helper whose module is the one above."""
    (tmp_path / "acted_stage.py").write_text(STAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    nursery = helpers.Nursery(["acted_stage"] if request.param == "forked" else [])
    made = helpers.Helper(nursery, "acted_stage")
    yield made
    made.close()
    nursery.close()


def asked(stage, **request):
    return stage.answer(stage.ask(**request))


def test_a_helper_answers_request_after_request(stage):
    first, second = asked(stage, say="é\n"), asked(stage, say=[1, None])
    assert (first["say"], second["say"]) == ("é\n", [1, None])
    assert first["pid"] == second["pid"]
    assert first["peak_bytes"] > 0


def test_a_helper_s_failure_is_raised_as_it_was(stage):
    pid = asked(stage)["pid"]
    with pytest.raises(MalformedModel) as caught:
        asked(stage, fail="damaged")
    assert str(caught.value) == "net.h5: damaged (mend it)"
    with pytest.raises(StageCrashed, match="RuntimeError: boom"):
        asked(stage, crash=True)
    assert asked(stage)["pid"] == pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda n: n.name)
def test_a_helper_that_died_is_told_and_started_again(stage, number):
    pid = asked(stage)["pid"]
    with pytest.raises(StageCrashed, match=f"process of acted_stage was killed by {number.name}"):
        asked(stage, die=int(number))
    again = asked(stage, say="again")
    assert again["say"] == "again"
    assert again["pid"] != pid


def test_a_helper_that_died_between_requests_is_started_again(stage):
    os.kill(asked(stage)["pid"], signal.SIGKILL)
    with contextlib.suppress(StageCrashed):  # it may not be gone yet
        asked(stage)
    assert asked(stage, say="again")["say"] == "again"


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(stage):
    """A build asks its checker and then fails elsewhere; the next build asks for something else."""
    stage.ask(say="abandoned", wait=0.2)
    assert asked(stage, say="wanted")["say"] == "wanted"
    stage.ask(fail="abandoned")
    assert asked(stage, say="wanted again")["say"] == "wanted again"


def test_a_helper_that_grew_large_is_ended_after_its_work(stage, monkeypatch):
    stage.rest()
    first = asked(stage)
    stage.rest()
    assert asked(stage)["pid"] == first["pid"]
    monkeypatch.setattr(helpers, "LARGE", first["peak_bytes"] - 1)
    assert asked(stage)["pid"] == first["pid"]
    stage.rest()
    assert asked(stage)["pid"] != first["pid"]


def test_a_helper_that_died_while_others_waited_is_told(stage):
    """What was asked of it before is not waited for."""
    stage.ask(die=int(signal.SIGKILL))
    time.sleep(0.5)
    lost = stage.ask(say="lost")
    stage.close()
    assert asked(stage, say="again")["say"] == "again"
    with pytest.raises(StageCrashed, match="died before it answered"):
        stage.answer(lost)


def test_helpers_that_die_in_turn_are_told_apart(stage):
    """In both kinds of nursery, however many were started since."""
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        with pytest.raises(StageCrashed, match=f"was killed by {number.name}"):
            asked(stage, die=int(number))


def test_a_nursery_that_died_is_started_again(stage):
    first = asked(stage)["pid"]
    stage._nursery._process.kill()
    stage._nursery._process.wait()
    stage.close()
    assert asked(stage, say="again")["pid"] != first


def test_a_missing_package_is_told_when_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "bare_stage.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    nursery = helpers.Nursery(["bare_stage"])
    made = helpers.Helper(nursery, "bare_stage")
    try:
        with pytest.raises(ConversionError, match="package 'no_such_package' cannot") as caught:
            asked(made)
        assert caught.value.exit_code == 7
    finally:
        made.close()
        nursery.close()


# The command line, without TensorFlow


class Idle:
    """Helpers that must not be asked anything."""

    def close(self) -> None:
        pass


@pytest.fixture
def command(monkeypatch, capsys):
    """`worker.main` up to the point where TensorFlow would be needed: exit code and stderr."""
    monkeypatch.setattr(worker.Helpers, "start", Idle)

    def run(*arguments):
        code = worker.main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert shown.out == ""
        return code, shown.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a net.h5 is needed (see --help)"),
        (["net.h5"], "-o OUT is needed (see --help)"),
        (["net.h5", "-o", "out", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["net.h5", "-o", "out", "--formats", "keras,onnx"], "unknown format 'onnx'; known: class"),
        (["net.h5", "-o", "out", "--tolerance", "1"], "--tolerance should be between 0 and 1"),
        (["net.h5", "-o", "out", "--tolerance", "-0.1"], "--tolerance should be between 0 and 1"),
        (["net.h5", "-o", "out", "--tolerance", "nan"], "--tolerance should be between 0 and 1"),
        (["net.h5", "-o", "out", "--tolerance", "x"], "invalid float value: 'x'"),
        (["missing.h5", "-o", "out"], "missing.h5: no such file or directory"),
        (["net.h5", "-o", "no/out"], "the folder does not exist"),
        (["--verify", "missing"], "missing/net.h5: no such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_exit_code_2(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    net_file(tmp_path / "net.h5", *OTHER)
    code, shown = command(*arguments)
    assert code == 2
    assert message in shown
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_verbose_shows_where_it_went_wrong(command, tmp_path):
    code, shown = command(tmp_path / "missing.h5", "-o", tmp_path / "out", "--verbose")
    assert code == 2
    assert "Traceback" in shown and "missing.h5" in shown


def test_a_damaged_file_is_exit_code_3(command, tmp_path):
    file = net_file(tmp_path / "net.h5")
    data = bytearray(file.read_bytes())
    place = data.index(read(file).weights["ip/0"].tobytes())
    data[place] ^= 1
    file.write_bytes(data)
    code, shown = command(file, "-o", tmp_path / "out")
    assert code == 3
    assert "array 'ip/0' does not match its digest: the file is damaged" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


LYING = (
    nets.inputs(data=(2, 3, 10, 12)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    nets.layer("Pooling", "conv", "pool mask", "pooling_param { kernel_size: 2 stride: 2 }"),
    nets.layer("InnerProduct", "pool", "ip", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "ip", "prob"),
)


def of_layer(name, **fields):
    """Changes a layer's parameter message."""

    def change(index):
        layer = next(layer for layer in index["net"]["layer"] if layer["name"] == name)
        (param,) = layer["fields"].values()
        param.update(fields)

    return change


def of_blob(key, **members):
    return lambda index: index["net"]["blobs"][key].update(members)


def swap_weights(index):
    weights = index["weights"]
    weights["conv/0"], weights["ip/0"] = weights["ip/0"], weights["conv/0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_weights, "'conv/0' has shape [5, 80], expected [4, 3, 3, 3]"),
        (lambda i: i["net"]["layer"][0]["weights"].pop(), "2 parameters expected, found 1"),
        (lambda i: i["net"]["layer"][3]["weights"].append("ip/0"), "0 parameters expected"),
        (lambda i: i["net"]["layer"][0]["bottom"].clear(), "found 0"),
        (of_layer("conv", num_output=10**40), "convolution_param.num_output is 1.0e+40"),
        (of_layer("conv", num_output=2 * 10**9), "a top would have shape [2, 2000000000, 8, 10]"),
        (of_layer("conv", num_output="4"), "should be of type int, found '4'"),
        (of_layer("conv", stride=[0]), "stride should be at least 1"),
        (of_layer("conv", axis=-9), "axis -9 is out of range"),
        (of_layer("ip", axis=float("nan")), "should be of type int, found nan"),
        (of_blob("conv", shape=[2, 4, 8, 11]), "has shape [2, 4, 8, 11], expected [2, 4, 8, 10]"),
        (of_blob("conv", shape=[2, 4, 8]), "top 'conv' has shape [2, 4, 8]"),
        (of_blob("ip", varying=0, batch=None), "top 'ip' is marked as what it is not"),
        (of_blob("ip", batch=1), "top 'ip' has no batch on axis 1"),
        (of_blob("mask", index=False), "top 'mask' is marked as what it is not"),
        (of_blob("data", shape=[2, 3, 2**40, 12]), "[2, 3, 1099511627776, 12]"),
        (of_blob("data", shape=[0, 3, 10, 12]), "[0, 3, 10, 12]"),
        (of_blob("data", varying=1), "the size of an input depends on the data"),
    ],
)  # fmt: skip
def test_a_net_that_contradicts_itself_is_exit_code_3(command, tmp_path, change, message):
    file = net_file(tmp_path / "net.h5", *LYING, record=False)
    rewrite(file, change)
    code, shown = command(file, "-o", tmp_path / "out")
    assert code == 3, shown
    assert message in shown
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_blobs_larger_than_the_memory_are_exit_code_7(command, tmp_path):
    tiles = "tile_param { tiles: 8000000 }"
    file = net_file(
        tmp_path / "net.h5",
        nets.inputs(data=(1, 2, 8, 8)),
        *(nets.layer("Tile", "data", f"t{i}", tiles) for i in range(9999)),
        record=False,
    )
    code, shown = command(file, "-o", tmp_path / "out")
    assert code == 7
    assert "the net's blobs need 40,955,904,000,512 bytes, this machine has" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_a_full_disk_is_exit_code_7(command, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    code, shown = command(net_file(tmp_path / "net.h5"), "-o", tmp_path / "out")
    assert code == 7
    assert "bytes are needed, 1,000 are free" in shown
    assert not (tmp_path / "out").exists()


def test_every_layer_without_a_form_is_listed(command, tmp_path):
    """Caffe crops like a blob of another rank where the axes in question are there."""
    crop = "crop_param { axis: 1 }"
    file = net_file(
        tmp_path / "net.h5",
        nets.inputs(data=(2, 3, 5, 7), like=(2, 3, 5, 7, 1)),
        nets.layer("Crop", "data like", "a", crop, name="once"),
        nets.layer("Crop", "data like", "b", crop, name="again"),
    )
    code, shown = command(file, "-o", tmp_path / "out")
    assert code == 4
    assert "layer 'once' (Crop, line " in shown
    assert "layer 'again' (Crop, line " in shown
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


# Reports


def outcome(name, error, passed=True, reason=""):
    found = {
        "name": name,
        "shape": [1],
        "max_error": error,
        "mean_error": error,
        "magnitude": 2.0,
        "passed": passed,
        "reason": reason,
    }
    return {
        "passed": passed,
        "worst": found,
        "first_failure": None if passed else found,
        "blobs": [found],
    }


def shown_by(recorded=None, batch=None, user=None, **more):
    return {"recorded": recorded, "batch": batch, "user": user, "skipped": {}, **more}


def test_a_verdict_needs_something_to_go_by():
    content = nets.net(*OTHER)
    with pytest.raises(ConversionError, match="nothing to verify against") as caught:
        report.make_report(content, {"class": shown_by()}, 1e-4)
    assert caught.value.exit_code == 2


def test_the_worst_of_all_artefacts_is_told():
    content = nets.net(*OTHER)
    made = report.make_report(
        content,
        {
            "class": shown_by(outcome("a", 0.2), batch=outcome("b", 0.4)),
            "keras": shown_by(outcome("c", 0.3)),
        },
        1e-4,
    )
    assert made["status"] == "ok"
    assert made["worst"] == {"blob": "b", "error": 0.2}
    assert made["first_failure"] is None
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("part", list(report.AGAINST))
def test_one_failure_is_enough(part):
    content = nets.net(*OTHER)
    failed = outcome("other", None, False, "infinities or NaNs in other places")
    results = {
        "class": shown_by(**{"recorded": outcome("image", 0.0), part: failed}),
        "keras": shown_by(outcome("other", 0.1)),
    }
    made = report.make_report(content, results, 1e-4)
    assert made["status"] == "failed"
    assert made["worst"] == {"blob": "other", "error": None}
    error = report.failure(content, made)
    assert isinstance(error, VerificationFailed)
    assert error.worst == {"blob": "other", "error": None}
    assert f"blob 'other' of the class differs from {report.AGAINST[part]}: " in str(error)
    assert "infinities or NaNs in other places" in str(error)
    assert str(error).startswith("layer 'other' (Sigmoid, line ")


# A warm worker


class Worker:
    """`stage_build.worker.main` in a process, taking jobs from us."""

    def __init__(self, folder: Path) -> None:
        read_end, write_end = os.pipe()
        start = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            "from stage_build.worker import main; sys.exit(main(sys.argv[1:]))"
        )
        self._log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, "--serve", "--events", str(write_end)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[write_end],
            text=True,
        )
        os.close(write_end)
        self._events: queue.Queue[str] = queue.Queue()
        self._pipe = os.fdopen(read_end, encoding="utf-8")
        threading.Thread(target=self._read, daemon=True).start()
        assert self.event()["event"] == "started"

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            for line in self._pipe:
                self._events.put(line)

    def event(self) -> dict:
        """The next one that is no mere sign of life."""
        while (event := json.loads(self._events.get(timeout=PATIENCE)))["event"] == "alive":
            pass
        return event

    def start(self, *arguments) -> None:
        line = json.dumps({"argv": [str(argument) for argument in arguments]})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait_for(self, task: str) -> None:
        """Reads events up to the start of a task."""
        while (event := self.event()).get("task") != task:
            assert event["event"] == "progress", event

    def end(self) -> dict:
        """The event that ends the job."""
        while (event := self.event())["event"] == "progress":
            assert 0 <= event["done"] <= event["total"]
        return event

    def run(self, *arguments) -> dict:
        self.start(*arguments)
        return self.end()

    def helpers(self, name: str) -> list[int]:
        """The numbers of the helper processes of a name: children of the nursery, ours."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,comm="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        (nursery,) = (pid for pid, parent, _ in rows if int(parent) == self.process.pid)
        return [int(pid) for pid, parent, comm in rows if parent == nursery and comm == name]

    def close(self) -> int:
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self._log.close()
        self._pipe.close()
        return code


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The one worker of this file; it must have survived everything."""
    made = Worker(tmp_path_factory.mktemp("worker"))
    yield made
    assert made.process.poll() is None
    assert made.close() == 0


@pytest.fixture(scope="module")
def good(served, tmp_path_factory):
    """A built net: its folder and the result event."""
    folder = tmp_path_factory.mktemp("good")
    event = served.run(net_file(folder / "net.h5"), "-o", folder / "out")
    assert event["event"] == "result", event
    return folder / "out", event


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_result_is_complete(good):
    out, event = good
    assert {path.name for path in out.iterdir()} == {
        "__init__.py",
        "__main__.py",
        "model.py",
        "caffe_layers.py",
        "weights.npz",
        "model.keras",
        "saved_model",
        "net.h5",
        "names.json",
        "report.html",
        "report.json",
    }
    assert (out / "saved_model" / "saved_model.pb").is_file()
    assert (out / "net.h5").read_bytes() == (out.parent / "net.h5").read_bytes()
    assert {path.name for path in out.parent.iterdir()} == {"net.h5", "out"}
    assert event["out"] == str(out)
    assert event["status"] == "ok"
    assert event["compared"] == {"class": 6, "keras": 6, "saved_model": 1}
    assert event["worst"]["error"] < 1e-5
    assert event["seconds"] > 0
    assert set(event["peak_bytes"]) == {"build", "export", "check"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="helpers have no names")
def test_one_exporter_and_one_checker_serve_many_models(good, served, tmp_path):
    names = ("export", "check")
    before = [served.helpers(name) for name in names]
    event = served.run(net_file(tmp_path / "net.h5"), "-o", tmp_path / "out")
    assert event["event"] == "result", event
    assert [len(found) for found in before] == [1, 1]
    assert [served.helpers(name) for name in names] == before


def test_the_report_says_what_was_compared(good):
    out, event = good
    made = json.loads((out / "report.json").read_text())
    assert made["status"] == "ok"
    assert made["net"] == "LeNet"
    assert made["tolerance"] == 1e-4
    assert [blob["name"] for blob in made["blobs"]] == [
        "data", "conv@conv", "conv", "pool", "ip", "prob"
    ]  # fmt: skip
    assert all(blob["passed"] and blob["max_error"] <= 1e-4 for blob in made["blobs"])
    assert set(made["artefacts"]) == {"class", "keras", "saved_model"}
    assert all(part["passed"] for part in made["artefacts"].values())
    assert made["batch"]["passed"]
    assert made["worst"] == event["worst"]
    assert made["reference"] == "numpy"
    assert made["dynamic_batch"]
    assert made["sources"][0]["sha256"] == "0123456789abcdef" * 4
    assert {"python", "keras", "numpy", "h5py"} <= set(made["versions"])
    assert {"generate", "export keras", "verify class", "build"} <= set(made["seconds"])
    assert all(size > 2**20 for size in made["peak_bytes"].values())


def test_the_result_runs_by_itself_as_a_program(good):
    """`python -m OUT`, with nothing of ours to import."""
    out, _ = good
    ran = subprocess.run(
        [sys.executable, "-m", "out"],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "input 'data': data" in ran.stdout
    assert "output 'prob': prob" in ran.stdout


def test_the_same_again_gives_the_same_bytes(served, good, tmp_path):
    out, _ = good
    assert served.run(out / "net.h5", "-o", tmp_path / "out")["event"] == "result"
    first, second = digests(out), digests(tmp_path / "out")
    for name in ("model.py", "__init__.py", "caffe_layers.py", "names.json", "weights.npz"):
        assert first[name] == second[name], name


def test_a_result_is_verified_again(served, good):
    out, _ = good
    before = digests(out)
    event = served.run(out, "--verify")
    assert event["event"] == "result"
    assert event["compared"] == {"class": 6, "keras": 6, "saved_model": 1}
    assert digests(out) == before


def test_a_result_that_was_changed_is_not_verified(served, good, tmp_path):
    out, _ = good
    shutil.copytree(out, tmp_path / "out")
    model = tmp_path / "out" / "model.py"
    model.write_text(model.read_text().replace('"max"', '"average"'))
    event = served.run(tmp_path / "out", "--verify")
    assert (event["event"], event["exit_code"]) == ("error", 5)
    assert "blob 'pool' of the class differs" in event["message"]


def test_a_reference_of_the_users_own(served, good, tmp_path):
    out, _ = good
    recorded = read(out / "net.h5").reference
    arrays = {"input:data": recorded.inputs["data"], "blob:ip": recorded.blobs["ip"]}
    np.savez(tmp_path / "r.npz", **arrays, **{"blob:gone": np.zeros(3)})
    event = served.run(out, "--verify", "--reference", tmp_path / "r.npz")
    assert event["event"] == "result"
    assert set(event["skipped"]) == {"gone"}
    np.savez(tmp_path / "r.npz", **{**arrays, "blob:ip": arrays["blob:ip"] + 1})
    event = served.run(out / "net.h5", "-o", tmp_path / "out", "--reference", tmp_path / "r.npz")
    assert (event["event"], event["exit_code"]) == ("error", 5)
    assert "blob 'ip' of the class differs from the user reference" in event["message"]
    (tmp_path / "r.npz").write_text("text")
    event = served.run(out, "--verify", "--reference", tmp_path / "r.npz")
    assert (event["event"], event["exit_code"]) == ("error", 3)


def test_what_fewer_bits_cost_is_no_layers_fault():
    content = nets.net(*OTHER)
    results = {
        "class": shown_by(outcome("other", 0.0)),
        "tflite": {
            **shown_by(outcome("other", 0.1, False)),
            "quantized": "int8",
            "tolerance": 0.01,
        },
    }
    error = report.failure(content, report.make_report(content, results, 1e-4))
    assert str(error).startswith("model.tflite: blob 'other' of the tflite differs from ")
    assert error.hint.startswith("that is what --quantize int8 costs: choose float16")


@pytest.mark.parametrize("file", ["weights.npz", "model.keras", "names.json"])
def test_what_was_cut_off_since_is_named(served, good, file, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(good[0], out)
    content = (out / file).read_bytes()
    (out / file).write_bytes(content[: len(content) // 2])
    event = served.run(out, "--verify")
    assert (event["event"], event["exit_code"]) == ("error", 3)
    assert "cannot be loaded or run" in event["message"]


def test_every_format_is_held_to_the_class_where_nothing_was_recorded(served, tmp_path):
    file = net_file(tmp_path / "net.h5", *OTHER, record=False)
    given = nets.net(*OTHER).reference
    arrays = {"input:image": given.inputs["image"], "blob:other": given.blobs["other"]}
    np.savez(tmp_path / "r.npz", **arrays)
    asked = ("--reference", tmp_path / "r.npz")
    event = served.run(file, "-o", tmp_path / "out", *asked)
    assert event["compared"] == {"class": 1, "keras": 1, "saved_model": 1}
    assert served.run(tmp_path / "out", "--verify", *asked)["compared"] == event["compared"]


def test_nothing_is_built_without_a_reference(served, tmp_path):
    file = net_file(tmp_path / "net.h5", *OTHER, record=False)
    event = served.run(file, "-o", tmp_path / "out")
    assert (event["event"], event["exit_code"]) == ("error", 2)
    assert "nothing to verify against" in event["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["net.h5"]


def test_the_formats_that_are_asked_for(served, tmp_path):
    file = net_file(tmp_path / "net.h5", *OTHER)
    event = served.run(file, "-o", tmp_path / "a", "--formats", "class")
    assert set(event["compared"]) == {"class"}
    event = served.run(file, "-o", tmp_path / "b", "--formats", "saved_model")
    assert set(event["compared"]) == {"class", "saved_model"}
    assert not (tmp_path / "b" / "model.keras").exists()
    assert (tmp_path / "b" / "weights.npz").is_file()


def test_net_and_logs_can_be_handed_over(served, tmp_path):
    file = net_file(tmp_path / "net.h5", *OTHER)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "extract.log").write_text("words")
    (tmp_path / "extract.json").write_text(json.dumps({"seconds": 3.5, "peak_bytes": 77}))
    event = served.run(
        file, "-o", tmp_path / "out", "--adopt", "--formats", "class",
        "--logs", tmp_path / "logs", "--extract-report", tmp_path / "extract.json",
    )  # fmt: skip
    assert event["event"] == "result", event
    assert not file.exists()
    assert (tmp_path / "out" / "net.h5").is_file()
    assert (tmp_path / "out" / "logs" / "extract.log").read_text() == "words"
    made = json.loads((tmp_path / "out" / "report.json").read_text())
    assert made["seconds"]["extract"] == 3.5
    assert made["peak_bytes"]["extract"] == 77


def check_error(event, exit_code, message):
    assert (event["event"], event["exit_code"]) == ("error", exit_code), event
    assert message in event["message"]
    assert "Traceback" in event["traceback"]


def wrong_arguments(file, out):
    return ["--nonsense"], 2, "unrecognized arguments"


def no_file(file, out):
    file.unlink()
    return [file, "-o", out], 2, "no such file"


def the_target_exists(file, out):
    out.mkdir()
    return [file, "-o", out], 2, "the target exists"


def the_target_is_no_result(file, out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    return [file, "-o", out, "--force"], 2, "not a converted model, so it is not replaced"


def the_failed_folder_is_no_result(file, out):
    failed = out.with_name("out.failed")
    failed.mkdir()
    (failed / "thesis.txt").write_text("mine")
    return [file, "-o", out], 2, "no failed run has left this"


def not_hdf5(file, out):
    file.write_text("text")
    return [file, "-o", out], 3, "not an HDF5 file"


def truncated(file, out):
    file.write_bytes(file.read_bytes()[:-700])
    return [file, "-o", out], 3, ""


def another_index(file, out):
    rewrite(file, lambda index: index["net"].update(outputs=["nowhere"]))
    return [file, "-o", out], 3, "written by no layer"


def a_newer_version(file, out):
    rewrite(file, lambda index: index.update(version=99))
    return [file, "-o", out], 4, "version 99 is newer"


def an_unknown_layer(file, out):
    rewrite(file, lambda index: index["net"]["layer"][0].update(type="Mystery"))
    return [file, "-o", out], 4, "layer 'other' (Mystery"


@pytest.mark.parametrize(
    "prepare",
    [
        wrong_arguments,
        no_file,
        the_target_exists,
        the_target_is_no_result,
        the_failed_folder_is_no_result,
        not_hdf5,
        truncated,
        another_index,
        a_newer_version,
        an_unknown_layer,
    ],
    ids=lambda prepare: prepare.__name__,
)
def test_a_job_that_fails_leaves_nothing_and_the_worker_goes_on(served, tmp_path, prepare):
    file = net_file(tmp_path / "net.h5", *OTHER)
    arguments, exit_code, message = prepare(file, tmp_path / "out")
    before = digests(tmp_path)
    check_error(served.run(*arguments), exit_code, message)
    assert digests(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # The same worker builds what comes next.
    net_file(tmp_path / "next.h5", *OTHER)
    event = served.run(tmp_path / "next.h5", "-o", tmp_path / "next", "--formats", "class")
    assert event["event"] == "result", event


def change_reference(file: Path, key: str, change) -> None:
    """Alters a recorded blob and puts all digests right."""
    with h5py.File(file, "r+") as opened:
        index = json.loads(opened["index"][()].tobytes())
        entry = index["arrays"][index["reference"]["blobs"][key]]
        array = change(opened[entry["dataset"]][()])
        opened[entry["dataset"]][...] = array
    rewrite(
        file,
        lambda index: index["arrays"][index["reference"]["blobs"][key]].update(
            sha256=hashlib.sha256(array.tobytes()).hexdigest()
        ),
    )


def test_a_model_that_differs_from_its_reference_is_kept_apart(served, tmp_path):
    file = net_file(tmp_path / "net.h5")
    change_reference(file, "pool", lambda x: x + np.float32(1))
    out, failed = tmp_path / "out", tmp_path / "out.failed"
    event = served.run(file, "-o", out)
    check_error(event, 5, "blob 'pool' of the class differs from the recorded reference")
    assert "largest error 1 at magnitude " in event["message"]
    assert event["where"].startswith("layer 'pool' (Pooling, line ")
    assert "layer 'pool' (Pooling, line " in event["hint"]
    assert event["worst"]["blob"] == "pool"
    assert {path.name for path in tmp_path.iterdir()} == {"net.h5", "out.failed"}
    made = json.loads((failed / "report.json").read_text())
    assert made["status"] == "failed"
    assert made["first_failure"]["name"] == "pool"
    assert made["first_failure"]["artefact"] == "class"
    assert made["culprit"]["layer"] == "pool"
    assert [blob["name"] for blob in made["blobs"] if not blob["passed"]] == ["pool"]
    assert (failed / "net.h5").is_file() and (failed / "model.py").is_file()
    # Once more: the failure of before gives way.
    check_error(served.run(file, "-o", out, "--formats", "class"), 5, "blob 'pool'")
    # The earlier result is not touched.
    good_file = net_file(tmp_path / "good.h5")
    assert served.run(good_file, "-o", out, "--formats", "class")["event"] == "result"
    before = digests(out)
    event = served.run(file, "-o", out, "--force", "--formats", "class")
    check_error(event, 5, "blob 'pool'")
    assert digests(out) == before
    # And the failed folder can be looked at again, with the same verdict.
    check_error(served.run(failed, "--verify"), 5, "blob 'pool'")


def test_a_result_is_replaced_when_told_to(served, tmp_path):
    out = tmp_path / "out"
    first = net_file(tmp_path / "a.h5", *OTHER)
    assert served.run(first, "-o", out, "--formats", "class")["event"] == "result"
    (out / "mine.txt").write_text("left behind")
    event = served.run(net_file(tmp_path / "b.h5"), "-o", out, "--force", "--formats", "class")
    assert event["event"] == "result"
    assert json.loads((out / "report.json").read_text())["net"] == "LeNet"
    assert not (out / "mine.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "b.h5", "out"}


@pytest.mark.parametrize(
    ("name", "task"),
    [("export", "export"), ("check", "verify class")],
    ids=["exporter", "checker"],
)
@pytest.mark.skipif(not helpers.FORKS, reason="helpers that are not forked have no name")
def test_a_killed_helper_fails_its_job_alone(served, tmp_path, name, task):
    """It is held, so that it dies in the middle of the job and not after it."""
    file, out = net_file(tmp_path / "net.h5"), tmp_path / "out"
    assert (
        served.run(file, "-o", tmp_path / "warm", "--formats", "saved_model")["event"] == "result"
    )
    pids = served.helpers(name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    served.start(file, "-o", out)
    served.wait_for(task)
    time.sleep(0.5)  # the task is told, then asked for
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    check_error(
        served.end(), 6, f"the process of stage_build.artefacts.{name} was killed by SIGKILL"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"net.h5", "warm"}
    # What the other helper had to say of that job is not taken for the next one's.
    event = served.run(net_file(tmp_path / "other.h5", *OTHER), "-o", out)
    assert event["event"] == "result", event
    assert event["compared"] == {"class": 2, "keras": 2, "saved_model": 1}
    blobs = json.loads((out / "report.json").read_text())["blobs"]
    assert [blob["name"] for blob in blobs] == ["image", "other"]
    assert set(served.helpers(name)).isdisjoint(pids)
