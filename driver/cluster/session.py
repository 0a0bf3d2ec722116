"""The driver's connection to a Dask cluster: the one place where it imports Dask."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from driver import interrupts
from driver.cluster.exchange import EXTRA, Exchange
from driver.cluster.tasks import dismiss, run, version
from driver.options import Options
from driver.outcome import failed_document
from driver.workspace import ScratchSpace
from schemas.errors import EnvironmentProblem, StageCrashed, UsageError

CAFFE, TENSORFLOW = "caffe", "tensorflow"
"""Resources of Dask workers: what ``--resources caffe=1`` may extract, ``tensorflow=1`` build."""

CONNECT = 5.0
"""Seconds in which a scheduler answers."""

LOOK = 1.0
"""Seconds between two looks at a cluster that says nothing."""

_ADDRESS = re.compile(r"((tcp|tls|wss?)://)?[^\s/]+:[0-9]+")

RETRIES = 2
"""How often a task is tried again that could not exchange its files."""


@dataclass(frozen=True)
class Cluster:
    """Where a cluster is.

    Attributes:
        scheduler: its scheduler's address, or the file in which that has written it.
        storage: an fsspec URL that all machines see; None where inputs and results have the same
            paths on all of them.
        patience: seconds to wait for a worker with a resource that is needed.
    """

    scheduler: str
    storage: str | None = None
    patience: float = 300.0


def named(scheduler: str | None, storage: str | None, patience: float | None) -> Cluster | None:
    """The cluster that a command line names, if it does.

    Raises:
        UsageError: what belongs to a cluster is given without one, or cannot be.
    """
    if scheduler is None:
        for option, value in (("--storage", storage), ("--patience", patience)):
            if value is not None:
                raise UsageError(f"{option} is for --scheduler, which is not given")
        return None
    if not (_ADDRESS.fullmatch(scheduler) or Path(scheduler).is_file()):
        raise UsageError(
            "--scheduler takes tcp://HOST:PORT, tls://HOST:PORT or the scheduler's file",
            scheduler,
            "check the address",
        )
    if patience is None:
        return Cluster(scheduler, storage)
    if not 0 <= patience <= threading.TIMEOUT_MAX:
        raise UsageError(f"--patience must be at least 0, not {patience:g}")
    return Cluster(scheduler, storage, patience)


class _Call:
    """A call as a pickle, made where that is loaded.

    So what a Dask worker cannot import fails a task. Were our functions the task's own, Dask would
    load them with its message, and a worker that cannot ends, and the next one with it.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class Session:
    """The driver's connection to a cluster for one run; what is still under way ends with it.

    Raises:
        EnvironmentProblem: Dask is not installed, or no scheduler answers in `CONNECT` seconds.
    """

    def __init__(self, cluster: Cluster, folder: Path, show: Any) -> None:
        self._cluster = cluster
        self._show = show
        self._distributed = _dask()
        self.exchange = Exchange(folder, cluster.storage)
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running: dict[Any, tuple[str, Any]] = {}
        self._missing: dict[str, float] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self.room = 2

    def __enter__(self) -> Session:
        self._client = self._connected()
        try:
            self.exchange.make()
            self.look()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        with interrupts.shielded():
            _within(2.0, self._cancel)
            _within(2.0, self._dismiss)
            try:
                self.exchange.remove()
            except EnvironmentProblem as problem:
                self._show.warning(str(problem))
            with contextlib.suppress(Exception):
                self._client.close(timeout=2)

    def _cancel(self) -> None:
        self._client.cancel(list(self._running), force=True)

    def _dismiss(self) -> None:
        self._client.run(dismiss, on_error="ignore")

    def _connected(self) -> Any:
        address = self._cluster.scheduler
        where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        if address.startswith("tls:") and not self._distributed.Security().tls_client_cert:
            raise EnvironmentProblem(
                "no certificate for TLS is configured",
                address,
                "set DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and the others of docs/cluster.md",
            )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                client = self._distributed.Client(
                    **where, timeout=CONNECT, set_as_default=False, name="orchestrate"
                )
            except Exception as error:
                raise EnvironmentProblem(
                    f"no Dask scheduler answers: {' '.join(str(error).split()) or 'it is silent'}",
                    address,
                    "check the address, and that the scheduler runs",
                ) from error
        for each in said:
            if issubclass(each.category, self._distributed.versions.VersionMismatchWarning):
                self._show.warning(f"{address}: {' '.join(str(each.message).split())}")
        return client

    def submit(self, tag: Any, task: Callable[..., Any], *args: Any, resource: str) -> None:
        """Starts a task, on a worker with `resource`; `ended` tells `tag` when it is over."""
        future = self._client.submit(
            pickle.loads,
            pickle.dumps(_Call(run, version(), task, *args, self.exchange)),
            key=f"orchestrate-{task.__name__}-{uuid.uuid4().hex}",
            resources={resource: 1},
            retries=RETRIES,
            pure=False,
        )
        self._running[future] = (resource, tag)
        future.add_done_callback(self._ended.put)

    def ended(self) -> tuple[Any, dict[str, Any]]:
        """The tag of the next task that is over, and what it returned.

        A task that Dask gave up has a failure in place of that.

        Raises:
            EnvironmentProblem: no worker has had a needed resource for as long as was to be waited.
        """
        while True:
            try:
                future = self._ended.get(timeout=LOOK)
            except queue.Empty:
                self.look()
                continue
            resource, tag = self._running.pop(future)
            try:
                result: dict[str, Any] = future.result(timeout=CONNECT)
                return tag, result
            except Exception as error:
                late = isinstance(error, self._distributed.TimeoutError)
                if late and self._client.status == "running":
                    # Lost with its worker: Dask has it made again.
                    self._running[future] = resource, tag
                    self._ended.put(future)
                    self.look()
                    continue
                return tag, {"failed": failed_document(self._lost(error)), "warnings": []}
            except self._distributed.CancelledError as error:
                return tag, {"failed": failed_document(self._lost(error)), "warnings": []}

    def _lost(self, error: BaseException) -> BaseException:
        """Why Dask has no result, for the user."""
        distributed = self._distributed
        if isinstance(error, distributed.KilledWorker):
            return StageCrashed(
                f"the Dask workers that ran it were lost, {error.allowed_failures + 1} of them, "
                f"the last at {error.last_worker.address}",
                hint="out of memory? see the logs of these workers",
            )
        if isinstance(error, distributed.CancelledError | distributed.TimeoutError):
            return EnvironmentProblem(
                "the Dask scheduler was lost", self._cluster.scheduler, "start it and run again"
            )
        if isinstance(error, ImportError | AttributeError):
            return EnvironmentProblem(
                f"a Dask worker lacks what a task needs: {error}",
                self._cluster.scheduler,
                "install this project there, of the same version",
            )
        return error

    def look(self) -> None:
        """Looks which workers there are."""
        if self._client.status != "running":
            return  # its futures are about to be cancelled
        workers = self._client.scheduler_info().get("workers", {}).values()
        self.room = 2 + 2 * len(workers)
        needed = {resource for resource, _ in self._running.values()}
        for resource in needed:
            if self.slots(resource, workers):
                self._missing.pop(resource, None)
            else:
                self._miss(resource)

    def slots(self, resource: str, workers: Any = None) -> int:
        """How many tasks that need `resource` the cluster can do at once."""
        if workers is None:
            workers = self._client.scheduler_info().get("workers", {}).values()
        return sum(int(worker["resources"].get(resource, 0)) for worker in workers)

    def _miss(self, resource: str) -> None:
        since = self._missing.setdefault(resource, time.monotonic())
        hint = f"start one: dask worker {self._cluster.scheduler} --resources {resource}=1"
        if time.monotonic() - since >= self._cluster.patience:
            raise EnvironmentProblem(
                f"for {self._cluster.patience:g} s no Dask worker had the resource {resource!r}",
                self._cluster.scheduler,
                hint,
            )
        self._show.warning(f"no Dask worker has the resource {resource!r}; {hint}")

    def send(self, path: Path) -> dict[str, Any]:
        """A file or folder for a task: its path here, and the name it is exchanged under, if so."""
        place = os.path.abspath(path)
        if self.exchange.shared:
            return {"path": place}
        if place not in self._known:
            folder = path.is_dir()
            if folder:
                with ScratchSpace("send") as scratch:
                    name = self.exchange.put_folder(path, scratch.folder)
            else:
                name = self.exchange.put(path)
            self._known[place] = {"path": place, "name": name, "folder": folder}
        return self._known[place]

    def send_options(self, options: Options) -> dict[str, Any]:
        """All options that are set."""
        return {
            field.name: self.sent(field.name, value)
            for field in fields(options)
            if (value := getattr(options, field.name)) != field.default
        }

    def sent(self, name: str, value: Any) -> Any:
        """The value of an option, as a value that any Python can read."""
        if isinstance(value, tuple):
            return [self.sent(name, item) for item in value]
        if isinstance(value, Path):
            return self.send(value)
        if name in ("mean", "preprocess", "preset"):
            before, equals, rest = str(value).rpartition("=")
            if (path := Path(rest)).is_file():
                self._check_recipe(path)
                return {**self.send(path), "before": before + equals}
        return value

    def _check_recipe(self, path: Path) -> None:
        """A TOML file is sent alone: those that it names would stay behind."""
        if self.exchange.shared or path.suffix != ".toml":
            return
        from driver.catalogue import tomllib

        try:
            told = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return  # told by the worker
        for name in ("labels", "mean"):
            if isinstance(told.get(name), str):
                raise UsageError(
                    f"with --storage a recipe names no other files, and this one has {name!r}",
                    str(path),
                    f"pass --{name}",
                )


def _dask() -> Any:
    """The package distributed, whose own log would disturb the display."""
    try:
        import distributed
    except ImportError as error:
        raise EnvironmentProblem(
            f"package {error.name!r} cannot be imported: {error}", hint=EXTRA
        ) from error
    for name in [
        name for name in logging.root.manager.loggerDict if name.startswith("distributed")
    ]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Gives `action` that time, and goes on without it."""

    def run() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
