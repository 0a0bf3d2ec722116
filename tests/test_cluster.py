"""Batches on a real Dask cluster: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import distributed
import psutil
import pytest
from distributed import Client

from driver.cluster import runs, tasks
from driver.cluster.exchange import Exchange, unpack
from driver.cluster.session import Cluster, Session
from driver.options import Options
from driver.outcome import failed_document
from schemas.errors import EnvironmentProblem, MalformedModel, UsageError
from tests.paths import ROOT

DIGITS = ROOT / "examples" / "digits"
DEADLINE = 120.0
"""Seconds after which a test has hung."""


def until(found, what):
    """What `found` returns, once that is something."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.02)
    return pytest.fail(f"waited in vain for {what}")


def start(root, folder, *argv, **options):
    """A process that imports the project from `root`, with its temporary files in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, *map(str, argv)], env=env, cwd=folder, **options)


@contextmanager
def a_cluster(root, folder, workers):
    """A scheduler, and workers by their names and resources, all on this machine's own address."""
    folder.mkdir()
    file = folder / "scheduler.json"
    local = ["--no-dashboard", "--host", "127.0.0.1"]
    with (folder / "log").open("w") as log:
        said = {"stdout": log, "stderr": subprocess.STDOUT}
        processes = {
            "scheduler": start(
                root, folder, "-m", "dask", "scheduler", "--port", "0", *local,
                "--scheduler-file", file, **said,
            )
        }  # fmt: skip
        for name, resources in workers.items():
            processes[name] = start(
                root, folder, "-m", "dask", "worker", "--no-nanny", "--nthreads", "1", *local,
                "--name", name, "--resources", resources, "--local-directory", folder / name,
                "--scheduler-file", file, **said,
            )  # fmt: skip
    try:
        until(file.is_file, "the scheduler")
        address = until(lambda: json.loads(file.read_text() or "{}"), "its file")["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(len(workers), timeout=DEADLINE)
            yield SimpleNamespace(
                address=address, client=client, processes=processes, folder=folder, root=root
            )
    finally:
        children = family(processes.values())
        for process in reversed(processes.values()):  # a worker takes leave of its scheduler
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:  # Dask's worker, as the scheduler leaves it
                process.kill()
                process.wait()
        until(lambda: not any(map(alive, children)), "the end of the workers' workers")
        shutil.rmtree(folder)  # a worker that is killed leaves its files to the next one here


def family(processes):
    """All that these processes have started."""
    found = []
    for process in processes:
        try:
            found += psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return found


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """A cluster whose stages act out what their input says."""
    root = tmp_path_factory.mktemp("root")
    for stage in ("stage_extract", "stage_build"):
        (root / stage).mkdir()
        (root / stage / "__init__.py").write_text("")
        shutil.copy(ROOT / "tests" / "fake_stage.py", root / stage / "__main__.py")
    for name in ("driver", "schemas"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "orchestrate.py", root)
    workers = {"one": "caffe=1,tensorflow=1"}
    with a_cluster(root, tmp_path_factory.mktemp("cluster") / "fakes", workers) as cluster:
        yield cluster


@pytest.fixture
def here(tmp_path):
    """A folder to work in, with the catalogue of the nets that `catalogue` writes."""
    (tmp_path / "tmp").mkdir()

    def catalogue(**nets):
        for name, script in nets.items():
            (tmp_path / f"{name}.prototxt").write_text(script)
        models = [f'[[model]]\nname = "{n}"\nprototxt = "{n}.prototxt"\n' for n in nets]
        (tmp_path / "c.toml").write_text("".join(models))
        return tmp_path / "c.toml"

    return SimpleNamespace(folder=tmp_path, catalogue=catalogue, tmp=tmp_path / "tmp")


def run(root, here, *argv, expected=0):
    """A command's document, from a process of its own; nothing of it is left afterwards."""
    command = [root / "orchestrate.py", argv[0], "--json", *argv[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(root, here.tmp, *command, **pipes) as process:
        out, err = process.communicate(timeout=DEADLINE)
    document = json.loads(out)
    assert (process.returncode, err) == (expected, ""), document
    assert listing(here.tmp) == set()
    return document


def listing(folder):
    return {path.name for path in folder.iterdir()}


SUMMARIES = {"summary.html", "summary.json", "summary.md"}


def test_a_lost_worker_costs_no_model(tmp_path, here):
    """One of two builders is killed after its first build, in its second."""
    names = [f"digits{number}" for number in range(5)]
    catalogue = here.folder / "c.toml"
    catalogue.write_text(
        "".join(
            f'[[model]]\nname = "{name}"\nprototxt = {str(DIGITS / "deploy.prototxt")!r}\n'
            f"weights = {str(DIGITS / 'digits.caffemodel')!r}\n"
            for name in names
        )
    )
    workers = {"caffe": "caffe=1", "tensor1": "tensorflow=1", "tensor2": "tensorflow=1"}
    with a_cluster(ROOT, tmp_path / "cluster", workers) as cluster:
        address = {
            worker["name"]: address
            for address, worker in cluster.client.scheduler_info()["workers"].items()
        }["tensor1"]
        seen = []

        def in_its_second():
            keys = cluster.client.run(
                lambda dask_worker: [task.key for task in dask_worker.state.executing],
                workers=[address],
            )[address]
            seen.extend(key for key in keys if key not in seen)
            assert batch.poll() is None, batch.communicate()
            return len(seen) == 2

        command = [ROOT / "orchestrate.py", "batch", catalogue, "-o", here.folder / "out"]
        command += ["--formats", "class", "--scheduler", cluster.address]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with start(ROOT, here.tmp, *command, **pipes) as batch:
            try:
                until(in_its_second, "the second build of a worker")
                victim = cluster.processes["tensor1"]
                children = family([victim])
                assert children
                victim.kill()
                out, err = batch.communicate(timeout=DEADLINE)
            finally:
                batch.kill()
        assert batch.returncode == 0, (out, err)
        until(lambda: not any(map(alive, children)), "the end of the dead worker's workers")
        assert all(key.startswith("orchestrate-build-") for key in seen)
    assert listing(here.folder / "out") == {*names, *SUMMARIES}
    assert listing(here.folder) == {"c.toml", "out", "tmp"}
    assert listing(here.tmp) == set()
    models = json.loads((here.folder / "out" / "summary.json").read_text())["models"]
    assert [(model["name"], model["status"]) for model in models] == [(n, "ok") for n in names]
    for name in names:
        report = json.loads((here.folder / "out" / name / "report.json").read_text())
        assert report["status"] == "ok"
        assert sum(": ok" in line for line in err.splitlines() if f" {name}" in line) == 1, err


def convert(fakes, here, catalogue, *options, expected=0):
    argv = ["batch", catalogue, "-o", here.folder / "out", "--scheduler", fakes.address, *options]
    document = run(fakes.root, here, *argv, expected=expected)
    hidden = [path for path in here.folder.rglob(".*") if ".orchestrate" not in path.name]
    assert hidden == []
    return {model["name"]: model for model in document["models"]}


GOOD = 'warning odd\n---\nfields {"worst": {"blob": "ip1", "error": 3e-7}}\n'


@pytest.mark.parametrize("storage", [False, True], ids=["shared", "storage"])
def test_a_batch(fakes, here, storage):
    """What a cluster says of a model is what one machine says."""
    url = f"file://{here.folder}/store"
    options = ["--storage", url] if storage else []
    catalogue = here.catalogue(a=GOOD, b=GOOD)
    models = convert(fakes, here, catalogue, *options)
    alone = here.folder / "alone"
    local = run(fakes.root, here, "batch", catalogue, "-o", alone)["models"]
    for expected in local:
        found = models[expected["name"]]
        assert set(found) == set(expected)
        assert found["warnings"] == ["odd"] == expected["warnings"]
        assert found["worst"] == {"blob": "ip1", "error": 3e-7}
        assert found["out"] == str(here.folder / "out" / found["name"])
        made = here.folder / "out" / found["name"]
        assert {p.relative_to(made) for p in made.rglob("*")} == {
            p.relative_to(alone / found["name"]) for p in (alone / found["name"]).rglob("*")
        }
    if storage:
        assert listing(here.folder / "store") == set()


def test_our_errors_are_results(fakes, here):
    """They are neither tried again nor lost, and what a crash leaves comes home."""
    counts = {name: here.folder / f"{name}.count" for name in ("extract", "build")}
    note = "note {}\n".format
    models = convert(
        fakes,
        here,
        here.catalogue(
            bad=note(counts["extract"]) + "error MalformedModel broken\n---\n",
            dead=f"---\n{note(counts['build'])}print last words\nsignal SIGKILL\n",
            good=GOOD,
        ),
        expected=6,
    )
    assert {name: model["exit_code"] for name, model in models.items()} == {
        "bad": 3,
        "dead": 6,
        "good": 0,
    }
    assert "broken" in models["bad"]["error"]
    assert "SIGKILL" in models["dead"]["error"]
    assert "task-" not in json.dumps(models["bad"])
    assert [len(path.read_text().splitlines()) for path in counts.values()] == [1, 1]
    failed = here.folder / "out" / "dead.failed"
    assert models["dead"]["kept"] == str(failed)
    assert "last words" in (failed / "logs" / "build.log").read_text()


def test_an_interruption_ends_the_tasks(fakes, here):
    """Ctrl-C ends what is under way on the cluster, within seconds, and leaves nothing."""
    pid = here.folder / "pid"
    catalogue = here.catalogue(hangs=f"---\npid {pid}\nsleep 600\n", waits=GOOD)
    command = [fakes.root / "orchestrate.py", "batch", catalogue, "-o", here.folder / "out"]
    command += ["--scheduler", fakes.address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start(fakes.root, here.tmp, *command, **pipes) as batch:
        try:
            until(lambda: pid.exists() and pid.read_text(), "the build")
            worker = psutil.Process(int(pid.read_text()))
            batch.send_signal(signal.SIGINT)
            _, err = batch.communicate(timeout=DEADLINE)
        finally:
            batch.kill()
    assert batch.returncode == 130, err
    until(lambda: not alive(worker), "the end of the build")
    until(lambda: not fakes.client.processing()[address_of(fakes)], "the end of the task")
    assert listing(here.tmp) == set()
    assert listing(here.folder / "out") <= {"waits", *SUMMARIES}
    assert not list(here.folder.rglob(".*"))
    models = convert(fakes, here, here.catalogue(next=GOOD), "-q")
    assert models["next"]["status"] == "ok"


def address_of(cluster):
    (address,) = cluster.client.scheduler_info()["workers"]
    return address


def test_a_driver_that_dies_ends_the_tasks(fakes, here):
    pid = here.folder / "pid"
    catalogue = here.catalogue(hangs=f"---\npid {pid}\nsleep 600\n")
    command = [fakes.root / "orchestrate.py", "batch", catalogue, "-o", here.folder / "out"]
    with start(fakes.root, here.tmp, *command, "--scheduler", fakes.address) as batch:
        until(lambda: pid.exists() and pid.read_text(), "the build")
        worker = psutil.Process(int(pid.read_text()))
        batch.kill()
    until(lambda: not alive(worker), "the end of the build")
    convert(fakes, here, here.catalogue(next=GOOD))  # and takes away what is left


def test_what_has_not_changed_is_not_made_again(fakes, here):
    catalogue = here.catalogue(a=GOOD)
    convert(fakes, here, catalogue)
    assert convert(fakes, here, catalogue)["a"].get("unchanged") is True
    moved = here.folder / "moved"
    moved.mkdir()
    for name in ("c.toml", "a.prototxt"):
        (here.folder / name).rename(moved / name)
    options = ("--tolerance", "0.1")
    built = convert(fakes, here, moved / "c.toml", *options)["a"]
    assert built["stages"]["extract"]["reused"] is True
    # The record is of the files where they are now.
    assert convert(fakes, here, moved / "c.toml", *options)["a"].get("unchanged") is True


def test_a_result_that_is_lost_with_its_worker(tmp_path):
    """It is waited for again: Dask has it made anew."""
    session = Session(Cluster("tcp://x:1"), tmp_path, None)
    workers = {"one": {"resources": {"caffe": 1}}}
    session._client = SimpleNamespace(status="running", scheduler_info=lambda: {"workers": workers})
    answers = [distributed.TimeoutError(), distributed.TimeoutError(), {"stage": {}}]

    class Future:
        def result(self, timeout):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    future = Future()
    session._running[future] = ("caffe", "a model")
    session._ended.put(future)
    assert session.ended() == ("a model", {"stage": {}})
    assert not answers and not session._running


NOT_INSTALLED = """
import sys

class Refusing:
    def find_spec(name, path=None, target=None):
        if name == "driver":
            raise ModuleNotFoundError("No module named 'driver'")

sys.meta_path.insert(0, Refusing)
"""


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("none", "lacks what a task needs: No module named 'driver'"),
        ("older", "lacks what a task needs: "),
        ("other", "has another version of the project"),
    ],
)
def test_a_worker_with_another_version(fakes, here, tmp_path, version, expected):
    """It fails the model, says so, and stays."""
    root = tmp_path / "other"
    root.mkdir()
    if version == "none":  # whatever the tests' own Python has
        (root / "sitecustomize.py").write_text(NOT_INSTALLED)
    else:
        shutil.copytree(fakes.root, root, dirs_exist_ok=True)
        (root / "stage_build" / "more.py").write_text("")
    if version == "older":
        (root / "driver" / "cluster" / "tasks.py").write_text("")
    nets = here.catalogue(a=GOOD)
    argv = ["batch", nets, "-o", here.folder / "out"]
    with a_cluster(root, tmp_path / "cluster", {"one": "caffe=1,tensorflow=1"}) as cluster:
        known = cluster.client.scheduler_info()["workers"].keys()
        document = run(fakes.root, here, *argv, "--scheduler", cluster.address, expected=7)
        assert cluster.client.scheduler_info()["workers"].keys() == known
    assert expected in document["models"][0]["error"]


def test_a_scheduler_that_hangs(fakes, here, tmp_path):
    """Ctrl-C does not wait for it."""
    pid = here.folder / "pid"
    nets = here.catalogue(hangs=f"---\npid {pid}\nsleep 600\n")
    with a_cluster(fakes.root, tmp_path / "cluster", {"one": "caffe=1,tensorflow=1"}) as cluster:
        command = [cluster.root / "orchestrate.py", "batch", nets, "-o", here.folder / "out"]
        command += ["--scheduler", cluster.address]
        scheduler = cluster.processes["scheduler"]
        with start(cluster.root, here.tmp, *command, stderr=subprocess.DEVNULL) as batch:
            try:
                until(lambda: pid.exists() and pid.read_text(), "the build")
                scheduler.send_signal(signal.SIGSTOP)
                batch.send_signal(signal.SIGINT)
                assert batch.wait(DEADLINE) == 130
            finally:
                scheduler.send_signal(signal.SIGCONT)
                batch.kill()
        worker = psutil.Process(int(pid.read_text()))
        until(lambda: not alive(worker), "the end of the build")


def test_a_folder_that_appears_meanwhile_stays(fakes, here):
    """What is no model of ours is not replaced, whenever it came."""
    go, pid, mine = here.folder / "go", here.folder / "pid", here.folder / "out" / "a" / "mine"
    nets = here.catalogue(a=f"---\npid {pid}\nwait_for {go}\n")
    command = [fakes.root / "orchestrate.py", "batch", nets, "-o", here.folder / "out", "--json"]
    command += ["--scheduler", fakes.address]
    with start(fakes.root, here.tmp, *command, stdout=subprocess.PIPE, text=True) as batch:
        try:
            until(lambda: pid.exists() and pid.read_text(), "the build")
            mine.parent.mkdir()
            mine.touch()
            go.touch()
            out, _ = batch.communicate(timeout=DEADLINE)
        finally:
            batch.kill()
    assert mine.exists(), out
    assert "this is not a converted model" in json.loads(out)["models"][0]["error"]


def test_workers_that_stay_away(fakes, here, tmp_path, monkeypatch):
    """A model whose workers are lost too often fails; so does one that no worker can build."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    pid, go = here.folder / "pid", here.folder / "go"
    nets = here.catalogue(dies=f"---\npid {pid}\nsleep 600\n", late=f"wait_for {go}\n---\n")
    workers = {"caffe": "caffe=1", "tensor": "tensorflow=1"}
    with a_cluster(fakes.root, tmp_path / "cluster", workers) as cluster:
        command = [cluster.root / "orchestrate.py", "batch", nets, "-o", here.folder / "out"]
        command += ["--json", "--patience", "0", "--scheduler", cluster.address]
        with start(cluster.root, here.tmp, *command, stdout=subprocess.PIPE, text=True) as batch:
            try:
                until(lambda: pid.exists() and pid.read_text(), "the build")
                worker = psutil.Process(int(pid.read_text()))
                cluster.processes["tensor"].kill()
                until(lambda: len(cluster.client.scheduler_info()["workers"]) == 1, "its loss")
                go.touch()
                out, _ = batch.communicate(timeout=DEADLINE)
            finally:
                batch.kill()
        until(lambda: not alive(worker), "the end of the dead worker's build")
    dies, late = json.loads(out)["models"]
    assert (dies["exit_code"], late["exit_code"]) == (6, 7)
    assert "the Dask workers that ran it were lost, 1 of them" in dies["error"]
    assert "no Dask worker had the resource 'tensorflow'" in late["error"]
    assert f"dask worker {cluster.address} --resources tensorflow=1" in late["error"]


def test_a_scheduler_that_is_lost(fakes, here, tmp_path):
    """What is under way fails, and what waits; the driver does not wait for ever."""
    pid = here.folder / "pid"
    nets = here.catalogue(hangs=f"---\npid {pid}\nsleep 600\n", waits=GOOD)
    workers = {"one": "caffe=1,tensorflow=1"}
    with a_cluster(fakes.root, tmp_path / "cluster", workers) as cluster:
        command = [cluster.root / "orchestrate.py", "batch", nets, "-o", here.folder / "out"]
        command += ["--json", "--scheduler", cluster.folder / "scheduler.json"]
        with start(cluster.root, here.tmp, *command, stdout=subprocess.PIPE, text=True) as batch:
            try:
                until(lambda: pid.exists() and pid.read_text(), "the build")
                worker = psutil.Process(int(pid.read_text()))
                cluster.client.close()
                cluster.processes["scheduler"].kill()
                out, _ = batch.communicate(timeout=DEADLINE)
            finally:
                batch.kill()
        until(lambda: not alive(worker), "the end of the build")
    for model in json.loads(out)["models"]:
        assert model["exit_code"] == 7
        assert "the Dask scheduler was lost" in model["error"]


@pytest.mark.parametrize(
    ("address", "code", "expected"),
    [
        ("tcp://127.0.0.1:9", 7, "no Dask scheduler answers"),
        ("tls://127.0.0.1:9", 7, "no certificate for TLS is configured"),
        ("nonsense://here", 2, "--scheduler takes tcp://HOST:PORT"),
        ("missing.json", 2, "--scheduler takes tcp://HOST:PORT"),
    ],
)
def test_no_scheduler(here, address, code, expected):
    argv = ["batch", here.catalogue(a=GOOD), "-o", here.folder / "out"]
    document = run(ROOT, here, *argv, "--scheduler", address, expected=code)
    assert f"{address}: {expected}" in document["error"]
    assert not (here.folder / "out").exists() or listing(here.folder / "out") <= SUMMARIES


def test_without_the_extra(here):
    """The driver says what to install; nothing else needs the extra."""
    block = "import sys; sys.modules['distributed'] = None; import orchestrate; orchestrate.main()"
    argv = ["batch", str(here.catalogue(a=GOOD)), "-o", str(here.folder / "out")]
    with start(
        ROOT,
        here.tmp,
        *("-c", block, *argv, "--scheduler", "tcp://127.0.0.1:9"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 7
    assert "pip install '.[cluster]'" in err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://here", "a memory of its own"),
        ("nonsense://here", "--storage: "),
        ("s3://bucket/here", "s3fs"),
    ],
)
def test_a_storage_that_cannot_be(tmp_path, url, expected):
    with pytest.raises((UsageError, EnvironmentProblem), match=expected):
        Exchange(tmp_path, url)


def test_options_of_a_cluster_need_one(here):
    argv = ["batch", here.catalogue(a=GOOD), "-o", here.folder / "out"]
    for option in (["--storage", "file:///tmp"], ["--patience", "1"]):
        document = run(ROOT, here, *argv, *option, expected=2)
        assert "--scheduler, which is not given" in document["error"]


def test_a_changed_file_does_not_pass(tmp_path):
    exchange = Exchange(tmp_path / "run", None)
    exchange.make()
    (tmp_path / "file").write_text("text")
    name = exchange.put(tmp_path / "file")
    assert exchange.get(name, tmp_path / "copy").read_text() == "text"
    (stored,) = (tmp_path / "run").glob(f"*/{name}")
    stored.write_text("test")
    with pytest.raises(EnvironmentProblem, match="not as it was put there"):
        exchange.get(name, tmp_path / "copy")
    exchange.remove()
    assert listing(tmp_path / "run") == set()


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../out")],
        [member("/tmp/out")],
        [member("a/../../out")],
        [member("link", tarfile.SYMTYPE, "/etc/passwd")],
        [member("link", tarfile.LNKTYPE, "../out")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("sparse", tarfile.GNUTYPE_SPARSE)],
        [member("twice"), member("twice")],
        [member("file"), member("file/inner")],
    ],
    ids=[
        *("above", "absolute", "hidden", "symlink", "hardlink", "fifo", "sparse", "twice"),
        "below-a-file",
    ],
)
def test_a_hostile_archive(tmp_path, members):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for info in members:
            tar.addfile(info)
    with pytest.raises(MalformedModel):
        unpack(archive, tmp_path / "target")
    assert listing(tmp_path) == {"a.tar", "target"}


def test_a_cut_archive(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(5000))
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "folder", arcname=".")
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(MalformedModel, match="damaged"):
        unpack(archive, tmp_path / "target")


@pytest.mark.slow
@pytest.mark.parametrize("storage", [False, True], ids=["shared", "storage"])
def test_shards_of_a_validation(here, tmp_path, storage):
    """Scored in three shards on a cluster, a model is as good as in one run."""
    model = here.folder / "digits"
    argv = ["convert", DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel", "-o", model]
    run(ROOT, here, *argv, "--formats", "class")
    (here.folder / "own.toml").write_text(
        'resize = "none"\nchannels = "gray"\nscale = 0.00390625\n'
    )
    argv = ["validate", model, "--images", DIGITS / "test"]
    argv += ["--labels", DIGITS / "test" / "labels.txt", "--preset", here.folder / "own.toml"]
    alone = run(ROOT, here, *argv, "--results", here.folder / "alone.json")
    (here.folder / "store").mkdir()
    options = ["--storage", f"file://{here.folder}/store"] if storage else []
    options += ["--results", here.folder / "all.json", "--shards", "3"]
    with a_cluster(ROOT, tmp_path / "cluster", {"tensor": "tensorflow=2"}) as cluster:
        argv += [*options, "--scheduler", cluster.address]
        scored = run(ROOT, here, *argv)
        again = run(ROOT, here, *argv, expected=2)  # before any work
    for name in ("accuracy", "images"):
        assert scored[name] == alone[name]
    assert len(scored["runs"]) == 3
    assert "all.json: this exists already" in again["error"]
    told = [json.loads((here.folder / f"{name}.json").read_text()) for name in ("alone", "all")]
    for document in told:
        del document["runs"]
    assert told[0] == told[1]
    assert listing(here.folder / "store") == set()


def test_options_with_files_arrive(tmp_path):
    """What a task is told is plain JSON; the files are there, and messages have their old names."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "plugin").mkdir(parents=True)
    (here / "plugin" / "layer.py").write_text("meaning")
    for name in ("mean.npy", "own.toml", "reference.npz", "labels.txt"):
        (here / name).write_text(f"# {name}")
    given = Options(
        reference=here / "reference.npz",
        labels=here / "labels.txt",
        plugin=(here / "plugin",),
        mean=(f"data={here}/mean.npy", "103.9,116.8,123.7"),
        preprocess=(str(here / "own.toml"), "caffenet"),
        formats="class",
        tolerance=1e-4,
        input_shape=("data=1,3,8,8",),
    )
    session = Session(Cluster("tcp://x:1", f"file://{tmp_path}/store"), tmp_path, None)
    (tmp_path / "store").mkdir()
    session.exchange.make()
    told = json.loads(json.dumps(session.send_options(given)))
    shutil.move(here, tmp_path / "away")
    inputs = tasks._Inputs(session.exchange, there)
    found = inputs.options(told)
    assert found.reference.read_text() == "# reference.npz"
    assert found.labels.read_text() == "# labels.txt"
    assert (found.plugin[0] / "layer.py").read_text() == "meaning"
    assert Path(found.mean[0].removeprefix("data=")).read_text() == "# mean.npy"
    assert Path(found.preprocess[0]).read_text() == "# own.toml"
    for name in ("formats", "tolerance", "input_shape"):
        assert getattr(found, name) == getattr(given, name)
    assert (found.mean[1], found.preprocess[1]) == (given.mean[1], given.preprocess[1])
    message = f"{found.mean[0]}: no mean of {found.plugin[0]}"
    assert tasks._renamed(message, inputs.names) == (
        f"data={here}/mean.npy: no mean of {here}/plugin"
    )


def test_a_failure_is_told_when_its_files_do_not_arrive(tmp_path):
    exchange = Exchange(tmp_path, None)
    exchange.make()
    failed = {**failed_document(MalformedModel("broken")), "kept": "elsewhere"}
    model = runs._Model("a", tmp_path / "a", None, {})
    document = model.document({"failed": failed, "kept": "0-0", "warnings": []}, exchange)
    assert (document["error"], document["exit_code"]) == ("broken", 3)
    assert "kept" not in document
    exchange.remove()
    assert listing(tmp_path) == set()


def test_what_is_placed_is_on_the_disk(tmp_path, monkeypatch):
    """Before it has its name, so that a power cut leaves it whole or not at all."""
    fresh, out, flushed = tmp_path / "fresh", tmp_path / "out", set()
    (fresh / "logs").mkdir(parents=True)
    for name in ("net.h5", "logs/made_of.json"):
        (fresh / name).write_text(name)

    def fsync(descriptor):
        assert not out.exists()
        flushed.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    runs._place(fresh, out)
    assert flushed == {path.stat().st_ino for path in out.rglob("*") if path.is_file()}
    assert len(flushed) == 2


def test_equal_files_of_one_name_stay_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mean.npy").write_text("the same")
    session = Session(Cluster("tcp://x:1", f"file://{tmp_path}/store"), tmp_path, None)
    (tmp_path / "store").mkdir()
    session.exchange.make()
    inputs = tasks._Inputs(session.exchange, tmp_path / "there")
    for name in ("a", "b"):
        inputs.path(session.send(tmp_path / name / "mean.npy"))
    names = [str(tmp_path / name / "mean.npy") for name in ("a", "b")]
    assert list(inputs.names.values()) == names


def test_sent_files_leave_a_record(tmp_path, monkeypatch):
    """Also those that come just before a worker that waits for them: a second run knows them."""

    @contextmanager
    def at_work():
        folder = tmp_path / f"task-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        yield folder

    monkeypatch.setattr(tasks, "_at_work", at_work)
    session = Session(Cluster("tcp://x:1", f"file://{tmp_path}/store"), tmp_path, None)
    (tmp_path / "store").mkdir()
    session.exchange.make()
    sent = {
        "name": "digits",
        "out": "out/digits",
        "prototxt": session.send(DIGITS / "deploy.prototxt"),
        "weights": session.send(DIGITS / "digits.caffemodel"),
        "options": {},
    }
    try:
        for _ in range(2):
            done = tasks.extract(sent, session.exchange)
            assert [entry["path"] for entry in done["stage"]["files"]] == [
                str(DIGITS / "deploy.prototxt"),
                str(DIGITS / "digits.caffemodel"),
            ]
    finally:
        tasks.dismiss()


def test_a_recipe_of_several_files_is_not_sent(tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text('mean = "mean.npy"')
    session = Session(Cluster("tcp://x:1", f"file://{tmp_path}"), tmp_path, None)
    with pytest.raises(UsageError, match="names no other files, and this one has 'mean'"):
        session.send_options(Options(preprocess=(str(recipe),)))


def test_a_shared_folder_that_is_not_shared(tmp_path):
    inputs = tasks._Inputs(Exchange(tmp_path, None), tmp_path)
    with pytest.raises(EnvironmentProblem, match="does not see it"):
        inputs.path({"path": str(tmp_path / "elsewhere")})
