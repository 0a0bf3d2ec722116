"""What a run on a Dask cluster has its workers do.

Tasks run in Dask's workers, and there start our workers as a run on one machine does. Whatever they
make they put into an `Exchange`, under a name that they return. So a task may run again, elsewhere,
when the Dask worker that had it is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from driver import interrupts, record
from driver.cluster.exchange import Exchange
from driver.crew import Crew
from driver.digests import CLOCK_TICK, code_digest
from driver.display import Display
from driver.job import run_job
from driver.options import Options
from driver.outcome import failed_document
from driver.worker import ROOT
from driver.workspace import ScratchSpace, Workspace
from schemas.errors import EnvironmentProblem

MAX_LOG = 1 << 18  # bytes

IDLE = 60.0
"""Seconds for which our workers wait for the next task before they are ended."""


def version() -> str:
    """What tells this project from another version of it."""
    return code_digest(ROOT, ("driver", "schemas", "stage_extract", "stage_build"))


def run(asked: str, task: Callable[..., Any], *args: Any) -> Any:
    """Runs a task for a driver of the version `asked`.

    Raises:
        EnvironmentProblem: this is another one, whose results would be taken for that one's.
    """
    if asked != version():
        raise EnvironmentProblem(
            "this Dask worker has another version of the project",
            socket.gethostname(),
            "install the same one on all machines, and start the Dask worker again",
        )
    return task(*args)


class _Cancelled(Exception):
    """Nobody waits for this task any more."""


class _Crews:
    """Our workers of this process: lent to a task at a time, ended when idle for long.

    When this process is killed they end by themselves: their stdin is closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[Crew, Path, threading.Timer]] = []

    @contextlib.contextmanager
    def lent(self, folder: Path) -> Iterator[Crew]:
        """A crew that is idle, or a new one with its room in `folder`."""
        crew, room = self._take() or self._new(folder)
        try:
            yield crew
        finally:
            timer = threading.Timer(IDLE, self._end, [crew])
            timer.daemon = True
            with self._lock:
                self._idle.append((crew, room, timer))
            timer.start()

    def _take(self) -> tuple[Crew, Path] | None:
        with self._lock:
            if not self._idle:
                return None
            crew, room, timer = self._idle.pop()
        timer.cancel()
        return crew, room

    def _new(self, folder: Path) -> tuple[Crew, Path]:
        room = folder / f"crew-{uuid.uuid4().hex}"
        (room / "logs").mkdir(parents=True)
        return Crew(room), room

    def _end(self, only: Crew | None = None) -> None:
        with self._lock:
            ended = [idle for idle in self._idle if only in (None, idle[0])]
            self._idle = [idle for idle in self._idle if idle not in ended]
        for crew, room, timer in ended:
            timer.cancel()
            crew.dismiss()
            shutil.rmtree(room, ignore_errors=True)

    def dismiss(self) -> None:
        """Ends the workers that have nothing to do."""
        self._end()


_crews = _Crews()
atexit.register(_crews.dismiss)


def dismiss() -> None:
    """Ends our idle workers of this process; the driver's last word to each Dask worker."""
    _crews.dismiss()


