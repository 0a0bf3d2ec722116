"""Workers that hang, are killed or run out of memory; what they are started with; their logs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from driver import environment as settings
from driver import job, worker
from driver.display import Display
from driver.environment import environment
from schemas import processes
from schemas.errors import EnvironmentProblem
from schemas.events import as_conversion_error
from tests.paths import ROOT
from tests.rooms import listing, net, require_gone, start, until, wait_for

DIGITS = ROOT / "examples" / "digits"
LINUX = sys.platform == "linux"
on_linux = pytest.mark.skipif(not LINUX, reason="asks /proc")


def error_of(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("error:"))


def script(stage: str, acts: str) -> str:
    return net(acts + "---\n" if stage == "extract" else "---\n" + acts)


# --- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "act"),
    [("extract", "signal SIGSTOP"), ("build", "hold 60")],
    ids=["stopped", "wedged in C"],
)
def test_a_silent_worker_is_ended_and_says_where_it_was(room, call, monkeypatch, stage, act):
    monkeypatch.setattr(worker, "SILENCE", 3.0)
    acts = f"print last words\nprogress thinking 1 2\nchild child\npid pid\nstubborn\n{act}\n"
    done = call("convert", script(stage, acts), "-o", "out")
    assert done.code == 6
    error = error_of(done.err)
    assert error.startswith(f"error: {stage}: the {stage} worker stopped responding 3 s ago; ")
    assert "its last task was 'thinking', for " in error
    assert "run it again" in error
    assert "  | last words" in done.err
    function = "suicide" if "signal" in act else "hold"
    assert '__main__.py", line' in done.err and f"in {function}" in done.err
    assert f"in {function}" in Path(f"out.failed/logs/{stage}.log").read_text()
    require_gone(int(Path(name).read_text()) for name in ("child", "pid"))


def test_a_silent_worker_that_warms_up_is_ended(room, call, monkeypatch):
    monkeypatch.setattr(worker, "SILENCE", 3.0)
    (room.root / "stage_build" / "at_start").write_text("signal SIGSTOP")
    done = call("convert", net("sleep 60\n---\n"), "-o", "out")
    assert done.code == 6
    assert "error: build: the build worker stopped responding" in done.err


@on_linux
def test_a_worker_that_computes_without_a_word_is_alive(room, call, monkeypatch):
    monkeypatch.setattr(worker, "SILENCE", 1.0)
    done = call("extract", net("compute 25\n"), "-o", "n.h5")
    assert done.code == 0, done.err


def test_time_in_which_the_driver_stood_still_is_nobody_s_silence(room, call, monkeypatch):
    """As when the machine sleeps: driver and worker stop, and go on at the same time."""
    monkeypatch.setattr(worker, "SILENCE", 3.0)
    ready, slept = job.ready, []

    def asleep(workers, timeout):
        if Path("pid").exists() and Path("pid").read_text() and not slept:
            slept.append(int(Path("pid").read_text()))
            os.kill(slept[0], signal.SIGSTOP)
            time.sleep(4)
            list(ready(workers, 0))
            os.kill(slept[0], signal.SIGCONT)
        return ready(workers, timeout)

    monkeypatch.setattr(job, "ready", asleep)
    assert call("convert", net("pid pid\nsleep 1\n---\n"), "-o", "out").code == 0
    assert slept


def test_a_result_that_came_while_the_driver_was_stopped_counts(room, call, late, monkeypatch):
    ready, slept = job.ready, []

    def stopped(workers, timeout):
        if not slept:
            slept.append(True)
            until(lambda: workers[0].process.poll() is not None, "it does not end")
        return ready(workers, timeout)

    late(lambda: slept)
    monkeypatch.setattr(job, "ready", stopped)
    done = call("extract", net("---\n"), "-o", "n.h5", "--timeout", "2")
    assert (done.code, slept) == (0, [True]), done.err


# --- deadlines ------------------------------------------------------------------------------------

LATE = "progress thinking 1 2\nstubborn\npid late\nsleep 60\n"


def settled(name: str) -> bool:
    """Whether an act has written this file, and a second ago: the next one is under way."""
    return Path(name).exists() and time.time() - Path(name).stat().st_mtime > 1


@pytest.mark.parametrize("command", ["extract", "build", "verify", "inspect", "validate"])
def test_a_deadline_holds_in_every_command(room, call, late, command):
    validation = room.root / "stage_build" / "validation"
    validation.mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(room.root / "stage_build" / name, validation / name)
    net(LATE), net(LATE, "net.h5")
    Path("model").mkdir(), Path("images").mkdir()
    net(LATE, "model/net.h5"), net("{}", "model/names.json")
    arguments = {
        "extract": ("net.prototxt", "-o", "out.h5"),
        "build": ("net.h5", "-o", "out"),
        "verify": ("model",),
        "inspect": ("net.h5",),
        "validate": ("model", "--images", "images"),
    }
    late(lambda: settled("late"))
    done = call(command, *arguments[command], "--timeout", "600")
    stage = {"inspect": "extract", "verify": "build"}.get(command, command)
    assert done.code == 6, done.err
    error = error_of(done.err)
    assert error.startswith(f"error: {stage}: the {stage} worker took longer than 600 s; its last")
    assert "task was 'thinking', for " in error
    assert "(raise --timeout)" in error
    assert "in <lambda>" in done.err  # where it slept
    kept = Path(done.err.partition("logs and report: ")[2].strip())
    assert "in <lambda>" in (kept / f"logs/{stage}.log").read_text()


def test_nothing_is_made_after_the_deadline(room, call):
    done = call("convert", net("---\nlinger\n"), "-o", "out", "--timeout", "1.5")
    assert done.code == 6, done.err
    assert "in linger" in done.err
    assert listing(room.here) == {"net.prototxt", "out.failed"}


def test_a_deadline_holds_while_the_worker_warms_up(room, call, late, monkeypatch):
    extracted = []
    monkeypatch.setattr(Display, "done", lambda self, stage: extracted.append(stage))
    late(lambda: extracted)
    (room.root / "stage_build" / "at_start").write_text("sleep 60")
    done = call("convert", net("---\n"), "-o", "out", "--timeout", "600")
    assert done.code == 6
    assert "error: build: the build worker took longer than 600 s (raise --timeout)" in done.err


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SIGKILL", "fewer --formats, a smaller --input-shape, in a batch fewer --jobs"),
        ("SIGTERM", "a batch system at one of its limits"),
        ("SIGXCPU", "`ulimit -t`"),
        ("SIGILL", "another processor"),
        ("SIGABRT", "its last words"),
    ],
)
def test_a_signal_is_named_with_what_to_do(room, call, name, advice):
    done = call("extract", net(f"progress thinking 1 2\nsignal {name}\n"), "-o", "n.h5")
    assert done.code == 6
    error = error_of(done.err)
    assert f"was killed by {name}" in error and "during 'thinking'" in error and advice in error
    assert listing(room.here) == {"net.prototxt", "n.h5.failed"}


def control_groups() -> Iterator[tuple[Path, str]]:
    """The folders of the control groups that we are in, and how their limit of memory is called."""
    for line in Path("/proc/self/cgroup").read_text().splitlines() if LINUX else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield Path("/sys/fs/cgroup/memory") / path.strip("/"), "memory.limit_in_bytes"
        elif not controllers:
            yield Path("/sys/fs/cgroup") / path.strip("/"), "memory.max"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of ours, with 200 MB of memory."""
    for around, limit in control_groups():
        folder = around / f"orchestrate-{uuid.uuid4().hex[:8]}"
        with suppress(OSError):
            folder.mkdir()
            (folder / limit).write_text(str(200 << 20))
            break
        with suppress(OSError):
            folder.rmdir()
    else:
        pytest.skip("no control group with a limit of memory can be made here")
    yield folder
    until(lambda: not (folder / "cgroup.procs").read_text(), "the group is in use")
    folder.rmdir()


