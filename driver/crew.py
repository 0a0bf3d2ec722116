"""Workers that stay: what they import is imported once, job follows job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driver.display import Display
from driver.interrupts import shielded
from driver.job import result_of
from driver.options import Options
from driver.worker import Worker, end, interpreter, path_argument
from driver.workspace import Workspace
from schemas import streams

LARGE = 1 << 30
"""Bytes at which a worker is not kept for the next job."""


class Standing:
    """Serves the jobs of one stage; a worker that died is replaced by a fresh one for the next job.

    Args:
        stage: of `driver.worker.PACKAGES`; one that serves.
        room: a folder for its temporary files; ``logs/<stage>.log`` in it takes the workers'
            stdout and stderr.
        verbose: passed on to the worker.
        threads: see `driver.environment.environment`.

    Attributes:
        log: that file.
    """

    def __init__(
        self, stage: str, room: Path, verbose: bool = False, threads: int | None = None
    ) -> None:
        self.log = room / "logs" / f"{stage}.log"
        self._stage = stage
        self._room = room
        self._verbose = verbose
        self._threads = threads
        self._worker: Worker | None = None
        self._started_with: tuple[str, bool | None] = ("", None)

    def dismiss(self) -> None:
        """Ends the worker, if there is one."""
        if self._worker is not None:
            end([self._worker])

    def warm(self, python: str | None, show: Display, gpu: bool | None = None) -> Worker:
        """The worker, started if need be under the interpreter that the user named, if one was.

        Args:
            gpu: see `driver.environment.environment`.
        """
        command = interpreter(python)
        died = self._worker is not None and self._worker.process.poll() is not None
        if died or (command, gpu) != self._started_with:
            self.dismiss()
        if self._worker is None or self._worker.ended:
            show.progress(self._stage, "starting")
            with shielded():
                self._worker = Worker(
                    self._stage,
                    ["--serve"],
                    self.log,
                    room=self._room,
                    python=command,
                    jobs=True,
                    verbose=self._verbose,
                    threads=self._threads,
                    gpu=gpu,
                )
            self._started_with = command, gpu
        return self._worker

    def run(
        self,
        argv: Sequence[str],
        work: Workspace,
        show: Display,
        *,
        python: str | None,
        gpu: bool | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The result of one job; options and errors are those of `driver.job.result_of`."""
        worker = self.warm(python, show, gpu)
        worker.send(argv)
        try:
            result = result_of(worker, show, **options)
        finally:
            worker.copy_log(work.logs)
            if worker.ended:
                work.sweep(worker.pid)
        if _peak(result) > LARGE:
            self.dismiss()
        return result


class Crew:
    """A worker a stage, for one conversion after the other.

    Args:
        room: holds the workers' logs, in a folder of that name, and their temporary files.
        verbose: passed on to the workers.
        threads: with how many each of them computes; see `driver.environment.environment`.
    """

    def __init__(self, room: Path, verbose: bool = False, threads: int | None = None) -> None:
        self.extractor = Standing("extract", room, verbose, threads)
        self.builder = Standing("build", room, verbose, threads)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Ends the workers; the next job would start others."""
        self.builder.dismiss()
        self.extractor.dismiss()

    def extract(
        self,
        net: Path,
        weights: Path | None,
        target: Path,
        options: Options,
        work: Workspace,
        show: Display,
        beside: Worker | None = None,
    ) -> dict[str, Any]:
        """Stage 1: Caffe files -> `target`, a net.h5."""
        return self.extractor.run(
            options.extract_argv(net, weights, target),
            work,
            show,
            python=options.extract_python,
            beside=beside,
            opening=hdf5_from_outside(weights),
            timeout=options.timeout,
        )

    def build(
        self,
        net: Path,
        extracted: dict[str, Any],
        made_of: Path,
        options: Options,
        work: Workspace,
        show: Display,
        outside: bool = False,
    ) -> dict[str, Any]:
        """Stage 2: net.h5, which goes into the result, -> `work`'s target.

        Args:
            extracted: stage 1's result, for the report.
            made_of: the record that is kept with the logs.
            outside: whether net.h5 was not written just now.
        """
        report = work.folder / "extract.json"
        report.write_text(json.dumps(extracted), encoding="utf-8")
        argv = options.build_argv(net, work.out)
        argv += ["--adopt", "--logs", path_argument(work.logs)]
        argv += ["--extract-report", path_argument(report), "--record", path_argument(made_of)]
        argv += ["--build-log", path_argument(self.builder.log)]
        return self.builder.run(
            argv,
            work,
            show,
            python=options.build_python,
            gpu=options.gpu,
            opening=net if outside else None,
            timeout=options.timeout,
        )


def hdf5_from_outside(path: Path | None) -> Path | None:
    """`path` if libhdf5 will open it, which goes by what it holds, whatever its name is."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            found = file.read(len(streams.SIGNATURE))
            return path if found == streams.SIGNATURE else None
    except OSError:  # told by the worker
        return None


def _peak(result: dict[str, Any]) -> int:
    """The largest size the worker itself has had, as far as it says."""
    peak = result.get("peak_bytes")
    own = peak.get("build") if isinstance(peak, dict) else peak
    return own if isinstance(own, int) else 0