@contextlib.contextmanager
def _at_work() -> Iterator[Path]:
    """A folder for a task, gone with it; our workers end when the task is cancelled."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        open_ = worker.status.name in ("running", "paused")
        return task is None or task.state != "executing" or not open_

    folder = Path(worker.local_directory).absolute() / f"task-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        with interrupts.asking(cancelled):
            yield folder
    except KeyboardInterrupt:
        raise _Cancelled from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Inputs:
    """The files that a task was sent, as they are on this machine.

    Attributes:
        names: their paths here -> what the user calls them.
    """

    def __init__(self, exchange: Exchange, folder: Path) -> None:
        self._exchange = exchange
        self._folder = folder
        self.names: dict[str, str] = {}

    def path(self, sent: Mapping[str, Any] | None) -> Path | None:
        """Where a file or folder is.

        Raises:
            EnvironmentProblem: this machine does not see it.
        """
        if sent is None:
            return None
        original = Path(sent["path"])
        if "name" not in sent:
            if not original.exists():
                raise EnvironmentProblem(
                    f"the machine {socket.gethostname()} does not see it",
                    str(original),
                    "share the folder under the same path, or pass --storage",
                )
            return original
        # Not its hash: two files of the same content and name are still two.
        target = self._folder / "inputs" / sent["name"].rpartition("-")[2] / original.name
        if not target.exists() and sent["folder"]:
            self._exchange.get_folder(sent["name"], target, self._folder)
        elif not target.exists():
            self._exchange.get(sent["name"], target)
        self.names[str(target)] = sent["path"]
        return target

    def value(self, sent: Any) -> Any:
        """The value of an option."""
        if isinstance(sent, list):
            return tuple(self.value(item) for item in sent)
        if not isinstance(sent, dict):
            return sent
        path = self.path(sent)
        return path if sent.get("before") is None else f"{sent['before']}{path}"

    def options(self, sent: Mapping[str, Any]) -> Options:
        """The options of a conversion."""
        return Options(**{name: self.value(value) for name, value in sent.items()})


def extract(model: Mapping[str, Any], exchange: Exchange) -> dict[str, Any]:
    """The task of stage 1: ``{"stage", "log", "net", "warnings"}``, or ``{"failed"}``."""
    with _at_work() as folder:
        inputs = _Inputs(exchange, folder)
        options = inputs.options(model["options"])
        net, weights = inputs.path(model["prototxt"]), inputs.path(model["weights"])
        assert net is not None
        if not exchange.shared:
            time.sleep(2e-9 * CLOCK_TICK)  # no record is made of files that are just written
        interchange = folder / "net.h5"

        def run(work: Workspace, crew: Crew, show: Display) -> dict[str, Any]:
            return crew.extract(net, weights, interchange, options, work, show)

        done = _stage(run, model, inputs, exchange, folder)
        if "stage" in done:
            done["net"] = exchange.put(interchange)
        return done


def build(
    extracted: Mapping[str, Any], model: Mapping[str, Any], exchange: Exchange
) -> dict[str, Any]:
    """The task of stage 2: ``{"stage", "log", "out", "warnings"}``, or ``{"failed"}``."""
    with _at_work() as folder:
        inputs = _Inputs(exchange, folder)
        options = inputs.options(model["options"])
        interchange = exchange.get(extracted["net"], folder / "net.h5")
        made_of = folder / record.MADE_OF  # a place for what the driver alone can tell
        made_of.write_text("{}", encoding="utf-8")
        out = folder / "made" / model["name"]

        def run(work: Workspace, crew: Crew, show: Display) -> dict[str, Any]:
            if "log" in extracted:
                (work.logs / "extract.log").write_text(extracted["log"], encoding="utf-8")
            return crew.build(interchange, extracted["stage"], made_of, options, work, show)

        done = _stage(run, model, inputs, exchange, folder)
        if "stage" in done:
            done["out"] = exchange.put_folder(out, folder)
        return done


def _stage(
    run: Callable[[Workspace, Crew, Display], dict[str, Any]],
    model: Mapping[str, Any],
    inputs: _Inputs,
    exchange: Exchange,
    folder: Path,
) -> dict[str, Any]:
    """Runs one of our workers. Its failure is a result; one of the exchange is Dask's to retry."""
    out = folder / "made" / model["name"]
    show = Display(progress=False, messages=False)
    names = {**inputs.names, str(out): model["out"], f"{folder}{os.sep}": ""}
    began = time.monotonic()
    try:
        with Workspace(out) as work, _crews.lent(folder.parent) as crew:
            found = run(work, crew, show)
            log = _log(work.logs / "extract.log")
    except Exception as problem:
        document = {**failed_document(problem), "seconds": time.monotonic() - began}
        left = out.with_name(out.name + ".failed")
        kept = exchange.put_folder(left, folder) if left.is_dir() else None
        done = {"failed": document, "kept": kept, "warnings": show.take_warnings()}
    else:
        del found["out"]
        done = {"stage": found, "log": log, "warnings": show.take_warnings()}
    said: dict[str, Any] = _renamed(done, names)
    return said


def _log(path: Path) -> str:
    """The end of a worker's log, for the logs of the result."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - MAX_LOG))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with the paths of this machine as the user calls them."""
    if isinstance(value, str):
        for here, there in names.items():
            value = value.replace(here, there)
        return value
    if isinstance(value, dict):
        return {name: _renamed(item, names) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return value


def score(request: Mapping[str, Any], shard: str, exchange: Exchange) -> dict[str, Any]:
    """The task of a shard of a validation: ``{"results"}``, or ``{"failed"}``, a document."""
    from driver.validation import Request

    with _at_work() as folder:
        inputs = _Inputs(exchange, folder)
        given = {name: inputs.value(value) for name, value in request["given"].items()}
        results = folder / "results.json"
        others = {name: inputs.value(value) for name, value in request["others"].items()}
        asked = Request(**given, results=results, shard=shard, force=False, others=others)
        show = Display(progress=False, messages=False)
        try:
            with ScratchSpace("validate") as work:
                run_job(
                    "validate",
                    asked.argv(),
                    work,
                    show,
                    python=request["python"],
                    gpu=request["gpu"],
                    timeout=request["timeout"],
                )
        except Exception as problem:
            failed = failed_document(problem)
            return dict(_renamed({"failed": failed}, {**inputs.names, f"{folder}{os.sep}": ""}))
        return {"results": exchange.put(results)}