def test_the_out_of_memory_killer_is_named(room, group):
    command = [sys.executable, str(room.root / "orchestrate.py")]
    command += ["extract", net("progress weights 1 2\nfill 400\n"), "-o", "n.h5"]
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, "sh", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    error = error_of(done.stderr)
    assert "the extract worker was killed by the out-of-memory killer during 'weights'" in error
    assert "a machine with more memory" in error


@on_linux  # macOS has no limit of the address space
def test_a_limit_of_memory_is_the_environment_s(room):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    argv = ("extract", net("print odd\nfill 2000\n"), "-o", "n.h5")
    process = start(room.root, *argv, preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "error: extract: out of memory" in err
    assert Path("n.h5.failed/logs/extract.log").read_text() == "odd\n"
    assert "  | odd" in err


def test_tensorflow_s_and_numpy_s_want_of_memory_is_known():
    numpy = pytest.importorskip("numpy")
    with pytest.raises(MemoryError) as caught:
        numpy.ones(1 << 60, "int8")
    tensorflow = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor")
    for error in (caught.value, tensorflow):
        assert isinstance(as_conversion_error(error), EnvironmentProblem)


@pytest.mark.parametrize("act", ["sleep 60", "wait_for never"], ids=["asleep", "at work"])
@pytest.mark.parametrize("stage", ["extract", "build"])
def test_a_killed_driver_leaves_no_process(room, stage, act):
    acts = f"stubborn\nchild child\npid pid\n{act}\n"
    process = start(room.root, "convert", script(stage, acts), "-o", "out")
    pids = [int(wait_for(room.here / name)) for name in ("child", "pid")]
    process.kill()
    process.communicate()
    require_gone(pids)
    with start(room.root, "convert", net("---\n"), "-o", "out") as again:
        again.communicate(timeout=60)
    assert again.returncode == 0
    assert listing(room.here) == {"net.prototxt", "child", "pid", "out"}  # swept


# --- events ---------------------------------------------------------------------------------------


def test_lines_of_several_threads_stay_whole():
    reading, writing = os.pipe()
    code = (
        "import sys, threading\n"
        "from schemas import events\n"
        "events.BEAT = 0.0005\n"
        "said = events.Events(int(sys.argv[1]))\n"
        "speak = lambda mark: [said.warning(mark * 50_000) for _ in range(50)]\n"
        "speakers = [threading.Thread(target=speak, args=[mark]) for mark in 'abc']\n"
        "[each.start() for each in speakers]\n"
        "[each.join() for each in speakers]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(writing)], cwd=ROOT, pass_fds=(writing,)
    )
    os.close(writing)
    with os.fdopen(reading) as lines:
        events = [json.loads(line) for line in lines]
    assert process.wait() == 0
    beats = [event for event in events if event["event"] == "alive"]
    messages = [event["message"] for event in events if event["event"] == "warning"]
    assert len(beats) + len(messages) == len(events)
    assert sorted(messages) == sorted(mark * 50_000 for mark in "abc" for _ in range(50))
    assert beats and all(beat["bytes"] > 1 << 20 and beat["seconds"] > 0 for beat in beats)


# --- logs -----------------------------------------------------------------------------------------


def test_a_batch_keeps_each_model_s_own_part_of_the_logs(room, call):
    (
        net("print first\n---\nprint built\n", "a"),
        net("print second\n---\nprint dying\nexit 1\n", "b"),
    )
    net("".join(f'[[model]]\nname = "{n}"\nprototxt = "{n}"\n' for n in "ab"), "c.toml")
    assert call("batch", "c.toml", "-o", "out").code == 6
    assert Path("out/a/logs/extract.log").read_text() == "first\n"
    assert Path("out/b.failed/logs/extract.log").read_text() == "second\n"
    assert Path("out/b.failed/logs/build.log").read_text() == "dying\n"


# --- environment ----------------------------------------------------------------------------------

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
GPU = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_FORCE_GPU_ALLOW_GROWTH")


@pytest.fixture
def seen(room, call_json, monkeypatch):
    """What both stages see of some variables, by stage and name."""
    for name in (*THREADS, *GPU):
        monkeypatch.delenv(name, raising=False)

    def seen(names, *options):
        acts = "".join(f"environ {name}\n" for name in names)
        document = call_json("convert", net(f"{acts}---\n{acts}"), "-o", "out", "--force", *options)
        pairs = [said.partition("=") for said in document["warnings"]]
        return {tuple(name.split()): None if value == "None" else value for name, _, value in pairs}

    return seen


def test_extraction_sees_no_settings_of_tensorflow(seen, monkeypatch):
    names = ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "KERAS_HOME", "TFLITE_X", "TF_CONFIG")
    for name in names:
        monkeypatch.setenv(name, "{}")
    found = seen(names)
    assert found == {
        (stage, name): "{}" if stage == "build" else None
        for stage in ("extract", "build")
        for name in names
    }


def test_threads_are_what_there_is_of_processors(seen, monkeypatch):
    monkeypatch.setattr(settings, "processors", lambda: 3)
    found = seen(THREADS)
    assert [found["build", name] for name in THREADS] == ["3", "3", "3"]
    assert [found["extract", name] for name in THREADS] == [None, None, "3"]


def test_a_user_s_own_number_of_threads_is_respected(seen, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "8")
    found = seen(THREADS)
    assert [found["build", name] for name in THREADS[::2]] == ["8", "7"]
    assert found["extract", "OMP_NUM_THREADS"] == "7"


def test_the_jobs_of_a_batch_share_the_processors(room, call_json, monkeypatch):
    monkeypatch.setattr("driver.batch.processors", lambda: 8)
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    acts = f"environ {THREADS[2]}\n---\n" + "".join(f"environ {name}\n" for name in THREADS)
    for name in "abc":
        net(acts, name)
    net("".join(f'[[model]]\nname = "{n}"\nprototxt = "{n}"\n' for n in "abc"), "c.toml")
    for model in call_json("batch", "c.toml", "-o", "out", "--jobs", "3")["models"]:
        assert {said.partition("=")[2] for said in model["warnings"]} == {"2"}


@pytest.mark.parametrize(
    ("stage", "names"), [("build", THREADS), ("extract", THREADS[2:])], ids=str
)
@on_linux
def test_numpy_computes_with_so_many_threads(stage, names):
    pytest.importorskip("numpy")
    code = (
        "import re, numpy\n"
        "numpy.ones((500, 500)) @ numpy.ones((500, 500))\n"
        "print(re.search(r'Threads:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(stage, sys.executable, threads=1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("visible", "options", "expected"),
    [
        ("1", (), ("-1", None, None)),
        ("1", ("--no-gpu",), ("-1", None, None)),
        ("1", ("--gpu",), ("1", "0", "true")),
        (None, ("--gpu",), (None, "0", "true")),
    ],
)
def test_gpus_are_seen_where_they_are_asked_for(seen, monkeypatch, visible, options, expected):
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = seen(GPU, *options)
    assert tuple(found["build", name] for name in GPU) == expected
    assert tuple(found["extract", name] for name in GPU) == ("-1", None, None)


@pytest.mark.parametrize(("gpu", "expected"), [(None, "1"), (False, "-1"), (True, "1")])
def test_validation_sees_by_default_the_gpus_that_the_environment_names(monkeypatch, gpu, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert environment("validate", "python", gpu=gpu)["CUDA_VISIBLE_DEVICES"] == expected


def test_a_catalogue_s_models_have_gpus_as_they_ask(room, call_json, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    names = [("a", "true"), ("b", "false"), ("c", "true")]
    for name, _ in names:
        net(f"---\nenviron {GPU[0]}\n", name)
    lines = [f'[[model]]\nname = "{n}"\nprototxt = "{n}"\ngpu = {gpu}\n' for n, gpu in names]
    net("".join(lines), "c.toml")
    models = call_json("batch", "c.toml", "-o", "out")["models"]
    assert [model["warnings"] for model in models] == [
        [f"build {GPU[0]}={value}"] for value in ("1", "-1", "1")
    ]


# --- what the system tells ------------------------------------------------------------------------


def a_system(folder: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.events": "oom 3\noom_kill 2\n"}, 2),
        ("0::/of/the/host\n", {"sys/fs/cgroup/memory.events": "oom_kill 4\n"}, 4),
        (
            "4:cpu,memory:/a\n0::/\n",
            {"sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 1\n"},
            1,
        ),
        ("0::/\n", {"proc/vmstat": "pgfault 9\noom_kill 5\n"}, 5),
        ("0::/\n", {}, None),
    ],
    ids=["version 2", "container", "version 1", "none", "nothing"],
)
def test_kills_for_want_of_memory_are_counted(tmp_path, cgroup, files, expected):
    assert processes.oom_kills(a_system(tmp_path, cgroup, files)) == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 2),
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (
            "3:cpuacct,cpu:/a\n",
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ("0::/\n", {}, 8),
    ],
    ids=["version 2", "around", "version 1", "none"],
)
def test_processors_are_what_affinity_and_quota_leave(
    tmp_path, monkeypatch, cgroup, files, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert processes.processors(a_system(tmp_path, cgroup, files)) == expected


# --- the real workers -----------------------------------------------------------------------------


def test_a_build_worker_s_part_of_its_log_is_kept(tmp_path):
    pytest.importorskip("h5py")
    from stage_build.build import Job, _place
    from stage_build.delivery import Delivery

    (tmp_path / "net.h5").write_text("a net")
    log = tmp_path / "build.log"
    log.write_text("of an earlier job\nof this one\n")
    for logs in ("empty", "own"):
        (tmp_path / logs).mkdir()
    (tmp_path / "own" / "build.log").write_text("all of it\n")
    job = {"net_file": tmp_path / "net.h5", "delivery": Delivery(()), "tolerance": 1e-4}
    job |= {"log": log, "log_start": len("of an earlier job\n")}
    kept = {}
    for name in ("none", "empty", "own"):
        folder = tmp_path / f"result-{name}"
        folder.mkdir()
        logs = None if name == "none" else tmp_path / name
        _place(folder, Job(out=tmp_path / "out", logs=logs, **job))
        kept[name] = (folder / "logs" / "build.log").read_text()
    assert kept == {"none": "of this one\n", "empty": "of this one\n", "own": "all of it\n"}


def status_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; of a process that is gone, none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def processes_where(field: int, values: set[int]) -> list[int]:
    """The living processes of which this field of `status_of` is one of the values."""
    found = []
    for entry in Path("/proc").iterdir():
        status = status_of(int(entry.name)) if entry.name.isdigit() else []
        if status and status[0] != "Z" and int(status[field]) in values:
            found.append(int(entry.name))
    return found


PARENT, GROUP = 1, 2


class Conversion:
    """A real conversion of examples/digits, and the processes it consists of."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.errors = folder / "errors"
        argv = ["convert", DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel", "-o", "out"]
        with self.errors.open("w") as errors:
            self.driver = subprocess.Popen(
                [sys.executable, str(ROOT / "orchestrate.py"), *map(str, argv), *options],
                cwd=folder,
                stderr=errors,
                stdout=subprocess.DEVNULL,
            )
        self.groups: set[int] = set()

    def find(self, who: str) -> int | None:
        workers = self._named({self.driver.pid}, "cmdline", "stage_extract", "stage_build")
        self.groups |= set(workers.values())
        if who in workers:
            return workers[who]
        nursery = self._named({workers.get("stage_build", -1)}, "cmdline", "nurse")
        helpers = self._named(set(nursery.values()), "comm", "export", "check")
        return {**nursery, **helpers}.get(who)

    @staticmethod
    def _named(parents: set[int], file: str, *names: str) -> dict[str, int]:
        found = {}
        for pid in processes_where(PARENT, parents):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/{file}").read_text().replace("\0", "\n")
                found |= {name: pid for name in names if name in text.splitlines()}
        return found

    def wait_for(self, who: str) -> int:
        until(lambda: self.find(who), f"{who} did not appear: {self.errors.read_text()}")
        pid = self.find(who)
        assert pid is not None
        return pid

    def left(self) -> list[int]:
        return processes_where(GROUP, self.groups)


def at_rest(pid: int) -> bool:
    """Whether a process has waited for something for a second."""
    before = status_of(pid)[11:13]
    time.sleep(1)
    return status_of(pid)[0] == "S" and status_of(pid)[11:13] == before


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("stage_extract", "extract: the extract worker"),
        ("stage_build", "build: the build worker"),
        ("nurse", "build: the process that imports TensorFlow"),
        ("export", "build: the process of stage_build.artefacts.export"),
        ("check", "build: the process of stage_build.artefacts.check"),
    ],
)
def test_whatever_process_is_killed_is_named(tmp_path, who, message):
    conversion = Conversion(tmp_path)
    pid = conversion.wait_for(who)
    if who == "nurse":  # one that dies before it is needed is started again
        os.kill(pid, signal.SIGSTOP)
        until(lambda: "build: weights" in conversion.errors.read_text(), "no weights")
        until(lambda: at_rest(conversion.wait_for("stage_build")), "the worker asks for nothing")
    os.kill(pid, signal.SIGKILL)
    assert conversion.driver.wait(120) == 6
    error = error_of(conversion.errors.read_text())
    assert error.startswith(f"error: {message} was killed by SIGKILL, as the out-of-memory killer")
    assert "fewer --formats" in error
    assert conversion.left() == []
    assert listing(tmp_path) == {"errors", "out.failed"}
    assert "build.log" in listing(tmp_path / "out.failed" / "logs")


@pytest.mark.slow
@on_linux
def test_a_process_that_hangs_in_a_build_is_found_by_the_deadline(tmp_path):
    conversion = Conversion(tmp_path, "--timeout", "30")
    os.kill(conversion.wait_for("check"), signal.SIGSTOP)
    assert conversion.driver.wait(120) == 6
    said = conversion.errors.read_text()
    late = "error: build: the build worker took longer than 30 s; its last task was 'verify class'"
    assert error_of(said).startswith(late)
    assert "in answer" in said and "in check" in said  # it waited for the checker
    assert conversion.left() == []
    assert listing(tmp_path) == {"errors", "out.failed"}


@pytest.mark.slow
@on_linux
def test_a_driver_killed_in_mid_export_leaves_no_process(tmp_path):
    conversion = Conversion(tmp_path)
    conversion.wait_for("export")
    conversion.driver.kill()
    conversion.driver.wait()
    until(lambda: not conversion.left(), "processes are left")
    for each in tmp_path.glob(".out.*"):  # the next run's to sweep
        shutil.rmtree(each)


@pytest.mark.slow
@on_linux
def test_tensorflow_computes_with_so_many_threads():
    pytest.importorskip("tensorflow")
    code = (
        "import os, re, tensorflow as tf\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "count = lambda: int(re.search(r'Threads:\\s+(\\d+)', status())[1])\n"
        "before = count()\n"
        "tf.matmul(tf.ones((900, 900)), tf.ones((900, 900)))\n"
        "print(count() - before)\n"
    )
    counts = {}
    for number in (1, 5):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment("build", sys.executable, threads=number),
            capture_output=True,
            text=True,
            check=True,
        )
        counts[number] = int(done.stdout)
    assert counts[5] - counts[1] >= 4


@pytest.mark.slow
def test_a_real_batch_keeps_the_logs_of_both_stages(tmp_path):
    pytest.importorskip("tensorflow")
    lines = [
        f'[[model]]\nname = "{name}"\nprototxt = "{DIGITS}/deploy.prototxt"\n'
        f'weights = "{DIGITS}/digits.caffemodel"\nformats = ["class"]\n'
        for name in "ab"
    ]
    (tmp_path / "c.toml").write_text("".join(lines))
    process = start(ROOT, "batch", "c.toml", "-o", "out", cwd=tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    for name in "ab":
        assert {"extract.log", "build.log"} <= listing(tmp_path / "out" / name / "logs")
